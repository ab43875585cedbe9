"""Counter: how far a task has come and how long it will take. A bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time  # noqa: TID251 -- what a person watches
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distbelief.progress import LINE_SECONDS, duration, percent


class Counter:
    """Counts to a total; nothing of it stays on a terminal, and nothing appears for what is over at once.

    Args:
        name: What goes on.
        unit: What is counted.
        stream: Where it is shown.
        clock: Seconds, for the plain lines.
    """

    def __init__(self, name: str, unit: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._unit = name, unit
        self._stream = stream
        self._clock = clock
        self._began = self._written = clock()
        console = Console(file=stream)
        self._live = console.is_terminal and not console.is_dumb_terminal
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeRemainingColumn(compact=True), TextColumn("left"),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._live)
        self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """So many of all are done. Cheap: call it as often as there is news."""
        self._bar.update(self._task, completed=done, total=total)
        self._bar.start()
        now = self._clock()
        if self._live or now - self._written < LINE_SECONDS:
            return
        self._written = now
        left = (now - self._began) * (total - done) / done if done else None
        share = percent(done / total, 1)
        self._stream.write(f"{self._name}  {done:,}/{total:,} {self._unit}  {share}  eta {duration(left)}\n")
        self._stream.flush()
