"""Crashes: shards, ledger and averager that are killed in virtual time, and come back from what they wrote down.

Who is killed loses its memory, what it was about to say, and what reaches it until it is back; whoever asked it asks
again. It comes back as on the live clock: a shard and the averager from their newest snapshot, the ledger from its
journal. Snapshots are taken now and then, one actor after the other, the averager last; one in which an actor is down
is given up. A message that was on its way meanwhile may still arrive, late, at who came back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast

from cluster.faults import Fault, FaultPlan
from cluster.mishaps import CALL_SECONDS, FaultySimulation, Letter
from cluster.model import ClusterModel
from cluster.pieces import Pieces, Recorder
from cluster.simulated import Actor
from ps.averager import Averager
from ps.journal import Record
from ps.ledger import Ledger
from ps.messages import AVERAGER, JOURNAL, LEDGER, Address, CloseRound, Message, Role, Tick
from ps.shard import Outbox, Shard
from ps.snapshot import decode, encode
from ps.standby import Replica
from ps.states import AveragerState, ShardState, State

RESTART_SECONDS = 3.0  # until a process that was killed is back
SNAPSHOT_SECONDS = 30.0  # from one set to the next
APART_SECONDS = 0.25  # one actor's state after the other's
QUIET_SECONDS = 200.0  # without a crash: then what was lost is known


@dataclass(slots=True)
class _Set:
    """A snapshot that is being taken. `states`: of the actors that are done."""

    number: int
    states: dict[Address, State]


class Kept:
    """A recorder that can be read."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.records: list[Record] = []

    def write(self, records: Iterable[Record]) -> None:
        new = list(records)
        self.records += new
        self._recorder.write(new)


