"""Unreadable examples, by name: a text file with one line each, for a person to read after the run.

Several processes may append to it at once; each names an example once, so a file has at most one line per process.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path


class UnreadableList:
    """Writes the list; the file appears with its first line. Safe from many threads.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named: set[str] = set()
        self._lock = threading.Lock()

    def add(self, message: str) -> None:
        """Name an example, unless this list has named it before. A list that cannot be written loses only the name:
        the run goes on, and the example is counted all the same.
        """
        with self._lock:
            if message in self._named:
                return
            self._named.add(message)
            logging.getLogger("distbelief.unreadable").warning("skipped: %s", " ".join(message.split()))
            # One write in append mode: lines of several processes do not mix.
            with suppress(OSError), self._path.open("ab", buffering=0) as file:
                file.write(f"{' '.join(message.split())}\n".encode(errors="backslashreplace"))
