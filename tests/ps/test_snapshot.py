"""States and their bytes: what was written down goes on to the same bits, and a damaged snapshot is never taken."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from ps.averager import Averager, AverageSettings
from ps.consistency import ConsistencySettings
from ps.correction_settings import CORRECTIONS, CorrectionSettings
from ps.errors import SnapshotDamaged
from ps.layout import Layout, TensorSpec
from ps.messages import AVERAGER, CloseRound, Exchange, Outcome, Push, Reading, Sample, SampleTaken
from ps.rules import RuleSettings
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.snapshot import decode, encode
from ps.states import AveragerState, ShardState, State
from ps.streams import numpy_stream, torch_stream

N = 40
WORKERS = 3
LAYOUT = Layout((TensorSpec("weight", (5, 7)), TensorSpec("bias", (5,), 2.0, 0.0)), 1)
SCHEDULE = ScheduleSettings(kind="cosine", rate=0.1).build(100, 1000)


def draw(name: str) -> Tensor:
    return torch.randn(N, generator=torch_stream(0, name))


def make(rule: str = "momentum", correction: str = "none", consistency: str = "async") -> Shard:
    settings = RuleSettings(rule=rule, weight_decay=0.01)
    return Shard(
        0, 1, draw("weights"), LAYOUT.segments(0), settings.build(), 0.01, SCHEDULE, 4,
        CorrectionSettings(correction).build(settings, WORKERS, N), ConsistencySettings(consistency).staging(WORKERS),
    )  # fmt: skip


def work(shard: Shard, first: int, leases: int) -> list[Tensor]:
    """Let the workers take turns with so many leases; return what each pull read."""
    read: dict[int, Reading] = {}
    pulled = []
    for worker in range(WORKERS):
        weights_N = torch.zeros(N)
        shard.handle(0.0, Exchange(worker, 100 * first, 0, None, weights_N))
        read[worker] = Reading(shard.incarnation, shard.version)
    for lease in range(first, first + leases):
        worker = lease % WORKERS
        weights_N = torch.zeros(N)
        push = Push(lease, 0, 5, (read[worker],), draw(f"gradient {lease}"))
        out = shard.handle(0.0, Exchange(worker, 100 * first + lease + 1, 0, push, weights_N))
        read[worker] = out[-1][1].reading  # type: ignore[union-attr]
        pulled.append(weights_N)
        for to, item in out:
            if to == AVERAGER and shard.version % 3:  # now and then one is left waiting
                assert isinstance(item, Sample)
                shard.handle(0.0, SampleTaken(0, item.incarnation, item.version))
    return pulled


def same(a: Any, b: Any) -> bool:
    """To the bit, vectors included."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def through(state: State) -> State:
    return decode(b"".join(encode(state)), "snapshot")


CASES = [
    *[("momentum", correction) for correction in CORRECTIONS],
    *[(rule, "none") for rule in ("sgd", "nesterov", "adagrad", "adamw", "rmsprop")],
]


@pytest.mark.parametrize(("rule", "correction"), CASES)
def test_a_shard_that_comes_back_goes_on_to_the_same_bits(rule: str, correction: str) -> None:
    shard = make(rule, correction)
    work(shard, 0, 20)
    state = through(shard.state())
    assert same(state, shard.state())
    again = make(rule, correction)
    assert isinstance(state, ShardState)
    again.recall(state, state.openings)
    assert same(again.state(), state)
    assert all(map(torch.equal, work(shard, 20, 20), work(again, 20, 20)))
    assert same(again.state(), shard.state())


def test_a_state_is_a_copy() -> None:
    shard = make(correction="gap-aware")
    work(shard, 0, 10)
    state = shard.state()
    before = through(state)
    work(shard, 10, 10)
    assert same(state, before)
    assert not same(state, shard.state())


