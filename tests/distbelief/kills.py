"""Kills of a live run's processes, one after the other, as drawn from a seed; and what they hit.

A process is found by the journal that it has open. The next one is killed when the run has gone on for a while.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time  # noqa: TID251 -- processes are waited for
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ps.journal import ExchangeRefused, FaultFired, PullHandled, PushHandled, ShardOpened, WorkerExchanged
from ps.standby import HANDLED
from ps.streams import numpy_stream
from ps.wire.files import journals, read_journal
from tests.distbelief.test_live import COMMAND, descendants, temporary

ROLES = ("host", "shard", "averager", "ledger", "driver")
# Two of three messages take a while at a shard, drawn for each shard by itself: so exchanges are under way most of the
# time, and one shard is done with many before the other.
DELAY_SECONDS = 0.12
SLOW = f"""
[[fault]]
actor = "shard"
do = "delay"
every = 1.5
seconds = {DELAY_SECONDS}
"""
PATIENCE_SECONDS = 240.0
GOES_ON_BYTES = 4000  # of a shard's journal between two kills: about fifty exchanges

Exchange = tuple[int, int]  # worker and number


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL. `actor`: "shard-1" for example; `at`: seconds since 1970."""

    role: str
    actor: str
    at: float


@dataclass(slots=True)
class Ride:
    """One run with kills. `process`: the command that drives it now; `family`: every process that was part of it."""

    run: Path
    process: subprocess.Popen[str] | None = None
    kills: list[Kill] = field(default_factory=list)
    family: set[psutil.Process] = field(default_factory=set)
    output: str = ""

    @property
    def killed(self) -> list[str]:
        return [kill.role for kill in self.kills]


def holders(journal: Path) -> list[int]:
    """Processes that have this journal open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if any(os.readlink(each) == str(journal) for each in (entry / "fd").iterdir()):
                    found.append(int(entry.name))
    return found


def ride(
    cwd: Path, seed: int, roles: Sequence[str], options: Sequence[str], ready: Callable[[Path], bool] = lambda _: True
) -> Ride:
    """Launch a run in this directory, kill these, resume it whenever its driver was, and wait for its end. Whatever
    happens, nothing of it goes on afterwards.

    Args:
        ready: Whether this run may be hit again.
    """
    made = Ride(cwd / "run")
    made.process = _start(cwd, ["launch", "--run", "run", *options])
    try:
        for role in roles:
            if not (_goes_on(made, ready) and _kill(made, role, numpy_stream(seed, f"kills/{len(made.kills)}"))):
                break
        made.output += made.process.communicate(timeout=PATIENCE_SECONDS)[1]
        assert made.process.returncode == 0, made.output
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.communicate()
    return made


def _kill(made: Ride, role: str, draws: Any) -> bool:
    """One of this role, at any moment within a second; a driver's run is resumed. False: the run was over before."""
    assert made.process is not None
    time.sleep(float(draws.random()))
    made.family |= descendants(psutil.Process(made.process.pid))
    if role == "driver":
        made.kills.append(Kill(role, role, time.time()))
        made.process.kill()
        made.output += made.process.communicate()[1]
        made.process = _start(made.run.parent, ["resume", "run"])
        return True
    while not (alive := [path for path in journals(made.run / "journal") if _is(path, role) and holders(path)]):
        if made.process.poll() is not None:
            return False
        time.sleep(0.05)  # it is being brought back
    victim = alive[int(draws.integers(len(alive)))]
    made.kills.append(Kill(role, victim.stem, time.time()))
    for pid in holders(victim):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def _is(journal: Path, role: str) -> bool:
    """Whether this is the journal of an actor of this role."""
    return journal.stem.partition("-")[0] == role


def _start(cwd: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["TMPDIR"] = str(temporary(cwd))
    temporary(cwd).mkdir(exist_ok=True)
    command = [COMMAND[0], *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def _goes_on(made: Ride, ready: Callable[[Path], bool]) -> bool:
    """Wait until the run has gone on for a while, and is ready; return whether it still goes on."""
    assert made.process is not None
    path = made.run / "journal" / "shard-0.journal"
    deadline = time.monotonic() + PATIENCE_SECONDS
    before = path.stat().st_size if path.exists() else 0
    while made.process.poll() is None:
        assert time.monotonic() < deadline, f"it does not go on after {made.kills}"
        if path.exists() and path.stat().st_size > before + GOES_ON_BYTES and ready(made.run):
            return True
        time.sleep(0.05)
    return False


def hit_in_mid_exchange(made: Ride, shards: int) -> list[Kill]:
    """The kills of shards and hosts for which an exchange was under way, by the journals.

    A shard's: one that another shard had handled before the kill, or itself without its answer getting through, and
    that reached this one (again) after it came back; it may have refused it, as read from a version that is lost. Or
    one that had reached it and was delayed, as planned in SLOW: it handles none that soon, and handled nothing later. A
    host's: one that a shard handled and this host never heard of.
    """
    folder = made.run / "journal"
    handled = [list(_handled(folder, shard)) for shard in range(shards)]
    hits = []
    for kill in made.kills:
        if kill.role == "shard":
            index = int(kill.actor.removeprefix("shard-"))
            before = {exchange for each in handled for exchange, at in each if at < kill.at}
            back = min((at for at in _openings(folder, index) if at > kill.at), default=float("inf"))
            reached = [*handled[index], *_handled(folder, index, ExchangeRefused)]
            again = any(at > back and exchange in before for exchange, at in reached)
            if again or _delayed_until(folder, index, back):
                hits.append(kill)
        elif kill.role == "host":
            told = [r for r in read_journal(folder / f"{kill.actor}.journal") if isinstance(r, WorkerExchanged)]
            heard, workers = {(r.worker, r.number) for r in told}, {r.worker for r in told}
            done = {exchange for each in handled for exchange, at in each if exchange[0] in workers}
            if done - heard:
                hits.append(kill)
    return hits


def _handled(folder: Path, shard: int, *kinds: type) -> Iterator[tuple[Exchange, float]]:
    """Every exchange that a shard carried out, and when; or those that ended as these kinds of records."""
    for record in read_journal(folder / f"shard-{shard}.journal"):
        if isinstance(record, kinds or (PushHandled, PullHandled)):
            yield (record.worker, record.number), record.now


def _delayed_until(folder: Path, shard: int, end: float) -> bool:
    """Whether an exchange was delayed at a shard and not handled before this end of its process."""
    last = delayed = 0.0
    for record in read_journal(folder / f"shard-{shard}.journal"):
        if isinstance(record, ShardOpened) and record.now >= end:
            break
        if isinstance(record, FaultFired) and (record.do, record.message) == ("delay", "Exchange"):
            delayed = record.now
        elif isinstance(record, ShardOpened):
            delayed = 0.0
        elif isinstance(record, HANDLED):
            last = max(last, record.now)
    return bool(delayed) and last < delayed + DELAY_SECONDS


def _openings(folder: Path, shard: int) -> Iterator[float]:
    for record in read_journal(folder / f"shard-{shard}.journal"):
        if isinstance(record, ShardOpened):
            yield record.now
