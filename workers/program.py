"""Worker program: lease, pull, gradient, push, as one generator.

It says what it wants and is told the outcome; whoever drives it (threads on the live clock, events on the simulated
one) has no say in what it wants. It has no state but the weights it pulled, and those can be pulled again.

The pull comes right after the push, in the same exchange, and before the worker asks for anything that it may have to
wait for (a lease, a compute turn); so a gradient's staleness is that of W workers, however few cores they share.
workers.ahead pulls earlier than that.

Shape suffix: N = parameters of the model, all shards together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from msgspec import Struct

from ps.journal import Record, WorkerExchanged
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
    Outcome,
    Push,
    Reading,
    Refusal,
    Refused,
    Role,
)

if TYPE_CHECKING:
    from torch import Tensor


class Ask(Struct, frozen=True):
    """Send these messages, all at once; go on with their answers, in the same order. They are one for the ledger, or
    one for each shard, in the order of the shards.
    """

    requests: tuple[tuple[Address, Message], ...]


class Send(Struct, frozen=True):
    """Send these messages, all at once; go on with None, without waiting. Only Compute, Note and Collect may follow
    before the answers are collected.
    """

    requests: tuple[tuple[Address, Message], ...]


class Collect(Struct, frozen=True):
    """Go on with the answers to what was sent, in the same order, once they are here."""


class Compute(Struct, frozen=True):
    """Compute this lease's gradient at the weights in `weights_N`; go on with a Gradient."""

    lease: Lease
    weights_N: Tensor


class Note(Struct, frozen=True):
    """Record in the worker's journal what the shards answered to one exchange; go on with None.

    Attributes:
        lease: Whose gradient the exchange carried; -1 if it only pulled.
        answers: Without the refusals.
    """

    worker: int
    lease: int
    answers: tuple[Exchanged, ...]

    def records(self, now: float) -> tuple[Record, ...]:
        """What to append, by the driver's clock."""
        return tuple(
            [
                WorkerExchanged(now, self.worker, a.number, a.shard, self.lease, a.outcome, a.reading)
                for a in self.answers
            ]
        )


class Gradient(Struct, frozen=True):
    """What a Compute came to. `gradient_N` is the driver's buffer, lent until the next Ask is answered or the
    next Compute begins.

    Attributes:
        loss: Mean main loss of the lease's readable examples, in nats; 0 of none.
        errors: Examples the main head classified wrongly.
        skipped: Examples that could not be read.
        finite: Whether loss and whole gradient are finite.
        auxiliary: Mean losses of the auxiliary heads.
    """

    loss: float
    errors: int
    skipped: int
    finite: bool
    gradient_N: Tensor
    auxiliary: tuple[float, ...] = ()


Word = Finished | Failed | Discarded
_DISCARDED = Outcome.DISCARDED
_NO_FAULT = (Refusal.INCARNATION, Refusal.FORGOTTEN)  # what was read is lost: the lease is as good as before
Effect = Ask | Send | Collect | Compute | Note
Answer = tuple[Message, ...] | Gradient | None
Program = Generator[Effect, Answer, None]


class Tally(Struct):
    """What the gradients of one lease came to, over its batches."""

    losses: list[tuple[tuple[float, ...], int]] = []  # main and auxiliary, and of how many; each tally has its own list
    errors: int = 0
    skipped: int = 0
    finite: bool = True

    def add(self, gradient: Gradient, examples: int) -> None:
        """Count one batch's gradient; `examples`: in the batch, those that were skipped included."""
        if examples > gradient.skipped:
            self.losses.append(((gradient.loss, *gradient.auxiliary), examples - gradient.skipped))
        self.errors += gradient.errors
        self.skipped += gradient.skipped
        self.finite &= gradient.finite

    def means(self) -> tuple[float, ...]:
        """Mean losses of the examples: main (0 if there were none), then auxiliary heads; of one batch to the bit."""
        if len(self.losses) == 1:
            return self.losses[0][0]
        examples = sum(count for _, count in self.losses)
        heads = zip(*([loss * count for loss in losses] for losses, count in self.losses), strict=True)
        return tuple(sum(head) / examples for head in heads) or (0.0,)


