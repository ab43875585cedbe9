"""Kills of a live run's processes, one after the other, as drawn from a seed; and what they hit.

A process is found by the journal that it has open. The next one is killed when the run has gone on for a while.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time  # noqa: TID251 -- processes are waited for
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ps.journal import PullHandled, PushHandled, ShardOpened, WorkerExchanged
from ps.streams import numpy_stream
from ps.wire.files import journals, read_journal
from tests.distbelief.test_live import COMMAND, descendants

ROLES = ("host", "shard", "averager", "ledger", "driver")
PATIENCE_SECONDS = 240.0
GOES_ON_BYTES = 8000  # of a shard's journal between two kills: about a hundred exchanges


@dataclass(slots=True)
class Ride:
    """One run with kills. `killed`: whom, in order, and `times`: when; `family`: every process that was part of it."""

    run: Path
    killed: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    family: set[psutil.Process] = field(default_factory=set)
    output: str = ""


def holders(journal: Path) -> list[int]:
    """Processes that have this journal open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if any(os.readlink(each) == str(journal) for each in (entry / "fd").iterdir()):
                    found.append(int(entry.name))
    return found


def ride(cwd: Path, seed: int, roles: Sequence[str], options: Sequence[str]) -> Ride:
    """Launch a run in this directory, kill these, resume it whenever its driver was, and wait for its end."""
    draws = numpy_stream(seed, "kills")
    made = Ride(cwd / "run")
    process = _start(cwd, ["launch", "--run", "run", *options])
    for role in roles:
        if not _goes_on(made, process):
            break
        time.sleep(float(draws.random()))  # any moment
        made.family |= descendants(psutil.Process(process.pid))
        made.times.append(time.time())
        if role == "driver":
            process.kill()
            made.output += process.communicate()[1]
            process = _start(cwd, ["resume", "run"])
        else:
            alive = [path for path in journals(made.run / "journal") if path.stem.startswith(role) and holders(path)]
            if not alive:
                continue
            for pid in holders(alive[int(draws.integers(len(alive)))]):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        made.killed.append(role)
    made.output += process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == 0, made.output
    return made


def _start(cwd: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [COMMAND[0], *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def _goes_on(made: Ride, process: subprocess.Popen[str]) -> bool:
    """Wait until the run has gone on for a while; return whether it still does."""
    path = made.run / "journal" / "shard-0.journal"
    deadline = time.monotonic() + PATIENCE_SECONDS
    before = path.stat().st_size if path.exists() else 0
    while process.poll() is None:
        assert time.monotonic() < deadline, "it does not go on"
        if path.exists() and path.stat().st_size > before + GOES_ON_BYTES:
            return True
        time.sleep(0.05)
    return False


def hit_in_mid_exchange(made: Ride, shards: int) -> int:
    """Kills of shards and hosts for which an exchange was under way, by the journals: one that another shard had
    handled before the kill, and this shard only after it came back; or one that a shard handled and its host never
    heard of.
    """
    run = made.run
    handled = [dict(_handled(run, shard)) for shard in range(shards)]
    hits = 0
    for shard in range(shards):
        others = [handled[other] for other in range(shards) if other != shard]
        for record in read_journal(run / "journal" / f"shard-{shard}.journal"):
            if isinstance(record, ShardOpened) and record.incarnation:
                kill = max((at for at in made.times if at < record.now), default=0.0)
                late = (key for key, now in handled[shard].items() if now > record.now)
                hits += any(other.get(key, kill) < kill for key in late for other in others)
    for path in journals(run / "journal"):
        if path.stem.startswith("host-"):
            heard = {(r.worker, r.number) for r in read_journal(path) if isinstance(r, WorkerExchanged)}
            workers = {worker for worker, _ in heard}
            hits += any(key[0] in workers and key not in heard for each in handled for key in each)
    return hits


def _handled(run: Path, shard: int) -> Iterator[tuple[tuple[int, int], float]]:
    """Worker and number of every exchange that a shard carried out, and when it did last."""
    for record in read_journal(run / "journal" / f"shard-{shard}.journal"):
        if isinstance(record, PushHandled | PullHandled):
            yield (record.worker, record.number), record.now
