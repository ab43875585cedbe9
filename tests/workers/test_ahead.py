"""The worker program with prefetch as a script: what is sent when, which buffer is filled, and what a push says it
read.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ps.leases import LeasePlan
from ps.messages import (
    LEDGER,
    Discarded,
    Exchange,
    Exchanged,
    Failed,
    Finished,
    Granted,
    Message,
    NextLease,
    NoMoreLeases,
    Outcome,
    Reading,
    Refusal,
    Refused,
)
from workers.ahead import work_ahead
from workers.program import Answer, Ask, Collect, Compute, Effect, Gradient, Note, Send

PLAN = LeasePlan(examples=10, batch_size=4, epochs=1, seed=0)
WORKER, N = 5, 20


class Script:
    """A worker of one shard. `versions`: what each of its two buffers holds, as far as pulls said."""

    def __init__(self) -> None:
        self.buffers = torch.zeros(N), torch.zeros(N)
        self.gradient_N = torch.arange(float(N))
        self.program = work_ahead(WORKER, (slice(0, N),), self.buffers)

    def send(self, answer: Answer) -> Effect:
        return self.program.send(answer)

    def begin(self) -> Effect:
        """To the first request for a lease; version 3 is in the first buffer."""
        self.pulls(self.send(None), 1, into=0)
        assert self.send(told(1, 3)) == noted(1, -1, 3)
        return self.send(None)

    def pulls(self, effect: Effect, number: int, into: int) -> None:
        """This effect only pulls, into that buffer."""
        assert isinstance(effect, Ask | Send)
        ((_, message),) = effect.requests
        assert isinstance(message, Exchange)
        assert (message.number, message.push) == (number, None)
        self.fills(message, into)

    def fills(self, message: Exchange, into: int) -> None:
        weights_N: Tensor | None = message.weights_N
        assert weights_N is not None
        assert weights_N.data_ptr() == self.buffers[into].data_ptr()

    def computes(self, lease: int, at: int, number: int) -> None:
        """Grant a lease: the next weights are asked for, and the gradient is wanted at the present ones."""
        granted = Granted(lease + 1, PLAN.lease(lease, 0, 9.0))
        effect = self.send((granted,))
        assert isinstance(effect, Send)
        self.pulls(effect, number, into=1 - at)
        effect = self.send(None)
        assert isinstance(effect, Compute)
        assert effect.weights_N is self.buffers[at]

    def gradient(self, finite: bool = True) -> Gradient:
        return Gradient(0.25 if finite else float("nan"), 3, 1, finite, self.gradient_N)

    def collects(self, number: int, version: int) -> Effect:
        """The gradient is done; what was asked for is collected. Returns the effect after that."""
        assert self.send(self.gradient()) == Collect()
        assert self.send(told(number, version)) == noted(number, -1, version)
        return self.send(None)


def told(number: int, version: int, outcome: Outcome = Outcome.NONE) -> tuple[Message, ...]:
    staleness = None if outcome is Outcome.NONE else 0
    return (Exchanged(number, 0, outcome, Reading(0, version), 4 * version, staleness),)


def noted(number: int, lease: int, version: int, outcome: Outcome = Outcome.NONE) -> Note:
    (answer,) = told(number, version, outcome)
    assert isinstance(answer, Exchanged)
    return Note(WORKER, lease, (answer,))


def pushes(effect: Effect, number: int, lease: int, read: int) -> None:
    """This effect only pushes, and says so."""
    assert isinstance(effect, Ask)
    ((_, message),) = effect.requests
    assert isinstance(message, Exchange)
    assert (message.number, message.weights_N) == (number, None)
    assert message.push is not None
    assert (message.push.lease, message.push.read) == (lease, (Reading(0, read),))


def asks(number: int, outcome: Finished | Failed | Discarded | None, version: int) -> Ask:
    return Ask(((LEDGER, NextLease(WORKER, number, outcome, version)),))


def test_the_weights_for_the_next_lease_come_while_the_present_one_is_computed() -> None:
    script = Script()
    assert script.begin() == asks(1, None, 3)
    script.computes(0, at=0, number=2)
    pushes(script.collects(2, 4), 3, 0, read=3)  # what it was computed from, not what came since
    assert script.send(told(3, 5, Outcome.APPLIED)) == noted(3, 0, 5, Outcome.APPLIED)
    assert script.send(None) == asks(2, Finished(0, 0, 0.25, 3, 1, (), (0,)), 4)
    script.computes(1, at=1, number=4)
    pushes(script.collects(4, 6), 5, 1, read=4)
    script.send(told(5, 7, Outcome.APPLIED))
    assert script.send(None) == asks(3, Finished(1, 0, 0.25, 3, 1, (), (0,)), 6)
    script.computes(2, at=0, number=6)
    pushes(script.collects(6, 8), 7, 2, read=6)
    script.send(told(7, 9, Outcome.APPLIED))
    script.send(None)
    with pytest.raises(StopIteration):
        script.send((NoMoreLeases(4, "completed"),))


def test_who_had_to_wait_for_a_lease_pulls_again_what_it_computes_at() -> None:
    script = Script()
    script.begin()
    script.computes(0, at=0, number=2)
    script.collects(2, 4)
    script.send(told(3, 5, Outcome.APPLIED))
    script.send(None)
    script.pulls(script.send((Granted(2, PLAN.lease(1, 0, 9.0), pull=True),)), 4, into=1)
    assert script.send(told(4, 9)) == noted(4, -1, 9)
    script.pulls(script.send(None), 5, into=0)
    effect = script.send(None)
    assert isinstance(effect, Compute)
    assert effect.weights_N is script.buffers[1]
    pushes(script.collects(5, 10), 6, 1, read=9)


def test_what_is_pulled_after_a_refusal_is_what_the_next_gradient_is_computed_at() -> None:
    script = Script()
    script.begin()
    script.computes(0, at=0, number=2)
    script.collects(2, 4)
    assert script.send((Refused(3, 0, Refusal.INCARNATION, "lost"),)) == Note(WORKER, 0, ())
    script.pulls(script.send(None), 4, into=1)
    script.send(told(4, 2))
    assert script.send(None) == asks(2, Discarded(0, 0), 2)
    script.computes(1, at=1, number=5)
    pushes(script.collects(5, 3), 6, 1, read=2)


def test_a_gradient_that_is_not_finite_reaches_no_shard() -> None:
    script = Script()
    script.begin()
    script.computes(0, at=0, number=2)
    assert script.send(script.gradient(finite=False)) == Collect()
    script.send(told(2, 4))
    script.pulls(script.send(None), 3, into=1)
    script.send(told(3, 6))
    reason = "loss nan or its gradient is not finite at lease 0"
    assert script.send(None) == asks(2, Failed(0, 0, False, reason), 6)
