"""Planned faults on the live clock, in one process: each one fires where it was planned, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distbelief.verify import EXACTLY_ONCE, verify
from ps.journal import ExchangeRefused, FaultFired, LeaseFailed, PushHandled
from ps.messages import Outcome, Refusal
from ps.wire.files import read_journal
from tests.cluster.world import served

PLAN = """
[[fault]]
actor = "shard-0"
do = "drop"
event = 5

[[fault]]
actor = "shard-0"
do = "drop"
when = "after"
event = 9

[[fault]]
actor = "shard-1"
do = "delay"
seconds = 0.2
event = 7

[[fault]]
actor = "shard-1"
do = "duplicate"
every = 5

[[fault]]
actor = "shard-1"
do = "corrupt"
event = 60

[[fault]]
actor = "ledger"
do = "drop"
when = "after"
every = 4
times = 3

[[fault]]
actor = "ledger"
do = "duplicate"
event = 20

[[fault]]
actor = "averager"
do = "drop"
when = "after"
event = 2

[[fault]]
actor = "worker-2"
do = "drop"
when = "after"
event = 6

[[fault]]
actor = "host-0"
do = "delay"
seconds = 0.1
event = 30
"""


def test_every_planned_fault_fires_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(PLAN)
    with served(tmp_path / "run", cluster__faults=str(tmp_path / "faults.toml")) as world:
        world.host().run()
    folder = tmp_path / "run" / "journal"
    actors = ("shard-0", "shard-1", "ledger", "averager", "host-0")
    journals = {actor: list(read_journal(folder / f"{actor}.journal")) for actor in actors}
    fired = {
        actor: [(r.actor, r.event, r.do) for r in records if isinstance(r, FaultFired)]
        for actor, records in journals.items()
    }
    assert fired["shard-0"] == [("shard-0", 5, "drop"), ("shard-0", 9, "drop")]
    others = [found for found in fired["shard-1"] if found[2] != "duplicate"]
    assert others[0] == ("shard-1", 7, "delay")
    assert (others[1][2], others[1][1] >= 60, len(others)) == ("corrupt", True, 2)
    duplicated = [r for r in journals["shard-1"] if isinstance(r, PushHandled) and r.outcome is Outcome.DUPLICATE]
    assert len(fired["shard-1"]) - 2 + 1 >= len(duplicated) > 3, "worker-2 asks once more for the answer that it lost"
    assert len(fired["ledger"]) == 4
    assert fired["averager"] == [("averager", 2, "drop")]
    assert sorted(fired["host-0"]) == [("host-0", 30, "delay"), ("worker-2", 6, "drop")]
    refused = {(r.refusal, r.lease) for r in journals["shard-1"] if isinstance(r, ExchangeRefused)}
    failed = [r.lease for r in journals["ledger"] if isinstance(r, LeaseFailed)]
    assert refused == {(Refusal.NOT_FINITE, lease) for lease in failed}
    assert len(failed) == 1
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems) == (EXACTLY_ONCE, ())


STRIKE = """
import sys
from cluster.faults import Fault
from cluster.injection import _strike
_strike(Fault("shard-0", sys.argv[1], event=1, seconds=float(sys.argv[2])))
print("awake", flush=True)
"""


@pytest.mark.parametrize(("do", "seconds", "code", "out"), [("kill", 0, -9, ""), ("stop", 0.5, 0, "awake\n")])
def test_a_process_is_killed_or_stands_still_for_a_time(do: str, seconds: float, code: int, out: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", STRIKE, do, str(seconds)], stdout=subprocess.PIPE, text=True)
    if do == "stop":
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGSTOP
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, out)