def test_gradients_that_wait_for_their_round_come_back() -> None:
    shard = make(consistency="sync")
    work(shard, 0, 2)
    again = make(consistency="sync")
    state = through(shard.state())
    assert isinstance(state, ShardState)
    again.recall(state, (0, 0))
    for each in (shard, again):
        each.handle(0.0, CloseRound(1, 1, (0, 1), 3, False))
    assert torch.equal(shard._w_N, again._w_N)


def test_a_shard_refuses_the_state_of_another() -> None:
    state = make().state()
    other = Shard(1, 2, draw("weights"), LAYOUT.segments(0), RuleSettings().build(), 0.0, SCHEDULE, 0)
    with pytest.raises(ValueError, match="shard 1 of 40 parameters got the state of shard 0, with 40"):
        other.recall(state, (0,))
    assert other.version == 0


@pytest.mark.parametrize("kind", ["exponential", "uniform"])
def test_an_averager_that_comes_back_goes_on_to_the_same_bits(kind: str) -> None:
    def averager() -> Averager:
        return Averager((N, N), AverageSettings(kind=kind, start=0.0), 100)

    def feed(machine: Averager, versions: range) -> None:
        for version in versions:
            machine.handle(0.0, Sample(version % 2, 0, version, draw(f"sample {version}")))

    first, again = averager(), averager()
    feed(first, range(1, 10))
    state = through(first.state())
    assert isinstance(state, AveragerState)
    feed(first, range(10, 20))
    again.recall(state)
    feed(again, range(10, 20))
    assert same(first.state(), again.state())


# --- readings of an earlier incarnation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("incarnation", "version", "outcome"),
    [(0, 6, "applied"), (0, 7, "refused"), (1, 6, "applied"), (1, 9, "applied"), (2, 6, "refused"), (-1, 0, "refused")],
)
def test_what_was_read_before_the_loss_is_good_and_what_was_lost_is_refused(
    incarnation: int, version: int, outcome: str
) -> None:
    shard = make()
    work(shard, 0, 6)
    state = shard.state()
    work(shard, 6, 4)
    again = make()
    again.recall(state, (0, 6))
    work(again, 20, 3)
    before = again.state()
    push = Push(50, 0, 5, (Reading(incarnation, version),), draw("late"))
    _, answer = again.handle(0.0, Exchange(0, 9000, 0, push, torch.zeros(N)))[-1]
    assert getattr(answer, "outcome", None) == (Outcome.APPLIED if outcome == "applied" else None)
    assert (again.version == before.version + 1) == (outcome == "applied")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_cut_at_any_byte_of_its_head_or_anywhere_else_is_refused() -> None:
    shard = make(correction="dana")
    work(shard, 0, 20)
    data = b"".join(encode(shard.state()))
    head = len(data) - sum(4 * N for piece in encode(shard.state())[3:])
    assert 100 < head < len(data)
    cuts = [*range(head + 1), *map(int, numpy_stream(0, "cuts").integers(head, len(data), 100))]
    for cut in cuts:
        with pytest.raises(SnapshotDamaged, match="snapshot: "):
            decode(data[:cut], "snapshot")


def test_a_snapshot_with_any_changed_byte_is_refused() -> None:
    data = bytearray(b"".join(encode(make().state())))
    for at in range(0, len(data), 7):
        data[at] ^= 0x40
        with pytest.raises(SnapshotDamaged, match="snapshot: "):
            decode(bytes(data), "snapshot")
        data[at] ^= 0x40
    decode(bytes(data), "snapshot")


def test_a_snapshot_of_another_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ps.snapshot.FORMAT", 3)
    data = b"".join(encode(make().state()))
    monkeypatch.undo()
    with pytest.raises(SnapshotDamaged, match=r"ShardState in format 3, this program reads .* in format 2"):
        decode(data, "snapshot")


def test_a_shard_without_parameters_has_a_state_too() -> None:
    empty = Shard(0, 1, torch.empty(0), (), RuleSettings().build(), 0.0, SCHEDULE, 0)
    assert same(through(empty.state()), empty.state())
