"""The worker program as a script: exact effects in order, and what it makes of each answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ps.leases import LeasePlan
from ps.messages import (
    LEDGER,
    Address,
    Discarded,
    Exchange,
    Exchanged,
    Failed,
    Finished,
    Granted,
    Lease,
    Message,
    NextLease,
    NoMoreLeases,
    Outcome,
    Reading,
    Refusal,
    Refused,
    Role,
)
from workers.program import Answer, Ask, Compute, Effect, Gradient, Note, Program, Tally, work

PLAN = LeasePlan(examples=10, batch_size=4, epochs=1, seed=0)
BOUNDS = (slice(0, 16), slice(16, 20))
SHARDS = (Address(Role.SHARD, 0), Address(Role.SHARD, 1))
WORKER = 5


class Script:
    """A worker program and its buffer, with the number of the exchange that it is at."""

    def __init__(self) -> None:
        self.weights_N = torch.zeros(20)
        self.gradient_N = torch.arange(20.0)
        self.program: Program = work(WORKER, BOUNDS, self.weights_N)
        self.ended = False

    def send(self, answer: Answer) -> Effect:
        return self.program.send(answer)

    def lease(self, id: int) -> Lease:
        return PLAN.lease(id, 2, 9.0)


@pytest.fixture
def script() -> Iterator[Script]:
    """A program; whatever happened to it, it ends when the ledger says so."""
    made = Script()
    yield made
    if not made.ended:
        made.program.close()
    with pytest.raises(StopIteration):
        next(made.program)


def exchanges(effect: Effect, number: int, lease: Lease | None, read: tuple[Reading, ...] = ()) -> None:
    """This effect is one exchange with every shard, all at once, of exactly these contents."""
    assert isinstance(effect, Ask)
    assert tuple(to for to, _ in effect.requests) == SHARDS
    for shard, (_, message) in enumerate(effect.requests):
        assert isinstance(message, Exchange)
        assert (message.worker, message.number, message.shard) == (WORKER, number, shard)
        assert message.weights_N is not None
        assert message.weights_N.shape == ((16,), (4,))[shard]
        if lease is None:
            assert message.push is None
            continue
        assert message.push is not None
        push = message.push
        assert (push.lease, push.attempt, push.samples, push.read) == (lease.id, lease.attempt, lease.count, read)
        assert torch.equal(push.gradient_N, torch.arange(20.0)[BOUNDS[shard]])


def exchanged(number: int, *versions: int, outcome: Outcome = Outcome.NONE) -> tuple[Exchanged, ...]:
    staleness = 0 if outcome is Outcome.APPLIED else None
    return tuple(Exchanged(number, i, outcome, Reading(0, v), 4 * v, staleness) for i, v in enumerate(versions))


def note(number: int, lease: int, outcome: Outcome, **versions: int) -> Note:
    """The record of an exchange with shards a (0) and b (1)."""
    names = {"a": 0, "b": 1}
    staleness = 0 if outcome is Outcome.APPLIED else None
    answers = [
        Exchanged(number, names[name], outcome, Reading(0, version), 4 * version, staleness)
        for name, version in versions.items()
    ]
    return Note(WORKER, lease, tuple(answers))


def begin(script: Script) -> Effect:
    """To the first request for a lease."""
    exchanges(script.send(None), 1, None)
    assert script.send(exchanged(1, 3, 4)) == note(1, -1, Outcome.NONE, a=3, b=4)
    return script.send(None)


def asks(number: int, outcome: Finished | Failed | Discarded | None, version: int = 6) -> Ask:
    """`version`: the least that the last pull read; the second exchange of these scripts reads 6 and 7."""
    return Ask(((LEDGER, NextLease(WORKER, number, outcome, version)),))


def granted(script: Script, number: int, id: int) -> Effect:
    """Answer a request for a lease; the program wants its gradient at the buffer that pulls fill."""
    effect = script.send((Granted(number, script.lease(id)),))
    assert isinstance(effect, Compute)
    assert effect.lease == script.lease(id)
    assert effect.weights_N is script.weights_N
    return effect


HEADS = (0.5, 0.75)  # losses of the auxiliary heads


def gradient(script: Script, finite: bool = True) -> Gradient:
    loss = 0.25 if finite else float("nan")
    return Gradient(loss, errors=3, skipped=1, finite=finite, gradient_N=script.gradient_N, auxiliary=HEADS)


def end(script: Script, number: int) -> None:
    with pytest.raises(StopIteration):
        script.send((NoMoreLeases(number, "completed"),))
    script.ended = True


def test_it_pulls_before_it_asks_for_a_lease(script: Script) -> None:
    assert begin(script) == asks(1, None, 3)


def test_pulls_fill_the_programs_own_buffer_in_place(script: Script) -> None:
    effect = script.send(None)
    assert isinstance(effect, Ask)
    for shard, (_, message) in enumerate(effect.requests):
        assert isinstance(message, Exchange)
        filled: Tensor | None = message.weights_N
        assert filled is not None
        filled.fill_(shard + 1.0)
    assert script.weights_N.tolist() == [1.0] * 16 + [2.0] * 4


def test_lease_gradient_and_push_with_the_next_pull_in_one_exchange(script: Script) -> None:
    assert begin(script) == asks(1, None, 3)
    granted(script, 1, 0)
    exchanges(script.send(gradient(script)), 2, script.lease(0), (Reading(0, 3), Reading(0, 4)))
    applied = exchanged(2, 6, 7, outcome=Outcome.APPLIED)
    assert script.send(applied) == note(2, 0, Outcome.APPLIED, a=6, b=7)
    assert script.send(None) == asks(2, Finished(0, 2, 0.25, 3, 1, HEADS, (0, 0)))
    granted(script, 2, 2)  # the short one
    exchanges(script.send(gradient(script)), 3, script.lease(2), (Reading(0, 6), Reading(0, 7)))
    applied = exchanged(3, 8, 9, outcome=Outcome.APPLIED)
    assert script.send(applied) == note(3, 2, Outcome.APPLIED, a=8, b=9)
    assert script.send(None) == asks(3, Finished(2, 2, 0.25, 3, 1, HEADS, (0, 0)), 8)
    end(script, 3)


def test_a_duplicate_is_finished_like_any_other(script: Script) -> None:
    begin(script)
    granted(script, 1, 0)
    script.send(gradient(script))
    assert script.send(exchanged(2, 6, 7, outcome=Outcome.DUPLICATE)) == note(2, 0, Outcome.DUPLICATE, a=6, b=7)
    assert script.send(None) == asks(2, Finished(0, 2, 0.25, 3, 1, HEADS, (0, 0)))


def test_a_gradient_that_is_not_finite_reaches_no_shard(script: Script) -> None:
    begin(script)
    granted(script, 1, 0)
    exchanges(script.send(gradient(script, finite=False)), 2, None)  # fresh weights, before it may have to wait
    assert script.send(exchanged(2, 6, 7)) == note(2, -1, Outcome.NONE, a=6, b=7)
    reason = "loss nan or its gradient is not finite at lease 0"
    assert script.send(None) == asks(2, Failed(0, 2, False, reason))
    granted(script, 2, 1)
    exchanges(script.send(gradient(script)), 3, script.lease(1), (Reading(0, 6), Reading(0, 7)))


@pytest.mark.parametrize(
    ("refusal", "finite"), [(Refusal.READINGS, True), (Refusal.LENGTH, True), (Refusal.NOT_FINITE, False)]
)
def test_a_refused_push_has_failed_and_it_pulls_again(script: Script, refusal: Refusal, finite: bool) -> None:
    begin(script)
    granted(script, 1, 0)
    script.send(gradient(script))
    first, _ = exchanged(2, 6, 7, outcome=Outcome.APPLIED)
    refused = Refused(2, 1, refusal, "why")
    assert script.send((first, refused)) == note(2, 0, Outcome.APPLIED, a=6)
    exchanges(script.send(None), 3, None)
    assert script.send(exchanged(3, 8, 9)) == note(3, -1, Outcome.NONE, a=8, b=9)
    assert script.send(None) == asks(2, Failed(0, 2, finite, "why"), 8)
    granted(script, 2, 1)
    exchanges(script.send(gradient(script)), 4, script.lease(1), (Reading(0, 8), Reading(0, 9)))


@pytest.mark.parametrize("refusal", [Refusal.INCARNATION, Refusal.FORGOTTEN])
def test_a_push_whose_reading_was_lost_is_no_fault_of_its_lease(script: Script, refusal: Refusal) -> None:
    begin(script)
    granted(script, 1, 0)
    script.send(gradient(script))
    first, _ = exchanged(2, 6, 7, outcome=Outcome.APPLIED)
    script.send((first, Refused(2, 1, refusal, "why")))
    exchanges(script.send(None), 3, None)
    script.send(exchanged(3, 8, 9))
    assert script.send(None) == asks(2, Discarded(0, 2), 8)


def test_who_had_to_wait_pulls_again_before_it_computes(script: Script) -> None:
    begin(script)
    exchanges(script.send((Granted(1, script.lease(0), pull=True),)), 2, None)
    assert script.send(exchanged(2, 6, 7)) == note(2, -1, Outcome.NONE, a=6, b=7)
    assert isinstance(script.send(None), Compute)
    exchanges(script.send(gradient(script)), 3, script.lease(0), (Reading(0, 6), Reading(0, 7)))


def test_a_gradient_that_one_shard_discards_is_said_to_be_discarded(script: Script) -> None:
    begin(script)
    granted(script, 1, 0)
    script.send(gradient(script))
    first, _ = exchanged(2, 6, 7, outcome=Outcome.APPLIED)
    _, second = exchanged(2, 6, 7, outcome=Outcome.DISCARDED)
    script.send((first, second))
    assert script.send(None) == asks(2, Discarded(0, 2))
    granted(script, 2, 1)


def test_success_follows_failure_without_a_trace_of_it(script: Script) -> None:
    begin(script)
    granted(script, 1, 0)
    script.send(gradient(script, finite=False))
    script.send(exchanged(2, 6, 7))
    script.send(None)
    granted(script, 2, 1)
    script.send(gradient(script))
    script.send(exchanged(3, 8, 9, outcome=Outcome.APPLIED))
    assert script.send(None) == asks(3, Finished(1, 2, 0.25, 3, 1, HEADS, (0, 0)), 8)


def test_the_end_may_come_with_the_first_answer(script: Script) -> None:
    begin(script)
    end(script, 1)


def test_messages_that_go_out_are_of_the_kinds_that_machines_take(script: Script) -> None:
    """Together with the scripts above: nothing but exchanges goes to shards, nothing but requests to the ledger."""
    sent: list[tuple[Role, type[Message]]] = []
    effect = script.send(None)
    for id in range(3):
        number = id + 1
        assert isinstance(effect, Ask)
        sent += [(to.role, type(message)) for to, message in effect.requests]
        script.send(exchanged(number, 1, 1))
        effect = script.send(None)
        assert isinstance(effect, Ask)
        sent += [(to.role, type(message)) for to, message in effect.requests]
        granted(script, number, id)
        effect = script.send(gradient(script))
    assert set(sent) == {(Role.SHARD, Exchange), (Role.LEDGER, NextLease)}
    assert len(sent) == 9


# --- what several batches come to -------------------------------------------------------------------------------------


def tallied(*batches: tuple[float, tuple[float, ...], int, int]) -> Tally:
    """Of (loss, auxiliary losses, examples, skipped)."""
    tally = Tally()
    for loss, auxiliary, examples, skipped in batches:
        tally.add(Gradient(loss, 1, skipped, True, torch.empty(0), auxiliary), examples)
    return tally


def test_losses_are_means_over_the_examples_that_could_be_read() -> None:
    tally = tallied((1.0, (2.0, 8.0), 4, 1), (5.0, (6.0, 0.0), 1, 0), (0.0, (), 4, 4))
    assert tally.means() == (2.0, 3.0, 6.0)
    assert (tally.errors, tally.skipped, tally.finite) == (3, 5, True)


def test_those_of_one_batch_are_its_own_to_the_bit() -> None:
    tally = tallied((0.1, (0.7, 0.3), 3, 0))
    assert tally.means() == (0.1, 0.7, 0.3)


def test_without_an_example_there_is_no_loss() -> None:
    assert (tallied().means(), tallied((0.0, (), 4, 4)).means()) == ((0.0,), (0.0,))
