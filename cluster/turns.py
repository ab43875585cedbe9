"""Compute turns: many logical workers, few cores, first come, first served.

Without it, threads that compete for a core get very unequal shares, and staleness would tell about the scheduler
rather than about the workers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class TurnsClosed(Exception):  # noqa: N818 -- not a fault: the run is ending
    """No more turns are given."""


class Turns(Generic[T]):
    """Hands out a few things of one kind (a core with its model, a gradient buffer) to many threads, in the order in
    which they asked.

    Args:
        things: What is handed out; as many turns are taken at once as there are things.
    """

    def __init__(self, things: Sequence[T]) -> None:
        self._free = deque(things)
        self._line: deque[threading.Event] = deque()
        self._given: dict[threading.Event, T] = {}
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> T:
        """Wait for a turn. Raises TurnsClosed once the turns are closed."""
        ticket = threading.Event()
        with self._lock:
            if self._closed:
                raise TurnsClosed
            if self._free and not self._line:
                return self._free.popleft()
            self._line.append(ticket)
        ticket.wait()
        with self._lock:
            if ticket not in self._given:
                raise TurnsClosed
            return self._given.pop(ticket)

    def give_back(self, thing: T) -> None:
        """End a turn: the thread that has waited longest gets the thing."""
        with self._lock:
            if self._line and not self._closed:
                ticket = self._line.popleft()
                self._given[ticket] = thing
                ticket.set()
            else:
                self._free.append(thing)

    def close(self) -> None:
        """Give no more turns; wake everyone in line."""
        with self._lock:
            self._closed = True
            while self._line:
                self._line.popleft().set()
