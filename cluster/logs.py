"""Logs: what the actors of a run have to say, one line of JSON each, one file per actor, in one folder.

    {"time": 1764043200.125, "level": "warning", "actor": "host-0", "message": "shard-1 does not answer", "from": "..."}

Python's own logging carries them: `logging.getLogger("distbelief...")` here, and whatever libraries have to warn of. A
line is one write in append mode, so that several processes may write to one file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = "logs"  # in the run directory
SUFFIX = ".jsonl"
OURS = "distbelief"
LEVELS = ("debug", "info", "warning", "error")


class LogFile(logging.Handler):
    """Writes records as lines; a folder that cannot be written loses them and nothing else.

    Args:
        folder: Of the run.
        actor: Whose log this is, for example "shard-0".
    """

    def __init__(self, folder: Path, actor: str) -> None:
        super().__init__()
        self._actor = actor
        self._file: int | None = None
        with suppress(OSError):
            (folder / FOLDER).mkdir(exist_ok=True)
            path = folder / FOLDER / f"{actor}{SUFFIX}"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def emit(self, record: logging.LogRecord) -> None:
        if self._file is None:
            return
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower() if record.levelno <= logging.ERROR else "error",
            "actor": self._actor,
            "message": record.getMessage(),
        }
        if not record.name.startswith(OURS):
            line["from"] = record.name
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        with suppress(OSError):
            os.write(self._file, (json.dumps(line, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))

    def close(self) -> None:
        super().close()
        if self._file is not None:
            os.close(self._file)
            self._file = None


def adopt(folder: Path, actor: str) -> None:
    """Make this process's log that of one actor, for good: all that is ours, and others' warnings."""
    handler = LogFile(folder, actor)
    logging.getLogger(OURS).setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)


@contextmanager
def logging_to(folder: Path, actor: str) -> Iterator[None]:
    """Write what is ours to an actor's log, for a while; in a process that is somebody else's too."""
    handler, ours = LogFile(folder, actor), logging.getLogger(OURS)
    before = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False  # a person sees the same on the screen
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before[0])
        ours.propagate = before[1]
        handler.close()
