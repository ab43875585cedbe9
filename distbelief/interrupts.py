"""Interrupts: SIGINT and SIGTERM end a run in order; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

AT_ONCE = 130  # exit code of a run that was interrupted


class Interrupts:
    """Notices SIGINT and SIGTERM while in use as a context manager; does nothing outside the main thread.

    Attributes:
        seen: Whether one has come.
        orderly: Whether the run can end in order by now; before that, an interrupt raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.seen = False
        self.orderly = False
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._earlier[name] = signal.signal(name, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._earlier.items():
            if handler is not None:  # None: it was not installed from Python, and cannot be from there
                signal.signal(name, handler)

    def reinstall(self) -> None:
        """Take the signals again after somebody else (Ray) took them."""
        for name in self._earlier:
            signal.signal(name, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.seen and self.orderly:
            os._exit(AT_ONCE)  # the reaper ends what is left
        self.seen = True
        if not self.orderly:
            raise KeyboardInterrupt
