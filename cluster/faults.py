"""Faults: what is planned to go wrong in a run, at which of an actor's events. This is the plan; it does nothing.

A file lists them:

    [[fault]]                   [[fault]]
    actor = "shard-0"           actor = "worker"
    do = "kill"                 do = "drop"
    event = 120                 every = 500

An actor's events count from 1: of a shard, the ledger and the averager the messages that reach it (not the ticks of its
clock), of a standby what its shard forwards to it, of a worker the messages that it sends, of a worker host those of
all its workers. So a fault sits at a place in what an actor does and not at a time, and its journal says that it fired.

    kill        the actor's process is killed; a worker's is its host
    stop        it stands still for `seconds`, as under SIGSTOP; a worker's host likewise
    delay       the message takes `seconds` longer, so that others overtake it
    drop        the message is lost; whoever sent it sends it again
    duplicate   the message arrives twice
    corrupt     a NaN is in the gradient; an event without a gradient leaves this to the next

Shape suffix: N = parameters of one shard.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ps.errors import BadInput, nearest, require
from ps.messages import Exchange, Message
from ps.streams import numpy_stream

ACTORS = ("shard", "standby", "worker", "host", "ledger", "averager")
MANY = ("shard", "standby", "worker", "host")  # of which there may be several
KINDS = ("kill", "stop", "delay", "drop", "duplicate", "corrupt")
LASTING = ("stop", "delay")  # they take `seconds`
TWO_SIDED = ("kill", "drop")  # they may strike before or after the message is handled
WITH_GRADIENTS = ("shard", "worker", "host")
MOMENTS = ("before", "after")


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the plan.

    Attributes:
        actor: "shard-0", or "shard" for each of its kind.
        do: One of KINDS.
        event: At which of the actor's events; or
        every: mean number of events from one such fault to the next, drawn from the seed.
        times: With `every`: no more than so many, on each actor; 0: no limit.
        when: "before" the message is handled, or "after", when its answer has not left; of a worker's message: before
            it is sent, or after its answer came and nobody has heard of it.
        seconds: How long it lasts.
    """

    actor: str
    do: str
    event: int = 0
    every: float = 0.0
    times: int = 0
    when: str = "before"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        role, _, index = self.actor.partition("-")
        named = role in ACTORS and (not index or (role in MANY and index.isdecimal()))
        expected = f"one of {', '.join(ACTORS)}, the first four also with a number as in shard-0"
        require(named, "actor", self.actor, expected + nearest(role, ACTORS))
        require(self.do in KINDS, "do", self.do, f"one of {', '.join(KINDS)}{nearest(self.do, KINDS)}")
        require(self.event >= 0, "event", self.event, "1 or more")
        require(0 <= self.every < math.inf, "every", self.every, "a number of events, 1 or more")
        require((self.event > 0) != (self.every >= 1), "event", self.event, "event = N, or every = N, 1 or more")
        require(self.times >= 0, "times", self.times, "1 or more")
        require(not (self.times and self.event), "times", self.times, "none: an event happens once")
        require(self.when in MOMENTS, "when", self.when, f"before or after{nearest(self.when, MOMENTS)}")
        sided = self.when == "before" or self.do in TWO_SIDED
        require(sided, "when", self.when, f"before: only {' and '.join(TWO_SIDED)} may come after")
        lasts = 0 < self.seconds < math.inf if self.do in LASTING else self.seconds == 0
        require(lasts, "seconds", self.seconds, "above 0" if self.do in LASTING else f"none: {self.do} takes no time")
        able = self.do != "corrupt" or role in WITH_GRADIENTS
        require(able, "do", self.do, f"another: no gradient reaches the {role}")

    @property
    def role(self) -> str:
        return self.actor.partition("-")[0]

    def strikes(self, actor: str) -> bool:
        """Whether it is planned for this actor, "shard-0" for example."""
        return actor == self.actor or (actor.partition("-")[0] == self.actor)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All that is planned for one run. `seed`: root of what happens at random."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0

    def __bool__(self) -> bool:
        return bool(self.faults)

    def strikes(self, role: str) -> bool:
        """Whether anything is planned for actors of this role."""
        return any(fault.role == role for fault in self.faults)

    def of(self, actor: str, after: int = 0) -> Schedule:
        """What is planned for this actor, "shard-0" for example. `after`: its last event at which one fired."""
        chosen = [(at, fault) for at, fault in enumerate(self.faults) if fault.strikes(actor)]
        return Schedule([(fault, self._events(at, fault, actor)) for at, fault in chosen], after)

    def _events(self, at: int, fault: Fault, actor: str) -> Iterator[int]:
        """The events at which it strikes this actor, ascending."""
        if fault.event:
            yield fault.event
            return
        draws = numpy_stream(self.seed, f"faults/{at}/{actor}")
        event = count = 0
        while not fault.times or count < fault.times:
            event += int(draws.geometric(1.0 / fault.every))
            count += 1
            yield event