class Link:
    """The worker's side of everything it says to the shards and the ledger: cuts vectors, counts, reads the answers.

    Args:
        weights: Each float32, shape (N,). Pulls fill the first; `pull_ahead` goes over to the next.

    Attributes:
        read: What the newest pull read, per shard.
        samples: Samples applied on the shards as of the newest exchange (of the newest pull, if it pulls ahead), the
            least of them: schedules follow it.
    """

    def __init__(self, worker: int, bounds: tuple[slice, ...], *weights: Tensor) -> None:
        self._worker = worker
        self._bounds = bounds
        self._shards = _shards(len(bounds))
        self._weights = [_cut(weights_N, bounds) for weights_N in weights]
        self._filling = 0  # which of them
        self._gradient_N: Tensor | None = None  # the newest that was pushed
        self._gradients: tuple[Tensor, ...] = ()  # and its parts: mostly it is the same buffer again
        self._exchanges = self._requests = 0
        self._refused: Refused | None = None
        self._discarded = False
        self._incarnations: tuple[int, ...] = ()  # of the shards that answered the newest exchange
        self.read: tuple[Reading, ...] = ()
        self.samples = 0

    def next_lease(self, word: Word | None) -> Generator[Effect, Answer, Lease | None]:
        """Say what became of the last lease, and get the next one; None at the end. Pulls, if it had to wait."""
        self._requests += 1
        version = min([reading.version for reading in self.read], default=0)
        request = NextLease(self._worker, self._requests, word, version)
        (answer,) = cast("tuple[Message]", (yield Ask(((LEDGER, request),))))
        if not isinstance(answer, Granted):
            return None
        if answer.pull:
            yield from self.pull()
        return answer.lease

    def pull(self) -> Program:
        """Fill the weights with the newest ones."""
        answers = yield Ask(self._requests_of(None, True))
        yield self._heard(-1, answers, True)

    def deliver(
        self, lease: Lease, gradient_N: Tensor, tally: Tally, read: tuple[Reading, ...], pull: bool = True
    ) -> Generator[Effect, Answer, Word]:
        """Push a lease's gradient, and pull; return what became of it.

        Args:
            read: What the weights under the gradient were read from.
            pull: Whether to pull in the same exchange.
        """
        means = tally.means()
        if not tally.finite:
            yield from self.pull()
            reason = f"loss {means[0]:g} or its gradient is not finite at lease {lease.id}"
            return Failed(lease.id, lease.attempt, False, reason)
        if gradient_N is not self._gradient_N:
            self._gradient_N, self._gradients = gradient_N, _cut(gradient_N, self._bounds)
        pushes = [Push(lease.id, lease.attempt, lease.count, read, part_N) for part_N in self._gradients]
        answers = yield Ask(self._requests_of(pushes, pull))
        yield self._heard(lease.id, answers, pull)
        if (refused := self._refused) is not None:
            yield from self.pull()
            if refused.refusal in _NO_FAULT:
                return Discarded(lease.id, lease.attempt)
            return Failed(lease.id, lease.attempt, refused.refusal is not Refusal.NOT_FINITE, refused.message)
        if self._discarded:
            return Discarded(lease.id, lease.attempt)
        return Finished(lease.id, lease.attempt, means[0], tally.errors, tally.skipped, means[1:], self._incarnations)

    def pull_ahead(self) -> Program:
        """Begin to fill the next weights with the newest ones; `arrived` ends it. Later pulls fill them, too."""
        self._filling = (self._filling + 1) % len(self._weights)
        yield Send(self._requests_of(None, True))

    def arrived(self) -> Program:
        """Wait for what `pull_ahead` began."""
        answers = yield Collect()
        yield self._heard(-1, answers, True)

    def _requests_of(self, pushes: Sequence[Push] | None, pull: bool) -> tuple[tuple[Address, Message], ...]:
        """One exchange with every shard, all at once."""
        self._exchanges += 1
        weights = self._weights[self._filling]
        requests = []
        for shard, address in enumerate(self._shards):
            push = None if pushes is None else pushes[shard]
            weights_N = weights[shard] if pull else None
            requests.append((address, Exchange(self._worker, self._exchanges, shard, push, weights_N)))
        return tuple(requests)

    def _heard(self, lease: int, answers: Answer, pull: bool) -> Note:
        """Take in what the shards answered. `lease`: as in Note."""
        self._refused, self._discarded = None, False
        done, read, samples = [], [], []
        for answer in cast("tuple[Exchanged | Refused, ...]", answers):
            if isinstance(answer, Exchanged):
                done.append(answer)
                read.append(answer.reading)
                samples.append(answer.samples)
                self._discarded |= answer.outcome is _DISCARDED
            elif self._refused is None:
                self._refused = answer
        if self._refused is None:
            self._incarnations = tuple([reading.incarnation for reading in read])
            if pull:
                self.read = tuple(read)
            if pull or len(self._weights) == 1:  # else the next gradient is of weights pulled before
                self.samples = min(samples)
        return Note(self._worker, lease, tuple(done))


