"""Worker program: lease, pull, gradient, push, as one generator.

It says what it wants and is told the outcome; whoever drives it (threads on the live clock, events on the simulated
one) has no say in what it wants. It has no state but the weights it pulled, and those can be pulled again.

The pull comes right after the push, in the same exchange, and before the worker asks for anything that it may have to
wait for (a lease, a compute turn); so a gradient's staleness is that of W workers, however few cores they share.

Shape suffix: N = parameters of the model, all shards together.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ps.journal import Record, WorkerExchanged
from ps.messages import (
    LEDGER,
    Address,
    Discarded,
    Exchange,
    Exchanged,
    Failed,
    Finished,
    Lease,
    Message,
    NextLease,
    NoMoreLeases,
    Outcome,
    Push,
    Reading,
    Refusal,
    Refused,
    Role,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ask:
    """Send these messages, all at once; go on with their answers, in the same order."""

    requests: tuple[tuple[Address, Message], ...]


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute this lease's gradient at the weights in `weights_N`; go on with a Gradient."""

    lease: Lease
    weights_N: Tensor


@dataclass(frozen=True, slots=True)
class Note:
    """Append these records to the worker's journal; go on with None. The time in them is the driver's to fill in."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Gradient:
    """What a Compute came to. `gradient_N` is the driver's buffer, lent until the next Ask is answered.

    Attributes:
        loss: Mean main loss of the lease's examples, in nats.
        errors: Examples the main head classified wrongly.
        skipped: Examples that could not be read.
        finite: Whether loss and whole gradient are finite.
    """

    loss: float
    errors: int
    skipped: int
    finite: bool
    gradient_N: Tensor


Effect = Ask | Compute | Note
Answer = tuple[Message, ...] | Gradient | None
Program = Generator[Effect, Answer, None]


class _Shards:
    """The worker's side of all shards: cuts vectors along their bounds and numbers the exchanges."""

    def __init__(self, worker: int, bounds: tuple[slice, ...], weights_N: Tensor) -> None:
        self._worker = worker
        self._bounds = bounds
        self._weights_N = weights_N
        self._number = 0
        self.read: tuple[Reading, ...] = ()

    def exchange(self, lease: Lease | None, gradient_N: Tensor | None) -> Program:
        """Push this gradient, if any, and pull.

        Leaves in `refused` what refused, in `discarded` whether some shard found the gradient too stale, in `read` what
        the pull read.
        """
        self._number += 1
        requests = []
        for shard, bound in enumerate(self._bounds):
            push = None
            if lease is not None and gradient_N is not None:
                push = Push(lease.id, lease.attempt, lease.count, self.read, gradient_N[bound])
            requests.append(
                (Address(Role.SHARD, shard), Exchange(self._worker, self._number, shard, push, self._weights_N[bound]))
            )
        answers = cast("tuple[Exchanged | Refused, ...]", (yield Ask(tuple(requests))))
        self.refused = [answer for answer in answers if isinstance(answer, Refused)]
        done = [answer for answer in answers if isinstance(answer, Exchanged)]
        self.discarded = any(answer.outcome is Outcome.DISCARDED for answer in done)
        yield Note(tuple(self._record(answer, lease) for answer in done))
        if not self.refused:
            self.read = tuple(answer.reading for answer in done)

    def _record(self, answer: Exchanged, lease: Lease | None) -> WorkerExchanged:
        id = -1 if lease is None else lease.id
        return WorkerExchanged(0.0, self._worker, answer.number, answer.shard, id, answer.outcome, answer.reading)


def one_gradient(worker: int, bounds: tuple[slice, ...], weights_N: Tensor) -> Program:
    """The plain program: one gradient per lease, one exchange with every shard per gradient.

    Args:
        worker: Logical worker, 0..W-1.
        bounds: Each shard's slice of the flat vector.
        weights_N: float32 buffer, shape (N,), that pulls fill; the worker's own.

    Source: Dean et al. 2012, section 4.1 (Downpour SGD with n_fetch = n_push = 1).
    """
    shards = _Shards(worker, bounds, weights_N)
    yield from shards.exchange(None, None)
    outcome: Finished | Failed | Discarded | None = None
    number = 0
    while True:
        number += 1
        (answer,) = cast("tuple[Message]", (yield Ask(((LEDGER, NextLease(worker, number, outcome)),))))
        if isinstance(answer, NoMoreLeases):
            return
        lease = cast("Lease", getattr(answer, "lease", None))
        gradient = cast("Gradient", (yield Compute(lease, weights_N)))
        if not gradient.finite:
            reason = f"loss {gradient.loss:g} or its gradient is not finite at lease {lease.id}"
            outcome = Failed(lease.id, lease.attempt, False, reason)
            yield from shards.exchange(None, None)
            continue
        yield from shards.exchange(lease, gradient.gradient_N)
        if shards.discarded and not shards.refused:
            outcome = Discarded(lease.id, lease.attempt)
            continue
        if not shards.refused:
            outcome = Finished(lease.id, lease.attempt, gradient.loss, gradient.errors, gradient.skipped)
            continue
        first = shards.refused[0]
        outcome = Failed(lease.id, lease.attempt, first.refusal is not Refusal.NOT_FINITE, first.message)
        yield from shards.exchange(None, None)
