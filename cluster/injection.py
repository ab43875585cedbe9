"""Injection: planned faults on the live clock. Lets a process's messages pass, and makes go wrong what is planned.

What fires is in the actor's journal before it happens, so that a kill is on record too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time  # noqa: TID251 -- the live clock
from collections.abc import Iterable
from pathlib import Path

from cluster.faults import Fault, FaultPlan, Schedule, corrupted
from cluster.host import Write
from ps.errors import PeerLost
from ps.journal import FaultFired
from ps.messages import Exchange, Message, NextLease
from ps.wire.files import read_journal
from ps.wire.server import Carry

# Wakes a stopped process, which cannot do so itself; ends with it. Given: seconds, process id.
_WAKE = """import os, signal, sys, time
seconds, process = float(sys.argv[1]), int(sys.argv[2])
def stopped():
    return open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[0] == "T"
try:
    while not stopped():  # it does when it gets to it
        time.sleep(0.005)
    deadline = time.monotonic() + seconds
    while stopped() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
    if stopped():
        os.kill(process, signal.SIGCONT)
except OSError:
    pass  # it is gone
"""


class Injection:
    """Stands between one process and its messages.

    Args:
        plan: All faults of the run.
        actor: Whose process: "shard-0" for example; of a host also what is planned for its workers happens here.
        write: Appends to the actor's journal.
        fired: What fired in earlier processes of this actor; it does not fire again.
    """

    def __init__(self, plan: FaultPlan, actor: str, write: Write, fired: Iterable[FaultFired] = ()) -> None:
        self._plan = plan
        self._actor = actor
        self._write = write
        self._fired = {record.actor: record.event for record in fired}  # the last one's
        self._schedules: dict[str, Schedule] = {}

    async def passes(self, message: Message, carry: Carry) -> Message | None:
        """Let a message through as planned; return its answer.

        Raises:
            PeerLost: The message, or its answer, is lost.
        """
        faults = [fault for name in self._names(message) for fault in self._due(name, message)]
        for fault in faults:
            if fault.when == "before":
                message = await self._before(fault, message)
        answer = await carry(message)
        for fault in faults:
            if fault.do == "duplicate":
                await carry(message)
            elif fault.when == "after":
                _strike(fault)
        return answer

    def _names(self, message: Message) -> tuple[str, ...]:
        """Whose event this message is."""
        if self._actor.startswith("host-") and isinstance(message, Exchange | NextLease):
            return self._actor, f"worker-{message.worker}"
        return (self._actor,)

    def _due(self, name: str, message: Message) -> tuple[Fault, ...]:
        if (schedule := self._schedules.get(name)) is None:
            schedule = self._schedules[name] = self._plan.of(name, self._fired.get(name, 0))
        if faults := schedule.due(message):
            kind = type(message).__name__
            self._write([FaultFired(time.time(), name, schedule.event, fault.do, kind) for fault in faults])
        return faults

    async def _before(self, fault: Fault, message: Message) -> Message:
        if fault.do == "delay":
            await asyncio.sleep(fault.seconds)
        elif fault.do == "corrupt":
            return corrupted(message)
        elif fault.do != "duplicate":
            _strike(fault)
        return message


def _strike(fault: Fault) -> None:
    match fault.do:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            command = [sys.executable, "-I", "-S", "-c", _WAKE, str(fault.seconds), str(os.getpid())]
            subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        case "drop":
            raise PeerLost("a planned fault: the message or its answer is lost")


def injection(plan: FaultPlan, actor: str, journal: Path, write: Write) -> Injection | None:
    """What stands before this actor's process; None if nothing is planned.

    Args:
        journal: The actor's journal, which says what fired before.
    """
    if not plan:
        return None
    earlier = read_journal(journal) if journal.exists() else ()
    return Injection(plan, actor, write, [record for record in earlier if isinstance(record, FaultFired)])
