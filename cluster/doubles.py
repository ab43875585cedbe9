"""Doubles: shards with standbys in virtual time (see ps.standby). A shard that is killed is missed after
SUCCESSION_SECONDS; then its standby goes on, once the ledger grants that, and another is brought up as soon as a
process would be. One whose standby is not in step, or was given up, comes back as without.

A standby that is killed is missed as soon, and one that stands still when its shard says so; its shard goes on alone,
once the ledger grants that. What a shard forwards takes as long as what it is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from cluster.crashes import RESTART_SECONDS, SNAPSHOT_SECONDS, CrashingSimulation, Kept
from cluster.faults import Fault, FaultPlan
from cluster.mishaps import CALL_SECONDS, RETRY_SECONDS
from cluster.model import ClusterModel
from cluster.pieces import Pieces
from cluster.simulated import Actor
from ps.journal import Record
from ps.messages import (
    JOURNAL,
    Address,
    Claim,
    Exchange,
    Exchanged,
    Forward,
    Message,
    Refused,
    Role,
    Ruling,
    Tick,
)
from ps.shard import Outbox
from ps.standby import Replica, Seed, Standing, records_handled

SUCCESSION_SECONDS = 0.5
LOOK_SECONDS = 0.01  # until a snapshot is tried again that would hold what the standby does not

Forwarding = tuple[Actor, Replica, Replica, Forward]  # from this one that leads to this standby


class DoubledSimulation(CrashingSimulation):
    """One simulated run whose shards have standbys. Arguments as of CrashingSimulation."""

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
        super().__init__(
            pieces, model, workers, plan, anew, max_seconds, call_seconds, restart_seconds, snapshot_seconds
        )
        self._leaders: dict[Address, Replica] = {}
        self._standbys: dict[Address, Replica] = {}
        self._heirs: set[Address] = set()  # shards whose standby has asked to go on
        self._written: dict[Address, Kept] = {}
        self._requests: dict[Address, dict[tuple[int, int], tuple[Exchange, bool]]] = {}  # not answered yet
        for actor, shard in zip(self._shards, pieces.shards, strict=True):
            actor.recorder = self._written[actor.address] = Kept(actor.recorder)
            self._lead(actor, Replica(shard))
            self._bring_up(actor)

    def _lead(self, actor: Actor, replica: Replica) -> None:
        address = actor.address
        self._leaders[address] = self._machines[address] = replica
        requests: dict[tuple[int, int], tuple[Exchange, bool]] = {}
        self._requests[address] = requests

        def handle(now: float, message: Message) -> Outbox:
            if isinstance(message, Exchange):  # the answer may come with that to another one
                requests[message.worker, message.number] = message, self._muted
            return replica.handle(now, message)

        actor.handle = handle

    def _answer(self, sender: Actor, request: Message, worker: int, answer: Message) -> None:
        if not isinstance(answer, Exchanged | Refused):
            super()._answer(sender, request, worker, answer)
            return
        now_muted = self._muted
        request, self._muted = self._requests[sender.address].pop((worker, answer.number))
        super()._answer(sender, request, worker, answer)
        self._muted = now_muted

    # --- what goes between the two -----------------------------------------------------------------------------------

    def _send(self, to: Address, message: Message) -> None:
        if isinstance(message, Ruling):
            self._send_ruling(to, message)
            return
        if not isinstance(message, Forward):
            super()._send(to, message)
            return
        actor = self._shards[to.index]
        pushed = isinstance(message.message, Exchange) and message.message.push is not None
        seconds = actor.vector_seconds if pushed else self._latency_seconds
        if (standby := self._standbys.get(actor.address)) is not None:  # else it is gone, and its shard not told yet
            self._agenda.after(seconds, self._forwarded, (actor, self._leaders[actor.address], standby, message))

    def _forwarded(self, what: Forwarding) -> None:
        """It reaches the standby, where something may be planned."""
        actor, _, standby, message = what
        if standby is not self._standbys.get(actor.address):
            return
        name = f"standby-{actor.address.index}"
        if (until := self._still.get(name, 0.0)) > self.now:
            self._agenda.after(until - self.now, self._forwarded, what)
            return
        recorder = self._pieces.recorders.get(Address(Role.STANDBY, actor.address.index))
        faults = self._due(name, message, recorder) if recorder is not None else ()
        seconds = sum(fault.seconds for fault in faults)
        if any(fault.do == "stop" for fault in faults):
            self._still[name] = self.now + seconds
        if seconds:
            self._agenda.after(seconds, self._take_forward, (what, faults))
        else:
            self._take_forward((what, faults))

    def _take_forward(self, taken: tuple[Forwarding, tuple[Fault, ...]]) -> None:
        """The standby handles it, or is killed before or after; or it, or the answer, is lost, and it is sent again."""
        what, faults = taken
        actor, leader, standby, message = what
        if standby is not self._standbys.get(actor.address):
            return
        struck = {(fault.do, fault.when) for fault in faults}
        if {("kill", "before"), ("drop", "before")}.isdisjoint(struck):
            said = standby.handle(self.now, message)
            if any(do == "duplicate" for do, _ in struck):
                said += standby.handle(self.now, message)
            if {("kill", "after"), ("drop", "after")}.isdisjoint(struck):
                self._said(actor, leader, said)
        if any(do == "kill" for do, _ in struck):
            self._lose_standby(actor)
        elif any(do == "drop" for do, _ in struck):
            self._agenda.after(RETRY_SECONDS, self._forwarded, what)

    def _follow(self, what: tuple[Actor, Replica, Replica, Seed]) -> None:
        actor, leader, standby, seed = what
        if standby is self._standbys.get(actor.address):
            self._said(actor, leader, standby.follow(seed))

    def _said(self, actor: Actor, leader: Replica, outbox: Outbox) -> None:
        for _, item in outbox:
            self._agenda.after(self._latency_seconds, self._hear, (actor, leader, cast("Message", item)))

    def _hear(self, what: tuple[Actor, Replica, Message]) -> None:
        """A standby's word reaches the one that leads, if it still does."""
        actor, leader, message = what
        if (until := self._still.get(str(actor.address), 0.0)) > self.now:
            self._agenda.after(until - self.now, self._hear, what)
        elif leader is self._leaders[actor.address] and actor.address not in self._down:
            self._say_as(actor, leader.handle(self.now, message))

    def _say_as(self, actor: Actor, outbox: Outbox) -> None:
        """What comes of something else than a message that was sent in virtual time."""
        if records := [cast("Record", item) for to, item in outbox if to == JOURNAL]:
            actor.recorder.write(records)
        for to, item in outbox:
            if to.role is Role.WORKER:
                self._answer(actor, cast("Message", item), to.index, cast("Message", item))
            elif to != JOURNAL:
                self._send(to, cast("Message", item))

    # --- what the ledger says ----------------------------------------------------------------------------------------

    def _claim(self, claim: Outbox) -> None:
        for to, message in claim:
            self._send(to, cast("Message", message))

    def _send_ruling(self, to: Address, ruling: Ruling) -> None:
        if self._muted:
            claim = Claim(ruling.shard, ruling.incarnation, ruling.pair, ruling.leads)
            self._lost(self._ledger, claim)
        else:
            self._agenda.after(self._latency_seconds, self._ruled, (to, ruling))

    def _ruled(self, what: tuple[Address, Ruling]) -> None:
        to, ruling = what
        if (until := self._still.get(str(to), 0.0)) > self.now:
            self._agenda.after(until - self.now, self._ruled, what)
            return
        actor = self._shards[ruling.shard]
        if to.role is Role.STANDBY:
            standby = self._standbys.get(actor.address)
            if standby is not None and actor.address in self._heirs:
                self._heirs.discard(actor.address)
                standby.handle(self.now, ruling)
                self._succeed(actor, standby) if standby.granted else self._return(actor)
        elif actor.address not in self._down:
            leader = self._leaders[actor.address]
            self._say_as(actor, leader.handle(self.now, ruling))
            if leader.standing is Standing.ALONE and actor.address in self._standbys:
                del self._standbys[actor.address]
                self._agenda.after(self._restart_seconds, self._bring_up, actor)

    def _tick(self, _: None) -> None:
        super()._tick(_)
        for actor in self._shards:
            if actor.address not in self._down and self._still.get(str(actor.address), 0.0) <= self.now:
                self._say_as(actor, self._leaders[actor.address].handle(self.now, Tick()))

    # --- losses ------------------------------------------------------------------------------------------------------

    def _lose_standby(self, actor: Actor) -> None:
        del self._standbys[actor.address]
        self._agenda.after(SUCCESSION_SECONDS, self._miss_standby, actor)

    def _miss_standby(self, actor: Actor) -> None:
        """A standby's process is gone: its shard is told, unless that is gone too, or has a new one by now."""
        if actor.address in self._heirs:
            self._heirs.discard(actor.address)
            self._return(actor)
        elif actor.address not in self._down and actor.address not in self._standbys:
            self._claim(self._leaders[actor.address].claim())
            self._agenda.after(self._restart_seconds, self._bring_up, actor)

    def _bring_up(self, actor: Actor) -> None:
        if actor.address in self._down or actor.address in self._standbys:
            return
        if self._leaders[actor.address].standing is not Standing.ALONE:  # the ledger has not granted it yet
            self._agenda.after(LOOK_SECONDS, self._bring_up, actor)
            return
        self._still.pop(f"standby-{actor.address.index}", None)
        standby = Replica(self._anew().shards[actor.address.index], leads=False)
        self._standbys[actor.address] = standby
        leader = self._leaders[actor.address]
        seed, outbox = leader.seed(self.now)
        self._agenda.after(actor.vector_seconds, self._follow, (actor, leader, standby, seed))
        self._say_as(actor, outbox)

    def _away_seconds(self, actor: Actor) -> float:
        standby = self._standbys.get(actor.address)
        in_step = standby is not None and standby.standing is Standing.IN_STEP
        return SUCCESSION_SECONDS if in_step else super()._away_seconds(actor)

    def _crash(self, actor: Actor) -> None:
        super()._crash(actor)
        if actor.address.role is Role.SHARD:
            waiting = self._requests[actor.address]
            lost = [request for request, _ in waiting.values()]
            waiting.clear()
            for request in lost:
                self._lost(actor, request)

    def _come_back(self, actor: Actor) -> None:
        if actor.address.role is not Role.SHARD:
            super()._come_back(actor)
            return
        standby = self._standbys.get(actor.address)
        if standby is None or standby.standing is not Standing.IN_STEP:
            self._return(actor)
        else:
            self._heirs.add(actor.address)
            self._claim(standby.claim())

    def _return(self, actor: Actor) -> None:
        """A shard comes back as one without a standby, and gets one."""
        self._standbys.pop(actor.address, None)
        super()._come_back(actor)
        recorded = records_handled(self._written[actor.address].records)
        self._lead(actor, Replica(self._pieces.shards[actor.address.index], written=recorded))
        self._bring_up(actor)

    def _succeed(self, actor: Actor, standby: Replica) -> None:
        """A standby goes on in the place of its shard."""
        address = actor.address
        del self._standbys[address]
        self._down.discard(address)
        outbox = standby.succeed(self.now, records_handled(self._written[address].records))
        self._openings[address] = (*self._openings[address], standby.shard.version)
        self._lead(actor, standby)
        shards = [standby.shard if each.index == address.index else each for each in self._pieces.shards]
        self._pieces = replace(self._pieces, shards=shards)
        self._say_as(actor, outbox)
        self._agenda.after(self._restart_seconds, self._bring_up, actor)

    def _save(self, what: tuple[int, Address]) -> None:
        leader = self._leaders.get(what[1])
        if leader is not None and leader.holds_back(leader.number):
            self._agenda.after(LOOK_SECONDS, self._save, what)
        else:
            super()._save(what)
