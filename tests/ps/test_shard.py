"""The shard as a script: messages in, exact replies out, and whatever is refused leaves every bit as it was."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import pytest
import torch
from msgspec import structs
from torch import Tensor

from ps.intervals import Interval
from ps.journal import ExchangeRefused, PullHandled, PushHandled, SampleSent, SampleSkipped, ShardOpened
from ps.layout import Layout, Segment, TensorSpec
from ps.messages import (
    AVERAGER,
    JOURNAL,
    LEDGER,
    Address,
    Exchange,
    Exchanged,
    Has,
    Message,
    Outcome,
    Push,
    Read,
    ReadDone,
    Reading,
    Refusal,
    Refused,
    Role,
    Sample,
    SampleTaken,
    Tick,
    WhoHas,
)
from ps.rules import AdamW, Momentum, Rule
from ps.samples import WAITING_SAMPLES
from ps.schedule import Schedule, ScheduleSettings
from ps.shard import MOST_SAMPLES, Outbox, Shard
from ps.streams import torch_stream

N = 40
NOW = 12.5
RULE = Momentum(0.9)
CONSTANT = ScheduleSettings(rate=0.1).build(1000, 1000)
HALVING = ScheduleSettings(kind="step", rate=0.1, factor=0.5, every_epochs=1.0).build(8, 800)  # every 8 samples


def draw(name: str, elements: int = N) -> Tensor:
    return torch.randn(elements, generator=torch_stream(0, name))


def read(*versions: int) -> tuple[Reading, ...]:
    return tuple(Reading(0, version) for version in versions)


@dataclass(frozen=True)
class State:
    """Everything that a refused message must leave alone, copied."""

    version: int
    samples: int
    applied: tuple[Interval, ...]
    staleness: dict[int, int]
    duplicates: int
    vectors: tuple[Tensor, ...]

    @classmethod
    def of(cls, shard: Shard) -> State:
        vectors = tuple(vector_N.clone() for vector_N in (shard._w_N, *shard._slots))
        return cls(
            shard.version,
            shard.samples,
            shard.applied.intervals(),
            dict(shard.staleness),
            shard.duplicates,
            vectors,
        )

    def same(self, other: State) -> bool:
        plain = replace(self, vectors=()) == replace(other, vectors=())
        return plain and all(torch.equal(a_N, b_N) for a_N, b_N in zip(self.vectors, other.vectors, strict=True))


def check_invariants(shard: Shard) -> None:
    assert shard.version == len(shard.applied) == shard.staleness.total()
    waiting = shard._samples
    assert len(waiting.free) + len(waiting.sent) in (0, WAITING_SAMPLES)
    pointers = [buffer_N.data_ptr() for buffer_N in (*waiting.free, *waiting.sent.values(), shard._w_N)]
    assert len(set(pointers)) == len(pointers)


Make = Callable[..., Shard]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes shards, and checks their invariants at the end."""
    made: list[Shard] = []

    def one(index: int = 0, shards: int = 1, every: int = 0, schedule: Schedule = CONSTANT, rule: Rule = RULE) -> Shard:
        made.append(
            Shard(index, shards, draw("weights"), (Segment(0, N, 1.0, 1.0),), rule, 0.01, schedule, every),
        )
        return made[-1]

    yield one
    for shard in made:
        check_invariants(shard)


def exchange(
    number: int, lease: int | None = None, version: int = 0, pull: bool = True, attempt: int = 0, samples: int = 4
) -> Exchange:
    """Exchange `number` of worker 3 with shard 0 of 1; the gradient is drawn from the lease."""
    push = None
    if lease is not None:
        push = Push(lease, attempt, samples, read(version), draw(f"gradient/{lease}"))
    return Exchange(3, number, 0, push, torch.full((N,), math.nan) if pull else None)


WORKER = Address(Role.WORKER, 3)


# --- exchanges -------------------------------------------------------------------------------------------------------