@cache
def _shards(count: int) -> tuple[Address, ...]:
    return tuple(Address(Role.SHARD, shard) for shard in range(count))


def _cut(vector_N: Tensor, bounds: tuple[slice, ...]) -> tuple[Tensor, ...]:
    """A vector's part for each shard; where that is all of it, itself: views are not made without need."""
    whole = slice(0, vector_N.numel())
    return tuple([vector_N if bound == whole else vector_N[bound] for bound in bounds])


class Delivery(Struct, frozen=True):
    """What a worker has to push at the end of a lease.

    Attributes:
        read: What the weights under it were read from; where it pulled in between, the oldest.
        pull: Whether the same exchange pulls.
    """

    gradient_N: Tensor
    tally: Tally
    read: tuple[Reading, ...]
    pull: bool = True


class Steps(Protocol):
    """What a worker does with a lease, between pull and push."""

    def __call__(self, link: Link, lease: Lease, weights_N: Tensor) -> Generator[Effect, Answer, Delivery]:
        """Compute what is to be pushed.

        Args:
            weights_N: What gradients are computed at; the worker's own.
        """


def one_gradient(link: Link, lease: Lease, weights_N: Tensor) -> Generator[Effect, Answer, Delivery]:
    """One gradient per lease. Source: Dean et al. 2012, section 4.1 (Downpour SGD with n_fetch = n_push = 1)."""
    gradient = cast("Gradient", (yield Compute(lease, weights_N)))
    tally = Tally()
    tally.add(gradient, lease.count)
    return Delivery(gradient.gradient_N, tally, link.read)


def alone(
    steps: Steps,
    lease: Lease,
    weights_N: Tensor,
    read: tuple[Reading, ...],
    samples: int,
    compute: Callable[[Lease, Tensor], Gradient],
) -> Delivery:
    """What a worker would push for this lease, for whoever computes it again, with nobody to talk to.

    Args:
        weights_N: What it pulled; the steps may change it.
        read, samples: What that pull was told.
        compute: The gradient of a batch at these weights.

    Raises:
        ValueError: It pulls in between.
    """
    link = Link(-1, (), weights_N)
    link.read, link.samples = read, samples
    program = steps(link, lease, weights_N)
    answer: Answer = None
    while True:
        try:
            effect = program.send(answer)
        except StopIteration as end:
            return cast("Delivery", end.value)
        if not isinstance(effect, Compute):
            raise ValueError(f"lease {lease.id}: it asks others while it computes: that cannot be done alone")
        answer = compute(effect.lease, effect.weights_N)


def work(worker: int, bounds: tuple[slice, ...], weights_N: Tensor, steps: Steps = one_gradient) -> Program:
    """The worker program: one exchange with every shard per lease, in which it pushes and pulls.

    Args:
        worker: Logical worker, 0..W-1.
        bounds: Each shard's slice of the flat vector.
        weights_N: float32 buffer, shape (N,), that pulls fill; the worker's own.
    """
    link = Link(worker, bounds, weights_N)
    yield from link.pull()
    word: Word | None = None
    while (lease := (yield from link.next_lease(word))) is not None:
        done = yield from steps(link, lease, weights_N)
        word = yield from link.deliver(lease, done.gradient_N, done.tally, done.read, done.pull)
