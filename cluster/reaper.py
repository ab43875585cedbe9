"""Reaper: ends what a run started, when the process that started it is gone for whatever reason, SIGKILL included.

The launching process holds the other end of this process's standard input and nothing else; when that closes, every
process with the run's mark in its environment, or with its working directory in the run's temporary one, is killed and
that directory is removed. Both signs are needed: a process that gives itself a title (Ray's agents do) writes it over
its environment; one that changes its directory keeps its environment.

Started as a script, with the standard library alone, so that it is there at once and is in nobody's way. Needs /proc
(Linux).
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


def members(mark: str, folder: Path) -> list[int]:
    """Processes that belong to a run: started with its mark in their environment, or at work in its folder."""
    needle, home = f"{MARK}={mark}".encode(), os.path.realpath(folder)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if needle in (entry / "environ").read_bytes() or _within(os.readlink(entry / "cwd"), home):
                    found.append(int(entry.name))
    return found


def _within(path: str, home: str) -> bool:
    return path == home or path.startswith(home + os.sep)


def _reap(mark: str, folder: Path) -> None:
    sys.stdin.buffer.read()
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := members(mark, folder)) and time.monotonic() < deadline:
        for process in found:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _reap(sys.argv[1], Path(sys.argv[2]))