class CrashingSimulation(FaultySimulation):
    """One simulated run whose shards, ledger and averager may be killed as planned.

    Args:
        pieces, model, workers, plan, max_seconds, call_seconds: As of FaultySimulation.
        anew: Makes the pieces of the run at their beginning.
        restart_seconds: How long an actor is away.
        snapshot_seconds: From one snapshot to the next; 0 for none.
    """

    def __init__(
        self,
        pieces: Pieces,
        model: ClusterModel,
        workers: int,
        plan: FaultPlan,
        anew: Callable[[], Pieces],
        max_seconds: float = 0.0,
        call_seconds: float = CALL_SECONDS,
        restart_seconds: float = RESTART_SECONDS,
        snapshot_seconds: float = SNAPSHOT_SECONDS,
    ) -> None:
        super().__init__(pieces, model, workers, plan, max_seconds, call_seconds)
        self._anew = anew
        self._restart_seconds = restart_seconds
        self._snapshot_seconds = snapshot_seconds
        self._kept = self._ledger.recorder = Kept(self._ledger.recorder)
        self._kept.records.append(pieces.ledger.opened(0.0))
        self._machines: dict[Address, Shard | Replica | Averager] = {
            **{actor.address: shard for actor, shard in zip(self._shards, pieces.shards, strict=True)},
            AVERAGER: pieces.averager,
        }
        self._openings: dict[Address, tuple[int, ...]] = {actor.address: (0,) for actor in self._shards}
        self._down: set[Address] = set()
        self._crashed = -QUIET_SECONDS  # when that happened last
        self._saved: dict[Address, tuple[int, State]] = {}  # of the newest whole set
        self._saving: _Set | None = None
        self._sets = 0
        if snapshot_seconds:
            self._agenda.after(snapshot_seconds, self._begin_set, None)

    # --- killed ------------------------------------------------------------------------------------------------------

    def _deliver(self, letter: Letter) -> None:
        actor, message = letter
        if actor.address not in self._down:
            super()._deliver(letter)
        elif not isinstance(message, Tick):
            self._lost(actor, message)

    def _arrive(self, arriving: tuple[Letter, tuple[Fault, ...]]) -> None:
        letter, faults = arriving
        actor, message = letter
        if actor.address in self._down:  # it was killed while this was delayed
            self._lost(actor, message)
            return
        kill = next((fault for fault in faults if fault.do == "kill"), None)
        if kill is None:
            super()._arrive(arriving)
            return
        if kill.when == "after":
            with suppress(ValueError):  # refused, as in `_let_in`
                out = actor.handle(self.now, message)
                actor.recorder.write([cast("Record", item) for to, item in out if to == JOURNAL])
        self._crash(actor)
        self._lost(actor, message)

    def _let_in(self, letter: Letter) -> None:
        try:
            super()._let_in(letter)
        except ValueError:
            if not isinstance(letter[1], CloseRound):
                raise
            self._forget("question", letter[0].address.index)  # refused: it came to one that is not as it was

    def _crash(self, actor: Actor) -> None:
        """All that this actor knew is gone, and what it would have sent again."""
        self._down.add(actor.address)
        self._crashed = self.now
        if actor.address == LEDGER:
            self._forget("question")
        elif actor.address.role is Role.SHARD:
            self._forget("sample", actor.address.index)
        self._agenda.after(self._away_seconds(actor), self._come_back, actor)

    def _away_seconds(self, actor: Actor) -> float:
        """How long this one, which was killed, is away."""
        return self._restart_seconds

    def _forget(self, kind: str, shard: int | None = None) -> None:
        """Errands that nobody runs any more: of this kind, from or to this shard, or all of them."""
        for errand in [each for each in self._errands if each[0] == kind and shard in (None, each[1])]:
            del self._errands[errand]

    # --- back again --------------------------------------------------------------------------------------------------

    def _come_back(self, actor: Actor) -> None:
        address, pieces = actor.address, self._anew()
        self._down.discard(address)
        number, state = self._saved.get(address, (0, None))
        if address == LEDGER:
            self._ledger_returns(pieces.ledger)
        elif address == AVERAGER:
            averager = self._machines[AVERAGER] = pieces.averager
            if isinstance(state, AveragerState):
                averager.recall(state)
            self._takes_over(actor, averager.handle, [averager.opened(self.now, number)])
            self._pieces = replace(self._pieces, averager=averager)
        else:
            shard = self._machines[address] = pieces.shards[address.index]
            state = state or shard.state()
            assert isinstance(state, ShardState)
            self._openings[address] = (*self._openings[address], state.version)
            shard.recall(state, self._openings[address])
            self._takes_over(actor, shard.handle, [shard.opened(self.now, number)])
            shards = [shard if each.index == shard.index else each for each in self._pieces.shards]
            self._pieces = replace(self._pieces, shards=shards)
            self._say(shard.rejoin())

    def _ledger_returns(self, ledger: Ledger) -> None:
        ledger.recall(self._kept.records)
        self._takes_over(self._ledger, ledger.handle, [ledger.opened(self.now)])
        self._pieces = replace(self._pieces, ledger=ledger)
        says = ledger.rejoin(self.now)
        self._kept.write([cast("Record", item) for to, item in says if to == JOURNAL])
        self._say(says)

    @staticmethod
    def _takes_over(actor: Actor, handle: Callable[[float, Message], Outbox], records: list[Record]) -> None:
        actor.handle = handle
        actor.recorder.write(records)

    def _say(self, says: Outbox) -> None:
        for to, item in says:
            if to != JOURNAL:
                self._send(to, cast("Message", item))

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def _begin_set(self, _: None) -> None:
        self._sets += 1
        self._saving = _Set(self._sets, {})
        for place, address in enumerate(self._machines):  # the averager is last
            self._agenda.after(place * APART_SECONDS, self._save, (self._sets, address))
        self._agenda.after(self._snapshot_seconds, self._begin_set, None)

    def _save(self, what: tuple[int, Address]) -> None:
        number, address = what
        if self._saving is None or self._saving.number != number:
            return
        if address in self._down:
            self._saving = None
            return
        machine = self._machines[address]
        actor = self._averager if address == AVERAGER else self._shards[address.index]
        actor.recorder.write([machine.saved(self.now, number)])
        self._saving.states[address] = decode(b"".join(encode(machine.state())), str(address))
        if len(self._saving.states) == len(self._machines):
            self._saved = {each: (number, state) for each, state in self._saving.states.items()}
            self._saving = None

    # --- the end -----------------------------------------------------------------------------------------------------

    def _everybody_left(self) -> None:
        """It is over if nothing was lost; to know that takes some time after a crash."""
        if self._workers or self._to_start:
            return
        if self._down or self.now - self._crashed < QUIET_SECONDS:
            self._agenda.after(QUIET_SECONDS, self._look_again, None)
        elif self._pieces.ledger.status().ending:
            super()._everybody_left()
        else:
            self._to_start += 1
            self._agenda.after(0.0, self._start, self._next_worker)
            self._next_worker += 1

    def _look_again(self, _: None) -> None:
        self._everybody_left()
