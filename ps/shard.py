"""Shard: one contiguous slice of the parameters, its optimizer state, and which leases it has applied.

    handle(now, message) -> outbox        is the only mutator

Knows no clock, no network, no random number, and not how many workers there are; so the live, simulated and replayed
clocks share it. A push is applied at most once per lease id, whatever its attempt. Everything that can be refused is
refused before the first write.

Shape suffix: N = parameters held by this shard.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch

from ps.finite import all_finite
from ps.intervals import IntervalSet
from ps.journal import ExchangeRefused, PullHandled, PushHandled, Record, SampleSent, SampleSkipped, ShardOpened
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
    WhoHas,
)
from ps.rules import Rule, update

if TYPE_CHECKING:
    from torch import Tensor

    from ps.layout import Segment
    from ps.schedule import Schedule

Outbox = list[tuple[Address, Message | Record]]

WAITING_SAMPLES = 2  # copies for the averager that may wait at once; a third is skipped, journaled and counted

MOST_SAMPLES = (1 << 31) - 1  # in one lease: so that sums of them fit the journal's 64 bits


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What a shard tells about itself. Staleness counts are per applied update."""

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


@dataclass(slots=True)
class _Samples:
    """Buffers for the averager. Invariant: len(free) + len(sent) == WAITING_SAMPLES, or 0 while none was needed."""

    free: list[Tensor] = field(default_factory=list)
    sent: dict[int, Tensor] = field(default_factory=dict)
    skipped: int = 0


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
    ) -> None:
        self.index = index
        self.shards = shards
        self.incarnation = 0
        self.version = 0
        self.samples = 0
        self.applied = IntervalSet()
        self.staleness: Counter[int] = Counter()
        self.duplicates = 0
        self.refused = 0
        self._w_N = weights_N
        self._slots = tuple(torch.zeros_like(weights_N) for _ in rule.slots)
        self._segments = segments
        self._rule = rule
        self._weight_decay = weight_decay
        self._schedule = schedule
        self._sample_every = sample_every
        self._samples = _Samples()

    @property
    def elements(self) -> int:
        return self._w_N.numel()

    def opened(self, now: float) -> ShardOpened:
        """The record that opens this shard's journal."""
        weights: Any = self._w_N.numpy()
        return ShardOpened(
            now, self.index, self.shards, self.incarnation, self.version, self.samples, self.elements,
            sha256(weights).hexdigest(),
        )  # fmt: skip

    def status(self) -> ShardStatus:
        return ShardStatus(
            self.index, self.incarnation, self.version, self.samples, self._schedule.rate(self.samples),
            self.duplicates, self.refused, self._samples.skipped, len(self._samples.sent), dict(self.staleness),
        )  # fmt: skip

    def handle(self, now: float, message: Message) -> Outbox:
        """Take in one message; return what goes out because of it, the journal's records first."""
        match message:
            case Exchange():
                return self._exchange(now, message)
            case SampleTaken():
                return self._sample_taken(message)
            case WhoHas():
                held = tuple(lease for lease in message.leases if lease in self.applied)
                return [(LEDGER, Has(message.number, self.index, held))]
            case Read():
                message.out_N.copy_(self._w_N)
                return [(message.reader, ReadDone(message.number, self.index, self.version, 1))]
            case _:
                raise TypeError(
                    f"shard {self.index} got {type(message).__name__}: "
                    "it handles Exchange, SampleTaken, WhoHas and Read"
                )

    def _exchange(self, now: float, message: Exchange) -> Outbox:
        asker = Address(Role.WORKER, message.worker)
        if refusal := self._refusal(message):
            self.refused += 1
            kind, text = refusal
            lease = message.push.lease if message.push else -1
            return [
                (JOURNAL, ExchangeRefused(now, message.worker, message.number, lease, kind)),
                (asker, Refused(message.number, self.index, kind, text)),
            ]
        out: Outbox = []
        outcome, staleness = Outcome.NONE, None
        if push := message.push:
            outcome, rate, staleness = self._apply(push, message.weights_N)
            record = PushHandled(
                now, message.worker, message.number, push.lease, push.attempt, push.samples, push.read, outcome, rate,
                -1 if staleness is None else staleness, self.version, message.weights_N is not None,
            )  # fmt: skip
            out.append((JOURNAL, record))
        elif message.weights_N is not None:
            out.append((JOURNAL, PullHandled(now, message.worker, message.number, self.version)))
        if outcome is Outcome.APPLIED and self._sample_every and self.version % self._sample_every == 0:
            out += self._sample(now)
        if message.weights_N is not None and outcome is not Outcome.APPLIED:
            message.weights_N.copy_(self._w_N)
        reading = Reading(self.incarnation, self.version)
        out.append((asker, Exchanged(message.number, self.index, outcome, reading, self.samples, staleness)))
        return out

    def _refusal(self, message: Exchange) -> tuple[Refusal, str] | None:
        """Why this exchange must not be carried out, or None. Reads only."""
        if message.shard != self.index:
            return Refusal.SHARD, f"meant for shard {message.shard}, reached shard {self.index}"
        gradient_N = message.push.gradient_N if message.push else None
        for name, buffer_N in (("gradient", gradient_N), ("weights", message.weights_N)):
            if buffer_N is None:
                continue
            if buffer_N.dtype is not torch.float32:
                return Refusal.DTYPE, f"{name} is {buffer_N.dtype}, expected torch.float32"
            if tuple(buffer_N.shape) != (self.elements,):
                return Refusal.LENGTH, f"{name} has shape {tuple(buffer_N.shape)}, expected ({self.elements},)"
        if (push := message.push) is None:
            return None
        if push.lease < 0 or not 1 <= push.samples <= MOST_SAMPLES:
            return (
                Refusal.LEASE,
                f"lease {push.lease} of {push.samples} samples, expected 0 or more, 1 to {MOST_SAMPLES}",
            )
        return None if push.lease in self.applied else self._push_refusal(push)

    def _push_refusal(self, push: Push) -> tuple[Refusal, str] | None:
        if len(push.read) != self.shards:
            return (
                Refusal.READINGS,
                f"push names {len(push.read)} readings, expected one for each of {self.shards} shards",
            )
        read = push.read[self.index]
        if read.incarnation != self.incarnation:
            return (
                Refusal.INCARNATION,
                f"read from incarnation {read.incarnation}, this is {self.incarnation}: pull again",
            )
        if not 0 <= read.version <= self.version:
            return Refusal.FUTURE, f"read version {read.version}, expected 0 to {self.version}"
        if not all_finite(push.gradient_N):
            return Refusal.NOT_FINITE, f"gradient of lease {push.lease} holds NaN or infinity"
        return None

    def _apply(self, push: Push, out_N: Tensor | None) -> tuple[Outcome, float, int | None]:
        """Apply a push and copy the result out, unless its lease has been applied. Returns outcome, rate, staleness."""
        if not self.applied.add(push.lease):
            self.duplicates += 1
            return Outcome.DUPLICATE, 0.0, None
        rate = self._schedule.rate(self.samples)
        staleness = self.version - push.read[self.index].version
        self.version += 1
        self.samples += push.samples
        self.staleness[staleness] += 1
        update(
            self._rule, self._segments, rate, self._weight_decay, self.version,
            self._w_N, push.gradient_N, self._slots, out_N,
        )  # fmt: skip
        return Outcome.APPLIED, rate, staleness

    def _sample(self, now: float) -> Outbox:
        """Copy the weights for the averager, or skip this version if too many copies are waiting there."""
        samples = self._samples
        if not samples.free and not samples.sent:
            samples.free = [torch.empty_like(self._w_N) for _ in range(WAITING_SAMPLES)]
        if not samples.free:
            samples.skipped += 1
            return [(JOURNAL, SampleSkipped(now, self.version))]
        buffer_N = samples.sent[self.version] = samples.free.pop()
        buffer_N.copy_(self._w_N)
        return [
            (JOURNAL, SampleSent(now, self.version)),
            (AVERAGER, Sample(self.index, self.incarnation, self.version, buffer_N)),
        ]

    def _sample_taken(self, message: SampleTaken) -> Outbox:
        if (
            message.incarnation == self.incarnation
            and (buffer_N := self._samples.sent.pop(message.version, None)) is not None
        ):
            self._samples.free.append(buffer_N)
        return []
