"""Standby: a shard that is there twice, so that losing one of the two loses nothing.

    leads      handles messages as the shard alone would, forwards each to its standby, and lets nobody hear what came
               of it (answers, samples, records for the journal) before the standby holds it too
    follows    handles what is forwarded, in the same order at the same times, so it holds the same to the last bit

`Replica` is either, around the shard's own machine, which knows nothing of it. `handle` is called by the wire; `seed`,
`follow`, `claim` and `succeed` by whoever looks after processes. Whether one of the two may go on without the other is
for the ledger alone to say (see ps.pairs): it is asked by a `claim`, made when the other's process is gone, or by one
that leads when its standby is silent for SILENT_SECONDS. Without the ledger's word one that leads waits for its standby
for ever, and one that follows never leads. So of two that cannot reach each other no more than one is believed, and
whatever a lost one may still answer, the other held before.

A standby is brought up while the run goes on: it is seeded with a copy of the state, and what came since is forwarded
behind it. Until its first word answers do not wait for it, as long as it is no more than LAG messages behind; from then
on they do, and it is told so. Before that it cannot take over.

The one that leads writes the journal. Its standby keeps the records that may not be written yet; when it takes over, it
adds those that are missing, and one that says who goes on: the history of versions has no gap.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, cast

import torch
from msgspec.structs import replace

from ps.journal import (
    ExchangeRefused,
    PullHandled,
    PushHandled,
    Record,
    RoundApplied,
    SampleSent,
    SampleSkipped,
    ShardSaved,
)
from ps.messages import (
    JOURNAL,
    LEDGER,
    Address,
    Claim,
    CloseRound,
    Exchange,
    Forward,
    Forwarded,
    Message,
    Role,
    Ruling,
    SampleTaken,
    Tick,
)
from ps.states import ShardState

if TYPE_CHECKING:
    from ps.shard import Outbox, Shard, ShardStatus

LAG = 8  # messages that a standby which catches up may be behind before answers wait for it
SILENT_SECONDS = 10.0  # without a word while answers wait for it, until a standby is to be given up
SEEDING_SECONDS = 120.0  # likewise of one that comes up: its seed may be large, and the way long
AGAIN = -1  # in the place of a version: it was forwarded before, and what came of it then was said then
HANDLED = (PushHandled, PullHandled, RoundApplied, ExchangeRefused, SampleSent, SampleSkipped)  # what `handle` records

_Changing = Exchange | CloseRound | SampleTaken  # messages that change a shard


class Standing(Enum):
    """How one that leads and its standby stand."""

    ALONE = "none"
    CATCHING_UP = "catching up"
    IN_STEP = "in step"


@dataclass(frozen=True, slots=True)
class Seed:
    """What a standby begins with.

    Attributes:
        number: Of the last Forward that `state` has in it.
        written: How many records of HANDLED kinds the shard had made by then.
    """

    number: int
    written: int
    state: ShardState


@dataclass(slots=True)
class _Held:
    """What waits until the standby holds this Forward. `version`: after it; `since`: when it was handled."""

    number: int
    version: int
    since: float
    outbox: Outbox


class Replica:
    """One of the two.

    Args:
        shard: The shard; only this object calls it from here on.
        leads: Whether it leads, alone at first; else it follows once it is seeded.
        written: How many records of HANDLED kinds are in the shard's journal.

    Attributes:
        granted: What the ledger said to its claim to go on without the other; None: nothing yet.
    """

    def __init__(self, shard: Shard, leads: bool = True, written: int = 0) -> None:
        self.shard = shard
        self.leads = leads
        self.standing = Standing.ALONE
        self._standby = Address(Role.STANDBY, shard.index)
        self.granted: bool | None = None
        self._pair = 0  # the Forward before the first of these two
        self._claimed = False  # since they are two
        self._word_at = 0.0  # leads: when the standby was heard last, or seeded
        self._number = 0  # of the last Forward that was made, or handled
        self._written = written
        self._acknowledged = 0  # leads: the last Forward that the standby holds
        self._held: deque[_Held] = deque()  # leads
        self._early: dict[int, Forward] = {}  # follows: Forwards that have overtaken others
        self._unwritten: deque[Record] = deque()  # follows: records after the first `_written` ones
        self._pulled_N: torch.Tensor | None = None  # follows: what its pulls fill and nobody reads

    def status(self) -> ShardStatus:
        return replace(self.shard.status(), standby=self.standing.value)

    def state(self) -> ShardState:
        return self.shard.state()

    def saved(self, now: float, snapshot: int) -> ShardSaved:
        return self.shard.saved(now, snapshot)

    def together(self) -> AbstractContextManager[None]:
        return self.shard.together()

    def handle(self, now: float, message: Message) -> Outbox:
        """Take in one message; return what goes out because of it, the journal's records first.

        Raises:
            ValueError, TypeError: It is not for this one, or not for a shard. Nothing happened.
            RuntimeError: The two are not the same any more.
        """
        match message:
            case Forward():
                return self._follow(message)
            case Forwarded():
                return self._heard(now, message)
            case Ruling():
                return self._ruled(message)
            case Tick():
                return self._look(now)
            case _ if not self.leads:
                raise ValueError(f"standby of shard {self.shard.index} got {type(message).__name__}, expected Forward")
            case Exchange() | CloseRound() | SampleTaken():
                return self._lead(now, message)
            case _:
                return self.in_order(self.shard.handle(now, message))

    # --- the one that leads ------------------------------------------------------------------------------------------

    def _lead(self, now: float, message: _Changing) -> Outbox:
        if isinstance(message, Exchange) and self._held:
            self._withdraw(message)
        outbox = self.shard.handle(now, message)
        if self.standing is Standing.ALONE:
            self._count(outbox)
            return outbox
        if self.standing is Standing.CATCHING_UP:
            message = _kept(message)
        forward = self._forward(now, message)
        self._held.append(_Held(self._number, self.shard.version, now, outbox))
        return [*self._released(), (self._standby, forward)]

    def _withdraw(self, again: Exchange) -> None:
        """An exchange is asked for again: an answer to the first time that is held back belongs to other weights."""
        asker = Address(Role.WORKER, again.worker)
        for held in self._held:
            held.outbox = [
                each for each in held.outbox if each[0] != asker or getattr(each[1], "number", -1) != again.number
            ]

    def _forward(self, now: float, message: _Changing | None) -> Forward:
        self._number += 1
        in_step = self.standing is Standing.IN_STEP
        shard = self.shard
        return Forward(shard.index, shard.incarnation, self._number, self._written, in_step, now, message)

    def in_order(self, outbox: Outbox) -> Outbox:
        """This, if nothing is held back; else it is held back too, behind what is."""
        if not self._held:
            return outbox
        last = self._held[-1]
        self._held.append(_Held(last.number, last.version, last.since, outbox))
        return []

    def holds_back(self, number: int) -> bool:
        """Whether anything waits for a Forward up to this number."""
        return bool(self._held) and self._held[0].number <= number

    @property
    def number(self) -> int:
        """Of the last Forward that was made, or handled."""
        return self._number

    def _heard(self, now: float, message: Forwarded) -> Outbox:
        """The standby holds what it was forwarded, up to here."""
        if self.standing is Standing.ALONE:
            return []  # the word of one that is not believed in any more
        for held in self._held:
            if held.number == message.number and message.version not in (held.version, AGAIN):
                raise RuntimeError(
                    f"after message {held.number} version {held.version} here, {message.version} at the standby"
                )
        self._word_at = now
        self._acknowledged = max(self._acknowledged, message.number)
        if self.standing is not Standing.CATCHING_UP:
            return self._released()
        self.standing = Standing.IN_STEP
        return [*self._released(), (self._standby, self._forward(now, None))]

    def _released(self) -> Outbox:
        """What need not wait any more."""
        lag = LAG if self.standing is Standing.CATCHING_UP else 0
        outbox: Outbox = []
        while self._held and self._held[0].number <= self._acknowledged + lag:
            part = self._held.popleft().outbox
            self._count(part)
            outbox += part
        return outbox

    def _count(self, outbox: Outbox) -> None:
        self._written += sum(to == JOURNAL and isinstance(item, HANDLED) for to, item in outbox)

    def _look(self, now: float) -> Outbox:
        """Give the standby up if answers have waited for it for long, and it has not said a word."""
        if not self.leads or not self._held:
            return []
        patience_seconds = SILENT_SECONDS if self.standing is Standing.IN_STEP else SEEDING_SECONDS
        silent = now - max(self._held[0].since, self._word_at) > patience_seconds
        return self.claim() if silent else []

    def seed(self, now: float) -> tuple[Seed, Outbox]:
        """What a new standby begins with, from which on everything is forwarded to it.

        Raises:
            ValueError: It has one, or follows. Nothing was changed.
        """
        if not self.leads or self.standing is not Standing.ALONE:
            raise ValueError(f"shard {self.shard.index} was to seed a standby, but it has one or is one")
        self.standing = Standing.CATCHING_UP
        self._begin_pair(self._number)
        self._word_at = now
        seed = Seed(self._number, self._written, self.shard.state())
        return seed, [(self._standby, self._forward(now, None))]

    # --- one without the other ---------------------------------------------------------------------------------------

    def _begin_pair(self, number: int) -> None:
        self._pair, self._claimed, self.granted = number, False, None

    def claim(self) -> Outbox:
        """The other one is gone: ask the ledger to go on without it. One that leads and is alone goes on anyway.

        Raises:
            ValueError: It follows, and may lack what was answered. Nothing was changed.
        """
        if not self.leads and self.standing is not Standing.IN_STEP:
            raise ValueError(f"standby of shard {self.shard.index} cannot take over: it is not in step")
        if self._claimed or self.standing is Standing.ALONE:
            return []
        self._claimed = True
        return [(LEDGER, Claim(self.shard.index, self.shard.incarnation, self._pair, self.leads))]

    def _ruled(self, ruling: Ruling) -> Outbox:
        """The ledger's answer."""
        pair = ruling.shard, ruling.incarnation, ruling.pair, ruling.leads
        if not self._claimed or pair != (self.shard.index, self.shard.incarnation, self._pair, self.leads):
            return []  # to a claim of an earlier pair
        self.granted = ruling.granted
        if not (self.leads and self.granted):
            return []
        self.standing, self._acknowledged = Standing.ALONE, self._number
        return self._released()

    # --- the one that follows ----------------------------------------------------------------------------------------

    def follow(self, seed: Seed) -> Outbox:
        """Begin with what the one that leads had, and handle what it has forwarded since.

        Raises:
            ValueError: It leads, or this is another shard's. Nothing was changed.
        """
        if self.leads:
            raise ValueError(f"shard {self.shard.index} got a seed, but it leads")
        self.shard.recall(seed.state, seed.state.openings)
        self.standing = Standing.CATCHING_UP
        self._number, self._written = seed.number, seed.written
        self._begin_pair(seed.number)
        self._unwritten.clear()
        incarnation = self.shard.incarnation  # an earlier one may have counted its messages alike
        self._early = {number: each for number, each in self._early.items() if each.incarnation == incarnation}
        return self._overtaken()

    def _follow(self, message: Forward) -> Outbox:
        shard = self.shard
        if self.leads or message.shard != shard.index:
            raise ValueError(f"shard {shard.index} got what shard {message.shard} forwards, but it leads")
        if self.standing is not Standing.ALONE and message.incarnation != shard.incarnation:
            raise ValueError(f"got what incarnation {message.incarnation} forwards, expected {shard.incarnation}")
        self._early[message.number] = message
        return [] if self.standing is Standing.ALONE else self._overtaken()

    def _overtaken(self) -> Outbox:
        """Handle what has come, as far as nothing before it is missing."""
        outbox: Outbox = []
        for number in sorted(self._early):
            if number > self._number + 1:
                break
            forward = self._early.pop(number)
            version = AGAIN
            if number > self._number:
                self._repeat(forward)
                version = self.shard.version
            outbox.append((Address(Role.SHARD, self.shard.index), Forwarded(self.shard.index, number, version)))
        return outbox

    def _repeat(self, forward: Forward) -> None:
        """Handle what the one that leads has handled, as it did."""
        self._number = forward.number
        if forward.in_step:
            self.standing = Standing.IN_STEP
        message = forward.message
        if isinstance(message, Exchange) and message.weights_N is not None:
            if self._pulled_N is None:
                self._pulled_N = torch.empty(self.shard.elements)
            message = replace(message, weights_N=self._pulled_N)
        if message is not None:
            try:
                made = self.shard.handle(forward.now, message)
            except ValueError as error:
                raise RuntimeError(f"message {forward.number} was handled by the one that leads: {error}") from error
            self._unwritten += [cast("Record", item) for to, item in made if to == JOURNAL]
        while self._written < forward.written:
            self._unwritten.popleft()
            self._written += 1

    def succeed(self, now: float, recorded: int, cut: int = 0) -> Outbox:
        """The one that led is gone, and the ledger granted the claim: lead, alone, as the next incarnation.

        Args:
            recorded: How many records of HANDLED kinds are in the shard's journal.
            cut: As of Shard.opened.

        Raises:
            ValueError: It cannot: the ledger has not granted it, or the journal lacks what it has not kept. Nothing was
                changed.
        """
        if self.leads or not self.granted:
            raise ValueError(f"standby of shard {self.shard.index} cannot take over: the ledger has not granted it")
        if not 0 <= recorded - self._written <= len(self._unwritten):
            kept = f"{self._written} to {self._written + len(self._unwritten)}"
            raise ValueError(f"shard {self.shard.index}: the journal has {recorded} records, expected {kept}")
        missing = list(self._unwritten)[recorded - self._written :]
        self.leads, self.standing = True, Standing.ALONE
        self._written = recorded + len(missing)
        self._unwritten.clear()
        self._early.clear()
        self._pulled_N = None
        opened = self.shard.succeed(now, cut)
        return [*((JOURNAL, record) for record in missing), (JOURNAL, opened), *self.shard.rejoin()]


def _kept(message: _Changing) -> _Changing:
    """The same with a gradient that stays as it is, whatever its owner does with it."""
    if isinstance(message, Exchange) and message.push is not None:
        return replace(message, push=replace(message.push, gradient_N=message.push.gradient_N.clone()))
    return message


def records_handled(records: Iterable[Record]) -> int:
    """How many of these a shard made in `handle`."""
    return sum(isinstance(record, HANDLED) for record in records)
