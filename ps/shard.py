"""Shard: one contiguous slice of the parameters, its optimizer state, and which leases it has applied.

    handle(now, message) -> outbox        is the only mutator, but for `recall` before the first message

Knows no clock, no network, no random number, and not how many workers there are; so the live, simulated and replayed
clocks share it. A push is applied at most once per lease id, whatever its attempt. Everything that can be refused is
refused before the first write.

A shard that lost its memory takes up a saved state, older than what it had. It begins a new incarnation: versions
count on from there, and what was read from a version that is lost is refused. Up to there both incarnations are the
same, so older readings are still good. The ledger is told which leases it has.

Shape suffix: N = parameters held by this shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from msgspec import Struct
from msgspec.structs import replace

from ps import kernel
from ps.corrections import Arrival, Correction, Worth
from ps.finite import all_finite
from ps.intervals import IntervalSet
from ps.journal import (
    ExchangeRefused,
    PullHandled,
    PushHandled,
    Record,
    RoundApplied,
    SampleSent,
    SampleSkipped,
    ShardOpened,
    ShardSaved,
)
from ps.messages import (
    AVERAGER,
    JOURNAL,
    LEDGER,
    Address,
    CloseRound,
    Exchange,
    Exchanged,
    Has,
    Inventory,
    Message,
    Outcome,
    Push,
    Read,
    ReadDone,
    Reading,
    Refusal,
    Refused,
    Role,
    RoundClosed,
    Sample,
    SampleTaken,
    TakeInventory,
    WhoHas,
)
from ps.rules import Rule
from ps.samples import Samples
from ps.staging import Staging, mean
from ps.states import ShardState
from ps.updates import Update, Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from ps.layout import Segment
    from ps.schedule import Schedule

Outbox = list[tuple[Address, Message | Record]]

_WORKER, _NONE, _APPLIED = Role.WORKER, Outcome.NONE, Outcome.APPLIED  # looked up in an Enum they take twice as long
MOST_SAMPLES = (1 << 31) - 1  # in one lease: so that sums of them fit the journal's 64 bits


class ShardStatus(Struct, frozen=True):
    """What a shard tells about itself. Staleness counts are per applied gradient; `kernel`: what makes its updates;
    `standby`: how its standby is, "" for a shard that has none.
    """

    shard: int
    incarnation: int
    version: int
    samples: int
    rate: float
    duplicates: int
    refused: int
    skipped_samples: int
    waiting_samples: int
    staleness: dict[int, int]
    discarded: int = 0
    staged: int = 0
    kernel: str = ""
    standby: str = ""


class Shard:
    """One shard's state machine.

    Args:
        index: This shard's index, 0..shards-1.
        shards: Shards in the run: the length of every push's readings.
        weights_N: Initial weights, float32. The shard owns the tensor from here on.
        segments: Stretches of equal multipliers, from `Layout.segments`.
        rule: Update rule; its slots start at zero.
        weight_decay: Times each segment's decay multiplier.
        schedule: Samples applied to learning rate.
        sample_every: The averager gets the weights at versions k, 2k, ...; 0 for never.
        correction: What a stale gradient is worth; by default it counts in full.
        staging: Where gradients wait for their round; by default each is an update of its own, at once.
    """

    def __init__(
        self,
        index: int,
        shards: int,
        weights_N: Tensor,
        segments: tuple[Segment, ...],
        rule: Rule,
        weight_decay: float,
        schedule: Schedule,
        sample_every: int,
        correction: Correction | None = None,
        staging: Staging | None = None,
    ) -> None:
        self.index = index
        self.shards = shards
        self.elements = weights_N.numel()
        self._shape = weights_N.shape
        self._openings: tuple[int, ...] = (0,)  # the version at which each incarnation began
        self.version = 0
        self.samples = 0
        self.applied = IntervalSet()
        self.staleness: Counter[int] = Counter()
        self.duplicates = 0
        self.refused = 0
        self.discarded = 0
        self._vectors = Vectors(segments, weights_N, len(rule.slots))
        self._rule = rule
        self._weight_decay = weight_decay
        self._schedule = schedule
        self._correction = correction or Correction()
        self._staging = staging
        self._samples = Samples(sample_every)

    @property
    def _w_N(self) -> Tensor:
        """The weights, with every update made."""
        return self._vectors.settle().w_N

    @property
    def _slots(self) -> tuple[Tensor, ...]:
        """Likewise the rule's state."""
        return self._vectors.settle().slots

    def _seen(self) -> Vectors:
        """What the correction is handed: with every update made, if it looks."""
        return self._vectors if self._correction.blind else self._vectors.settle()

    @property
    def incarnation(self) -> int:
        return len(self._openings) - 1

    def opened(self, now: float, snapshot: int = 0, cut: int = 0) -> ShardOpened:
        """The record that opens this shard's journal. `snapshot`: what it came back from; 0: its beginning; `cut`: how
        often the parameters were cut anew.
        """
        weights: Any = self._w_N.numpy()
        return ShardOpened(
            now, self.index, self.shards, self.incarnation, self.version, self.samples, self.elements,
            sha256(weights).hexdigest(), snapshot, cut,
        )  # fmt: skip

    def saved(self, now: float, snapshot: int) -> ShardSaved:
        """The record that says where in its journal this shard's state became this snapshot."""
        return ShardSaved(now, snapshot, self.version, tuple(sorted(self._samples.sent)))

    def state(self) -> ShardState:
        """All that it remembers, copied."""
        return ShardState(
            self.index, self._openings, self.version, self.samples, self.applied.bounds(), dict(self.staleness),
            self.duplicates, self.refused, self.discarded, self._samples.skipped, self._w_N.clone(),
            tuple(slot_N.clone() for slot_N in self._slots), self._correction.state(),
            () if self._staging is None else self._staging.state(), self._samples.state(),
        )  # fmt: skip

    def recall(self, state: ShardState, openings: tuple[int, ...]) -> None:
        """Take up what `state` wrote down, in place of all that came since.

        Args:
            openings: The version at which each incarnation began, up to the one that begins here.

        Raises:
            ValueError: It is another shard's. Nothing was changed.
        """
        if state.shard != self.index or state.weights_N.numel() != self.elements:
            raise ValueError(
                f"shard {self.index} of {self.elements} parameters got the state of shard {state.shard}, "
                f"with {state.weights_N.numel()}"
            )
        self._openings = openings
        self.version, self.samples = state.version, state.samples
        self.applied = IntervalSet.of_bounds(state.applied)
        self.staleness = Counter(state.staleness)
        self.duplicates, self.refused, self.discarded = state.duplicates, state.refused, state.discarded
        self._w_N.copy_(state.weights_N)
        for slot_N, saved_N in zip(self._slots, state.slots, strict=True):
            slot_N.copy_(saved_N)
        self._correction.recall(state.remembered)
        if self._staging is not None:
            self._staging.recall(state.staged)
        self._samples.recall(state.waiting, state.skipped_samples)

    def rejoin(self) -> Outbox:
        """What a shard that came back says: to the ledger what it has, to the averager what it may not have got."""
        waiting = sorted(self._samples.sent.items())
        return [
            (LEDGER, self._inventory(0)),
            *((AVERAGER, Sample(self.index, self.incarnation, version, w_N)) for version, w_N in waiting),
        ]

    def succeed(self, now: float, cut: int = 0) -> ShardOpened:
        """Go on as the next incarnation, in the place of one that was lost and held the same; the record that says so
        (`cut`: as of `opened`). All that was read from it is still good.
        """
        self._openings = (*self._openings, self.version)
        return replace(self.opened(now, 0, cut), promoted=True, waiting=tuple(sorted(self._samples.sent)))

    def status(self) -> ShardStatus:
        return ShardStatus(
            self.index, self.incarnation, self.version, self.samples, self._schedule.rate(self.samples),
            self.duplicates, self.refused, self._samples.skipped, len(self._samples.sent), dict(self.staleness),
            self.discarded, 0 if self._staging is None else len(self._staging),
            kernel.of(self._rule),
        )  # fmt: skip

    def handle(self, now: float, message: Message) -> Outbox:
        """Take in one message; return what goes out because of it, the journal's records first."""
        match message:
            case Exchange():
                return self._exchange(now, message)
            case SampleTaken():
                return self._sample_taken(message)
            case CloseRound():
                return self._close_round(now, message)
            case WhoHas():
                held = tuple(lease for lease in message.leases if self._has(lease))
                return [(LEDGER, Has(message.number, self.index, held, self.incarnation))]
            case TakeInventory():
                return [(LEDGER, self._inventory(message.number))]
            case Read():
                message.out_N.copy_(self._w_N)
                return [(message.reader, ReadDone(message.number, self.index, self.version, 1))]
            case _:
                raise TypeError(
                    f"shard {self.index} got {type(message).__name__}: "
                    "it handles Exchange, CloseRound, SampleTaken, WhoHas, TakeInventory and Read"
                )

    def together(self) -> AbstractContextManager[None]:
        """Within it, updates of messages that come at once go through memory together: the same bits, in less time.

        At its end all are made; until then gradients and buffers that were handed in must stay, and no buffer may be
        looked at.
        """
        return self._vectors.together()

    def _inventory(self, number: int) -> Inventory:
        staged = () if self._staging is None else self._staging.leases
        return Inventory(number, self.index, self.incarnation, self.version, self.applied.bounds(), staged)

    def _exchange(self, now: float, message: Exchange) -> Outbox:
        asker = Address(_WORKER, message.worker)
        push, out_N = message.push, message.weights_N
        known = push is not None and self._has(push.lease)
        if refusal := self._refusal(message, known):
            self.refused += 1
            kind, text = refusal
            lease = push.lease if push else -1
            return [
                (JOURNAL, ExchangeRefused(now, message.worker, message.number, lease, kind)),
                (asker, Refused(message.number, self.index, kind, text)),
            ]
        out: Outbox = []
        outcome, staleness = _NONE, None
        if push is not None:
            outcome, rate, staleness = self._take(message.worker, push, known, out_N)
            record = PushHandled(
                now, message.worker, message.number, push.lease, push.attempt, push.samples, push.read, outcome, rate,
                -1 if staleness is None else staleness, self.version, out_N is not None,
                message.wire,
            )  # fmt: skip
            out.append((JOURNAL, record))
        elif out_N is not None:
            out.append((JOURNAL, PullHandled(now, message.worker, message.number, self.version, message.wire)))
        if outcome is _APPLIED and self._samples.wants(self.version):
            out += self._sample(now)
        if out_N is not None:
            if outcome is not _APPLIED or self._correction.leads:
                self._correction.publish(self._w_N, out_N)
            self._correction.pulled(message.worker, message.number, self.version, self._seen().w_N)
        reading = Reading(self.incarnation, self.version)
        out.append((asker, Exchanged(message.number, self.index, outcome, reading, self.samples, staleness)))
        return out

    def _refusal(self, message: Exchange, known: bool) -> tuple[Refusal, str] | None:
        """Why this exchange must not be carried out, or None. Reads only. `known`: its push's lease is here already."""
        if message.shard != self.index:
            return Refusal.SHARD, f"meant for shard {message.shard}, reached shard {self.index}"
        push, out_N = message.push, message.weights_N
        if push is not None and not self._fits(push.gradient_N):
            return self._misfit("gradient", push.gradient_N)
        if out_N is not None and not self._fits(out_N):
            return self._misfit("weights", out_N)
        if push is None:
            return None
        if push.lease < 0 or not 1 <= push.samples <= MOST_SAMPLES:
            return (
                Refusal.LEASE,
                f"lease {push.lease} of {push.samples} samples, expected 0 or more, 1 to {MOST_SAMPLES}",
            )
        return None if known else self._push_refusal(message.worker, push)

    def _fits(self, buffer_N: Tensor) -> bool:
        return buffer_N.dtype is torch.float32 and buffer_N.shape == self._shape

    def _misfit(self, name: str, buffer_N: Tensor) -> tuple[Refusal, str]:
        """Why a buffer does not fit."""
        if buffer_N.dtype is not torch.float32:
            return Refusal.DTYPE, f"{name} is {buffer_N.dtype}, expected torch.float32"
        return Refusal.LENGTH, f"{name} has shape {tuple(buffer_N.shape)}, expected ({self.elements},)"

    def _push_refusal(self, worker: int, push: Push) -> tuple[Refusal, str] | None:
        if len(push.read) != self.shards:
            return (
                Refusal.READINGS,
                f"push names {len(push.read)} readings, expected one for each of {self.shards} shards",
            )
        read = push.read[self.index]
        if not 0 <= read.incarnation <= self.incarnation:
            return (
                Refusal.INCARNATION,
                f"read from incarnation {read.incarnation}, this is {self.incarnation}: pull again",
            )
        later = self._openings[read.incarnation + 1 :]
        if later and read.version > (lost := min(later)):
            return (
                Refusal.INCARNATION,
                f"read version {read.version} of incarnation {read.incarnation}, of which those after {lost} are lost: "
                "pull again",
            )
        if not 0 <= read.version <= self.version:
            return Refusal.FUTURE, f"read version {read.version}, expected 0 to {self.version}"
        if not self._correction.holds(worker, read.version):
            return Refusal.FORGOTTEN, f"read version {read.version}, whose weights are not kept any more: pull again"
        if not all_finite(push.gradient_N):
            return Refusal.NOT_FINITE, f"gradient of lease {push.lease} holds NaN or infinity"
        return None

    def _has(self, lease: int) -> bool:
        return lease in self.applied or (self._staging is not None and lease in self._staging)

    def _take(self, worker: int, push: Push, known: bool, out_N: Tensor | None) -> tuple[Outcome, float, int | None]:
        """Apply a push and copy the result out, or stage or discard it. Returns outcome, rate, staleness."""
        if known:
            self.duplicates += 1
            return Outcome.DUPLICATE, 0.0, None
        read = push.read[self.index].version
        staleness = self.version - read
        if self._correction.discards(staleness) or (self._staging is not None and self._staging.late(staleness)):
            self.discarded += 1
            return Outcome.DISCARDED, 0.0, staleness
        if self._staging is not None:
            self._staging.put(worker, push, read)
            return Outcome.STAGED, 0.0, None
        worth = self._correction.weigh(Arrival(worker, read, staleness), self._seen().w_N, push.gradient_N)
        rate = self._update(worker, worth, (staleness,), push.samples, None if self._correction.leads else out_N)
        self.applied.add(push.lease)
        return _APPLIED, rate, staleness

    def _close_round(self, now: float, message: CloseRound) -> Outbox:
        """Apply a round as one update. Raises ValueError, before any change, if it is none, not the next, not here."""
        if not message.leases or len(set(message.leases)) < len(message.leases) or message.size < 1:
            raise ValueError(
                f"shard {self.index}: got a round of leases {message.leases} divided by {message.size}, "
                "expected one or more, each once, divided by 1 or more"
            )
        closed: Outbox = [(LEDGER, RoundClosed(message.number, self.index, self.incarnation))]
        if message.round <= self.version:
            return closed  # asked again
        if self._staging is None or message.round != self.version + 1:
            raise ValueError(f"shard {self.index}: got round {message.round}, expected round {self.version + 1}")
        gradients, staleness = [], []
        taken = self._staging.take(message.leases, message.keep)
        for staged in taken:
            arrival = Arrival(staged.worker, staged.read, self.version - staged.read)
            worth = self._correction.weigh(arrival, self._w_N, staged.gradient_N)
            gradients.append(worth.gradient_N if worth.factor == 1.0 else worth.gradient_N.mul_(worth.factor))
            staleness.append(arrival.staleness)
            self.applied.add(staged.lease)
        samples = sum(staged.samples for staged in taken)
        rate = self._update(taken[0].worker, Worth(mean(gradients, message.size)), staleness, samples, None)
        record = RoundApplied(
            now, tuple(staged.lease for staged in taken), tuple(staleness), samples, message.size, message.keep, rate,
            self.version,
        )  # fmt: skip
        sample = self._sample(now) if self._samples.wants(self.version) else []
        return [(JOURNAL, record), *sample, *closed]

    def _update(self, worker: int, worth: Worth, staleness: Sequence[int], samples: int, out_N: Tensor | None) -> float:
        """Make one update with this gradient and copy the result out; return the rate used."""
        average = sum(staleness) / len(staleness)
        vectors = self._seen()
        plan = self._correction.plan(worker, average, self._rule, vectors.w_N, vectors.slots)
        rate = self._schedule.rate(self.samples) * worth.factor * plan.factor
        self.version += 1
        self.samples += samples
        for updates in staleness:
            self.staleness[updates] += 1
        update = Update(plan.rule, rate, self._weight_decay, self.version, worth.gradient_N, out_N)
        vectors.update(update, plan.slots)
        self._correction.stepped(self.version, self._seen().w_N)
        return rate

    def _sample(self, now: float) -> Outbox:
        """Copy the weights for the averager, at a version that it wants."""
        if (buffer_N := self._samples.copy(self.version, self._w_N)) is None:
            return [(JOURNAL, SampleSkipped(now, self.version))]
        return [
            (JOURNAL, SampleSent(now, self.version)),
            (AVERAGER, Sample(self.index, self.incarnation, self.version, buffer_N)),
        ]

    def _sample_taken(self, message: SampleTaken) -> Outbox:
        if message.incarnation == self.incarnation:
            self._samples.taken(message.version)
        return []