class Schedule:
    """One actor's faults, as its events go by.

    Args:
        planned: Each with the events at which it strikes, ascending.
        after: The first event is the next one after this.

    Attributes:
        event: The actor's events so far.
    """

    def __init__(self, planned: Sequence[tuple[Fault, Iterator[int]]], after: int = 0) -> None:
        self.event = after
        self._coming: list[tuple[int, Fault, Iterator[int]]] = []
        self._waiting: list[Fault] = []  # corruptions that wait for a gradient
        for fault, events in planned:
            self._expect(fault, events)

    def _expect(self, fault: Fault, events: Iterator[int]) -> None:
        for event in events:
            if event > self.event:
                self._coming.append((event, fault, events))
                return

    def due(self, message: Message) -> tuple[Fault, ...]:
        """Count one event, the one of this message; return what strikes at it."""
        self.event += 1
        if not self._coming and not self._waiting:
            return ()
        struck = [entry for entry in self._coming if entry[0] == self.event]
        self._coming = [entry for entry in self._coming if entry[0] != self.event]
        for _, fault, events in struck:
            self._expect(fault, events)
        faults = [fault for _, fault, _ in struck if fault.do != "corrupt"]
        self._waiting += [fault for _, fault, _ in struck if fault.do == "corrupt"]
        if self._waiting and isinstance(message, Exchange) and message.push is not None:
            faults.append(self._waiting.pop(0))
        return tuple(faults)


def corrupted(message: Message) -> Message:
    """The same push with a NaN in its gradient, in memory of its own."""
    assert isinstance(message, Exchange)
    assert message.push is not None
    gradient_N = message.push.gradient_N.clone()
    gradient_N[:1] = math.nan
    return replace(message, push=replace(message.push, gradient_N=gradient_N))


def read_faults(file: Path, shards: int, seed: int, standbys: bool = False) -> FaultPlan:
    """The plan in a file.

    Args:
        shards: Shards of the run.
        standbys: Whether they have standbys.
        seed: The run's.

    Raises:
        BadInput: The file cannot be read, or something in it cannot be done.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"--faults: cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"--faults: {file} is not TOML: {error}") from error
    for name in tables:
        if name != "fault":
            raise BadInput(f"{file}: got {name!r}, expected [[fault]] and nothing else")
    found = tables.get("fault")
    if not isinstance(found, list) or not found:
        raise BadInput(f"{file}: got no [[fault]], expected one or more; see distbelief launch --help")
    faults = tuple(_fault(table, f"{file}: fault {number}") for number, table in enumerate(found, start=1))
    for number, fault in enumerate(faults, start=1):
        _, _, index = fault.actor.partition("-")
        where = f"{file}: fault {number}: actor: got {fault.actor!r}"
        if fault.role in ("shard", "standby") and index and int(index) >= shards:
            raise BadInput(f"{where}, expected {fault.role}-0 to {fault.role}-{shards - 1}")
        if fault.role == "standby" and not standbys:
            raise BadInput(f"{where}, expected another: this run has no standbys; add --replicas 1")
    return FaultPlan(faults, seed)


def _fault(table: Any, where: str) -> Fault:
    if not isinstance(table, dict):
        raise BadInput(f"{where}: got {table!r}, expected a table: [[fault]] and then actor, do, event or every")
    known: Mapping[str, type] = {
        "actor": str, "do": str, "event": int, "every": float, "times": int, "when": str, "seconds": float,
    }  # fmt: skip
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise BadInput(f"{where}: got {name!r}, expected one of {', '.join(known)}{nearest(name, known)}")
        kind = known[name]
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            names = {str: "text", int: "a whole number", float: "a number"}
            raise BadInput(f"{where}: {name}: got {value!r}, expected {names[kind]}")
        values[name] = kind(value)
    for name in [field.name for field in fields(Fault)][:2]:
        if name not in values:
            raise BadInput(f"{where}: got no {name}, expected {name} = ...")
    try:
        return Fault(**values)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
