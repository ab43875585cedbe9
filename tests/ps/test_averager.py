"""The averager against closed forms, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ps.averager import Averager, AveragerStatus, AverageSettings
from ps.errors import BadInput
from ps.journal import SampleAveraged
from ps.messages import JOURNAL, Address, Read, ReadDone, Role, Sample, SampleTaken, Tick
from ps.streams import torch_stream

ELEMENTS = (7, 5)
READER = Address(Role.WORKER, -1)
EXPONENTIAL = AverageSettings(kind="exponential", decay=0.9)
UNIFORM = AverageSettings(kind="uniform", start=0.5)


def weights(shard: int, version: int) -> Tensor:
    return torch.randn(ELEMENTS[shard], generator=torch_stream(shard, f"weights/{version}"))


def feed(averager: Averager, versions: list[int], shard: int = 0) -> None:
    for version in versions:
        averager.handle(0.0, Sample(shard, 0, version, weights(shard, version)))


def read(averager: Averager, shard: int = 0) -> tuple[Tensor, ReadDone]:
    out_N = torch.full((ELEMENTS[shard],), torch.nan)
    ((to, answer),) = averager.handle(0.0, Read(READER, 6, shard, out_N))
    assert to == READER
    assert isinstance(answer, ReadDone)
    return out_N, answer


@pytest.fixture(params=[EXPONENTIAL, UNIFORM], ids=["exponential", "uniform"])
def averager(request: pytest.FixtureRequest) -> Iterator[Averager]:
    """Either kind; at its end, what is averaged of no version is zero."""
    made = Averager(ELEMENTS, request.param, updates=8)
    yield made
    for part in made._slices:
        assert part.count <= part.version
        assert part.count > 0 or not part.a_N.any()


@pytest.mark.parametrize("count", [1, 2, 30])
def test_exponential_is_the_bias_corrected_weighted_mean(count: int) -> None:
    averager = Averager(ELEMENTS, EXPONENTIAL, updates=100)
    feed(averager, [4 * i for i in range(1, count + 1)])
    d = 0.9
    shares = torch.tensor([(1 - d) * d ** (count - i) / (1 - d**count) for i in range(1, count + 1)])
    assert float(shares.sum()) == pytest.approx(1.0)
    expected_N = sum(share * weights(0, 4 * i) for i, share in enumerate(shares, start=1))
    average_N, answer = read(averager)
    torch.testing.assert_close(average_N, expected_N)
    assert answer == ReadDone(6, 0, 4 * count, count)


def test_uniform_is_the_mean_from_its_start_on() -> None:
    averager = Averager(ELEMENTS, UNIFORM, updates=20)  # from version 10 on
    feed(averager, [4, 8, 10, 12, 16, 20])
    average_N, answer = read(averager)
    torch.testing.assert_close(average_N, torch.stack([weights(0, v) for v in (10, 12, 16, 20)]).mean(0))
    assert answer == ReadDone(6, 0, 20, 4)


def test_a_sample_is_journaled_and_its_buffer_given_back(averager: Averager) -> None:
    sample_N = weights(1, 4)
    assert averager.handle(2.5, Sample(1, 3, 4, sample_N)) == [
        (JOURNAL, SampleAveraged(2.5, 1, 3, 4, True)),
        (Address(Role.SHARD, 1), SampleTaken(1, 3, 4)),
    ]
    average_N, _ = read(averager, 1)
    sample_N.fill_(torch.nan)
    assert torch.equal(read(averager, 1)[0], average_N), "it kept no reference to the buffer"
    torch.testing.assert_close(average_N, weights(1, 4))


def test_a_version_before_the_start_is_given_back_and_not_counted() -> None:
    averager = Averager(ELEMENTS, UNIFORM, updates=20)
    assert averager.handle(2.5, Sample(0, 0, 8, weights(0, 8))) == [
        (JOURNAL, SampleAveraged(2.5, 0, 0, 8, False)),
        (Address(Role.SHARD, 0), SampleTaken(0, 0, 8)),
    ]
    assert averager.status() == AveragerStatus((8, 0), (0, 0))


@pytest.mark.parametrize(("incarnation", "version"), [(0, 8), (1, 8), (1, 4)])
def test_a_version_counts_once(averager: Averager, incarnation: int, version: int) -> None:
    """After a restore a shard repeats versions; the first incarnation's count."""
    feed(averager, [4, 8])
    before_N, _ = read(averager)
    repeated = Sample(0, incarnation, version, torch.ones(7))
    assert averager.handle(1.0, repeated) == [
        (JOURNAL, SampleAveraged(1.0, 0, incarnation, version, False)),
        (Address(Role.SHARD, 0), SampleTaken(0, incarnation, version)),
    ]
    average_N, answer = read(averager)
    assert torch.equal(average_N, before_N)
    assert answer == ReadDone(6, 0, 8, 2)


def test_shards_are_averaged_apart(averager: Averager) -> None:
    feed(averager, [4, 8], shard=1)
    assert averager.status() == AveragerStatus((0, 8), (0, 2))
    feed(averager, [4], shard=0)
    assert averager.status() == AveragerStatus((4, 8), (1, 2))
    torch.testing.assert_close(read(averager, 0)[0], weights(0, 4))


def test_before_any_version_the_answer_says_that_there_is_none(averager: Averager) -> None:
    average_N, answer = read(averager)
    assert answer == ReadDone(6, 0, 0, 0)
    assert not average_N.any()


def test_reading_changes_nothing(averager: Averager) -> None:
    feed(averager, [4, 8])
    first = read(averager)
    again = read(averager)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]


def test_a_message_for_another_machine_is_an_error(averager: Averager) -> None:
    with pytest.raises(TypeError, match="averager got Tick: it handles Sample and Read"):
        averager.handle(0.0, Tick())


def test_the_decay_is_as_given_or_looks_back_on_a_share_of_the_run() -> None:
    assert AverageSettings(decay=0.97).decay_for(10) == 0.97
    chosen = AverageSettings(every=4, window=0.05).decay_for(80_000)
    assert chosen == 1 - 1 / 1000  # 0.05 of 80,000 updates are 1000 versions that count
    assert AverageSettings(every=4, window=0.05).decay_for(10) == 0.5, "in a short run at least two versions"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every", 0),
        ("decay", -0.1),
        ("decay", 1.0),
        ("window", 0.0),
        ("window", 1.5),
        ("start", -0.1),
        ("start", 1.0),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"^average\.{name}: got {value}, expected "):
        AverageSettings(**{name: value})  # type: ignore[arg-type]


def test_an_unknown_kind_suggests_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"got 'unifrom', expected one of .* \(did you mean \"uniform\"\?\)$"):
        AverageSettings(kind="unifrom")
