"""Agenda: the events of virtual time, in the order (time, priority, sequence).

Two events of one time and priority happen in the order in which they were put down, so a simulation depends on nothing
but what it was told. Source: SimPy's event queue (Müller et al.).

`agenda` makes one: of compiled code, if there was a compiler when this was installed, else the one below, which does
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol

Action = Callable[[Any], None]

NORMAL, LATE = 0, 1  # priorities; late: looks at the others' work of the same moment


class Agenda(Protocol):
    """What will happen, and the time it is now."""

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""

    def after(self, seconds: float, action: Action, argument: Any, priority: int = NORMAL, /) -> None:
        """Let `action(argument)` happen in so many seconds, 0 or more."""

    def run(self, most: int, /) -> bool:
        """Let at most so many events happen, until `stop`; return whether there may be more to come."""

    def stop(self) -> None:
        """Let nothing more happen."""


class PlainAgenda:
    """An agenda in Python."""

    __slots__ = ("_events", "_sequence", "_stopped", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, int, Action, Any]] = []
        self._sequence = 0
        self._stopped = False

    def after(self, seconds: float, action: Action, argument: Any, priority: int = NORMAL, /) -> None:
        self._sequence += 1
        heappush(self._events, (self.now + seconds, priority, self._sequence, action, argument))

    def stop(self) -> None:
        self._stopped = True

    def run(self, most: int, /) -> bool:
        events = self._events
        for _ in range(most):
            if self._stopped or not events:
                return False
            self.now, _, _, action, argument = heappop(events)
            action(argument)
        return True


try:
    from cluster._agenda import Agenda as _CompiledAgenda
except ImportError:  # not compiled
    agenda: Callable[[], Agenda] = PlainAgenda
else:
    agenda = _CompiledAgenda