def test_it_opens_with_what_it_holds(make: Make) -> None:
    shard = make(1, 2)
    weights_N = torch.empty(N)
    shard.handle(NOW, Read(WORKER, 1, 1, weights_N))
    digest = sha256(weights_N.numpy().tobytes()).hexdigest()
    assert shard.opened(NOW) == ShardOpened(NOW, 1, 2, 0, 0, 0, N, digest)


def test_a_pull_copies_the_weights_and_changes_nothing(make: Make) -> None:
    shard = make()
    before = State.of(shard)
    message = exchange(7)
    assert shard.handle(NOW, message) == [
        (JOURNAL, PullHandled(NOW, 3, 7, 0)),
        (WORKER, Exchanged(7, 0, Outcome.NONE, Reading(0, 0), 0, None)),
    ]
    assert message.weights_N is not None
    assert torch.equal(message.weights_N, draw("weights"))
    assert State.of(shard).same(before)


def test_a_push_is_applied_and_the_pull_in_the_same_exchange_reads_the_result(make: Make) -> None:
    shard = make()
    message = exchange(1, lease=5)
    assert message.push is not None
    assert shard.handle(NOW, message) == [
        (JOURNAL, PushHandled(NOW, 3, 1, 5, 0, 4, read(0), Outcome.APPLIED, 0.1, 0, 1, True)),
        (WORKER, Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 4, 0)),
    ]
    w_N, g_N = draw("weights"), draw("gradient/5")
    v_N = -0.1 * (g_N + 0.01 * w_N)
    assert message.weights_N is not None
    torch.testing.assert_close(message.weights_N, w_N + v_N)
    assert torch.equal(message.weights_N, shard._w_N)
    assert message.weights_N.data_ptr() != shard._w_N.data_ptr()


def test_a_push_without_a_pull(make: Make) -> None:
    shard = make()
    assert shard.handle(NOW, exchange(1, lease=5, pull=False)) == [
        (JOURNAL, PushHandled(NOW, 3, 1, 5, 0, 4, read(0), Outcome.APPLIED, 0.1, 0, 1, False)),
        (WORKER, Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 4, 0)),
    ]


def test_neither_push_nor_pull_tells_the_version_and_leaves_no_record(make: Make) -> None:
    answer = Exchanged(1, 0, Outcome.NONE, Reading(0, 0), 0, None)
    assert make().handle(NOW, exchange(1, pull=False)) == [(WORKER, answer)]


@pytest.mark.parametrize("attempt", [0, 1, 9])
def test_a_lease_is_applied_once_whatever_the_attempt(make: Make, attempt: int) -> None:
    shard = make()
    shard.handle(NOW, exchange(1, lease=5))
    before = State.of(shard)
    again = exchange(2, lease=5, attempt=attempt)
    assert shard.handle(NOW, again) == [
        (JOURNAL, PushHandled(NOW, 3, 2, 5, attempt, 4, read(0), Outcome.DUPLICATE, 0.0, -1, 1, True)),
        (WORKER, Exchanged(2, 0, Outcome.DUPLICATE, Reading(0, 1), 4, None)),
    ]
    assert again.weights_N is not None
    assert torch.equal(again.weights_N, shard._w_N)
    assert State.of(shard).same(replace(before, duplicates=1))


def test_a_duplicate_is_told_so_even_if_its_push_would_be_refused(make: Make) -> None:
    """It was pulled from an incarnation that is gone: the lease is done all the same."""
    shard = make()
    shard.handle(NOW, exchange(1, lease=5))
    push = Push(5, 1, 4, (Reading(8, 99), Reading(0, 0)), torch.full((N,), math.nan))
    (_, (_, answer)) = shard.handle(NOW, Exchange(3, 2, 0, push, None))
    assert answer == Exchanged(2, 0, Outcome.DUPLICATE, Reading(0, 1), 4, None)


