"""Reaper: ends what a run started, when the process that started it is gone for whatever reason, SIGKILL included.

The launching process holds the other end of this process's standard input and nothing else; when that closes, every
process with the run's mark in its environment is killed and the run's temporary directory is removed. Started as a
script, with the standard library alone, so that it is there at once and is in nobody's way. Needs /proc (Linux).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time  # noqa: TID251 -- waits for processes to be gone
from contextlib import suppress
from pathlib import Path

MARK = "DISTBELIEF_MARK"
GRACE_SECONDS = 8.0
_LONGEST_TEMPORARY = 40  # characters: socket paths below it must stay within the kernel's 107


class Reaper:
    """A temporary directory and the process that outlives this one to clean up. Use as a context manager.

    Attributes:
        folder: The temporary directory: short, mode 0700, removed at the end.
        mark: Put os.environ[MARK] = mark before starting processes that shall be ended.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix="db-", dir=parent if len(parent) <= _LONGEST_TEMPORARY else "/tmp"))
        self.mark = secrets.token_hex(16)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self.mark, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def __enter__(self) -> Reaper:
        os.environ[MARK] = self.mark
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.pop(MARK, None)
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS + 2)


def marked(mark: str) -> list[int]:
    """Processes with this mark in the environment they were started with, this one excepted."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if needle in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _reap(mark: str, folder: Path) -> None:
    sys.stdin.buffer.read()
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := marked(mark)) and time.monotonic() < deadline:
        for process in found:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _reap(sys.argv[1], Path(sys.argv[2]))