def test_staleness_is_what_was_applied_between_pull_and_push(make: Make) -> None:
    shard = make()
    for lease, (version, staleness) in enumerate([(0, 0), (0, 1), (2, 0), (0, 3), (1, 3)]):
        (_, (_, answer)) = shard.handle(NOW, exchange(lease, lease, version))
        assert answer == Exchanged(lease, 0, Outcome.APPLIED, Reading(0, lease + 1), 4 * (lease + 1), staleness)
    assert shard.status().staleness == {0: 2, 1: 1, 3: 2}


def test_the_rate_follows_the_samples_applied_here(make: Make) -> None:
    shard = make(schedule=HALVING)
    rates = []
    for lease, samples in enumerate([4, 4, 7, 1, 1]):
        (_, record), _ = shard.handle(NOW, exchange(lease, lease, samples=samples))
        assert isinstance(record, PushHandled)
        rates.append(record.rate)
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert shard.status().rate == 0.025
    assert shard.samples == 17


def test_adamw_counts_the_shards_own_updates(make: Make) -> None:
    """Its first step has the length of the rate, whatever the gradient: so it was told that this is update 1."""
    shard = make(rule=AdamW(0.9, 0.999, 1e-30))
    message = exchange(1, lease=0)
    shard.handle(NOW, message)
    assert message.weights_N is not None
    expected_N = draw("weights") * (1 - 0.1 * 0.01) - 0.1 * draw("gradient/0").sign()
    torch.testing.assert_close(message.weights_N, expected_N)


def test_the_status_tells_the_counts(make: Make) -> None:
    shard = make(every=1)
    for number, lease in enumerate([0, 1, 1, 2]):
        shard.handle(NOW, exchange(number, lease))
    shard.handle(NOW, structs.replace(exchange(9), shard=4))
    status = shard.status()
    assert (status.shard, status.incarnation, status.version, status.samples) == (0, 0, 3, 12)
    assert (status.duplicates, status.refused, status.skipped_samples, status.waiting_samples) == (1, 1, 1, 2)
    assert (status.rate, status.staleness) == (0.1, {0: 1, 1: 1, 2: 1})


# --- refusals --------------------------------------------------------------------------------------------------------


def pushed(**changes: Any) -> Exchange:
    """An exchange that would be applied but for these changes to its push."""
    message = exchange(2, lease=6, version=1)
    assert message.push is not None
    return structs.replace(message, push=structs.replace(message.push, **changes))


def with_one(value: float) -> Tensor:
    gradient_N = draw("gradient/6")
    gradient_N[N - 1] = value
    return gradient_N


REFUSED = [
    (structs.replace(exchange(2, 6, 1), shard=1), Refusal.SHARD, "meant for shard 1, reached shard 0"),
    (structs.replace(exchange(2), shard=-1), Refusal.SHARD, "meant for shard -1, reached shard 0"),
    (pushed(gradient_N=draw("g", 39)), Refusal.LENGTH, r"gradient has shape \(39,\), expected \(40,\)"),
    (pushed(gradient_N=draw("g").view(2, 20)), Refusal.LENGTH, r"gradient has shape \(2, 20\)"),
    (structs.replace(exchange(2), weights_N=torch.zeros(41)), Refusal.LENGTH, r"weights has shape \(41,\)"),
    (structs.replace(exchange(2, 6, 1), weights_N=torch.zeros(0)), Refusal.LENGTH, r"weights has shape \(0,\)"),
    (pushed(gradient_N=draw("g").double()), Refusal.DTYPE, "gradient is torch.float64, expected torch.float32"),
    (structs.replace(exchange(2), weights_N=torch.zeros(N).bfloat16()), Refusal.DTYPE, "weights is torch.bfloat16"),
    (pushed(read=()), Refusal.READINGS, "push names 0 readings, expected one for each of 1 shards"),
    (pushed(read=read(1, 1)), Refusal.READINGS, "push names 2 readings"),
    (pushed(read=(Reading(1, 1),)), Refusal.INCARNATION, "read from incarnation 1, this is 0: pull again"),
    (pushed(read=read(2)), Refusal.FUTURE, "read version 2, expected 0 to 1"),
    (pushed(read=read(-1)), Refusal.FUTURE, "read version -1, expected 0 to 1"),
    (pushed(gradient_N=with_one(math.nan)), Refusal.NOT_FINITE, "gradient of lease 6 holds NaN or infinity"),
    (pushed(gradient_N=with_one(-math.inf)), Refusal.NOT_FINITE, "gradient of lease 6 holds NaN or infinity"),
    (pushed(lease=-1), Refusal.LEASE, "lease -1 of 4 samples, expected 0 or more"),
    (pushed(samples=0), Refusal.LEASE, "lease 6 of 0 samples"),
    (pushed(samples=-4), Refusal.LEASE, "lease 6 of -4 samples"),
    (pushed(samples=MOST_SAMPLES + 1), Refusal.LEASE, "lease 6 of 2147483648 samples"),
    (pushed(lease=5, samples=0), Refusal.LEASE, "lease 5 of 0 samples"),  # though lease 5 was applied
]


@pytest.mark.parametrize(("message", "refusal", "text"), REFUSED)
def test_a_refused_exchange_changes_nothing(make: Make, message: Exchange, refusal: Refusal, text: str) -> None:
    shard = make()
    shard.handle(NOW, exchange(1, lease=5))
    before = State.of(shard)
    pulled_N = None if message.weights_N is None else message.weights_N.clone()
    lease = message.push.lease if message.push else -1
    (to_journal, record), (to, answer) = shard.handle(NOW, message)
    assert (to_journal, record) == (JOURNAL, ExchangeRefused(NOW, 3, 2, lease, refusal))
    assert isinstance(answer, Refused)
    assert (to, answer.number, answer.shard, answer.refusal) == (WORKER, 2, 0, refusal)
    assert re.search(text, answer.message)
    assert State.of(shard).same(before)
    assert shard.refused == 1
    if message.weights_N is not None and pulled_N is not None:
        assert torch.equal(message.weights_N.nan_to_num(7.0), pulled_N.nan_to_num(7.0))


def test_every_refusal_has_its_case() -> None:
    assert {refusal for _, refusal, _ in REFUSED} == set(Refusal) - {Refusal.FORGOTTEN}  # see test_corrections


def test_what_was_refused_is_applied_once_it_is_right(make: Make) -> None:
    shard, untroubled = make(), make()
    shard.handle(NOW, pushed(read=read(9)))
    for each in (shard, untroubled):
        each.handle(NOW, exchange(1, lease=5))
        each.handle(NOW, pushed())
    assert State.of(shard).same(State.of(untroubled))


def test_a_message_for_another_machine_is_an_error_and_changes_nothing(make: Make) -> None:
    shard = make()
    before = State.of(shard)
    with pytest.raises(
        TypeError,
        match="shard 0 got Tick: it handles Exchange, CloseRound, SampleTaken, WhoHas, TakeInventory and Read",
    ):
        shard.handle(NOW, Tick())
    assert State.of(shard).same(before)


# --- samples for the averager ----------------------------------------------------------------------------------------


def for_the_averager(outbox: Outbox) -> list[Message | object]:
    return [item for to, item in outbox if to == AVERAGER or isinstance(item, SampleSent | SampleSkipped)]


def test_samples_are_taken_at_k_2k_3k_and_the_third_that_would_wait_is_skipped(make: Make) -> None:
    shard = make(every=2)
    told: list[list[Message | object]] = []
    weights: dict[int, Tensor] = {}
    for lease in range(8):
        told.append(for_the_averager(shard.handle(NOW, exchange(lease, lease))))
        weights[shard.version] = shard._w_N.clone()
    assert [told[i] for i in (0, 2, 4, 6)] == [[]] * 4
    for i, version in ((1, 2), (3, 4)):
        sent, sample = told[i]
        assert sent == SampleSent(NOW, version)
        assert isinstance(sample, Sample)
        assert (sample.shard, sample.incarnation, sample.version) == (0, 0, version)
        assert torch.equal(sample.weights_N, weights[version])  # later updates did not reach into it
    assert [told[i] for i in (5, 7)] == [[SampleSkipped(NOW, 6)], [SampleSkipped(NOW, 8)]]
    assert shard.status().skipped_samples == 2

    for stray in (SampleTaken(0, 1, 4), SampleTaken(0, 0, 6)):  # another incarnation; a version that was skipped
        assert shard.handle(NOW, stray) == []
        assert shard.status().waiting_samples == 2
    assert shard.handle(NOW, SampleTaken(0, 0, 4)) == []
    assert shard.handle(NOW, SampleTaken(0, 0, 4)) == []
    assert shard.status().waiting_samples == 1
    shard.handle(NOW, exchange(8, 8))
    outbox = shard.handle(NOW, exchange(9, 9))
    assert [type(item) for _, item in outbox] == [PushHandled, SampleSent, Sample, Exchanged]


def test_a_duplicate_at_such_a_version_is_no_sample(make: Make) -> None:
    shard = make(every=1)
    assert len(for_the_averager(shard.handle(NOW, exchange(1, 0)))) == 2
    assert for_the_averager(shard.handle(NOW, exchange(2, 0))) == []
    assert for_the_averager(shard.handle(NOW, exchange(3))) == []


def test_without_an_interval_there_are_no_samples(make: Make) -> None:
    shard = make(every=0)
    assert [for_the_averager(shard.handle(NOW, exchange(i, i))) for i in range(3)] == [[], [], []]


# --- questions -------------------------------------------------------------------------------------------------------


def test_it_says_which_leases_it_has(make: Make) -> None:
    shard = make()
    for lease in (2, 5, 0):
        shard.handle(NOW, exchange(lease, lease))
    before = State.of(shard)
    answer = (LEDGER, Has(8, 0, (5, 0)))
    assert shard.handle(NOW, WhoHas(8, (5, 1, 0, 3, -1, 1 << 60))) == [answer]
    assert shard.handle(NOW, WhoHas(9, ())) == [(LEDGER, Has(9, 0, ()))]
    assert State.of(shard).same(before)


def test_anyone_may_read_and_leaves_no_trace(make: Make) -> None:
    shard = make()
    shard.handle(NOW, exchange(1, lease=0))
    before = State.of(shard)
    out_N = torch.zeros(N)
    assert shard.handle(NOW, Read(Address(Role.WORKER, -1), 4, 0, out_N)) == [
        (Address(Role.WORKER, -1), ReadDone(4, 0, 1, 1))
    ]
    assert torch.equal(out_N, shard._w_N)
    assert State.of(shard).same(before)


# --- sharded = unsharded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Momentum(0.9), AdamW(0.9, 0.999, 1e-8)], ids=["momentum", "adamw"])
@pytest.mark.parametrize("shards", [2, 3, 7])
def test_a_sharded_vector_moves_as_an_unsharded_one_to_the_bit(shards: int, rule: Rule) -> None:
    tensors = (TensorSpec("weight", (13, 11)), TensorSpec("bias", (13,), 2.0, 0.0))

    def trained(count: int) -> Tensor:
        layout = Layout(tensors, count)
        pieces = []
        weights_N = draw("weights", layout.size)
        for index in range(count):
            bound = layout.bounds(index)
            made = Shard(
                index, count, weights_N[bound].clone(), layout.segments(index), rule, 0.02, HALVING, sample_every=0
            )
            for lease in range(12):
                gradient_N = draw(f"gradient/{lease}", layout.size)[bound].clone()
                push = Push(lease, 0, 4, read(*[max(0, lease - 2)] * count), gradient_N)
                made.handle(NOW, Exchange(0, lease, index, push, None))
            check_invariants(made)
            assert made.version == 12
            pieces.append(made._w_N)
        return torch.cat(pieces)

    assert torch.equal(trained(shards), trained(1))
    assert not torch.equal(trained(1), draw("weights", 13 * 12))
