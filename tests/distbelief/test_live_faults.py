"""Planned faults in live runs: each fires once, the run goes on by itself, and every example counts once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil
import pytest

from distbelief.replay import replay
from distbelief.verify import EXACTLY_ONCE, verify
from ps.journal import FaultFired, PairParted, PushHandled
from ps.messages import Outcome
from ps.standby import SILENT_SECONDS
from ps.wire.files import journals, read_journal
from ps.wire.replicas import TICK_SECONDS
from tests.distbelief.test_live import (
    GONE_SECONDS,
    descendants,
    eventually,
    gone,
    launched,
    summary_of,
    training,
)

pytestmark = pytest.mark.slow

SLOW_SECONDS = 30.0  # that a busy machine may take for what is at once otherwise

KILLS = """
[[fault]]
actor = "shard-0"
do = "kill"
when = "after"
event = 150

[[fault]]
actor = "ledger"
do = "kill"
when = "after"
event = 150

[[fault]]
actor = "averager"
do = "kill"
event = 20

[[fault]]
actor = "host-0"
do = "kill"
event = 60

[[fault]]
actor = "shard-1"
do = "stop"
seconds = 2
event = 100

[[fault]]
actor = "shard"
do = "drop"
when = "after"
every = 80
"""


def survived(folder: Path, plan: str, *options: str) -> str:
    """Launch a run that this is planned for; return what it said when it had come to its end."""
    (folder / "faults.toml").write_text(plan)
    with launched(folder, *options, "--faults", "faults.toml") as process:
        _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return err


@pytest.mark.timeout(600)
def test_a_run_survives_what_is_planned_for_it(tmp_path: Path) -> None:
    err = survived(tmp_path, KILLS, "--workers", "4", "--shards", "2", "--epochs", "12", "--batch-size", "16")
    assert "6 planned in " in err
    run = tmp_path / "run"
    fired = [r for path in journals(run / "journal") for r in read_journal(path) if isinstance(r, FaultFired)]
    killed = sorted((r.actor, r.event) for r in fired if r.do == "kill")
    assert killed == [("averager", 20), ("host-0", 60), ("ledger", 150), ("shard-0", 150)]
    assert [(r.actor, r.event) for r in fired if r.do == "stop"] == [("shard-1", 100)]
    counted = dict(Counter(r.do for r in fired))
    assert counted["drop"] > 3
    assert summary_of(tmp_path)["stopped_by"] == "completed"
    assert summary_of(tmp_path)["faults"] == counted
    found = verify(run)
    assert (found.verdict, found.problems, found.faults) == (EXACTLY_ONCE, (), counted)


KILLED_AHEAD = """
[[fault]]
actor = "host-0"
do = "kill"
event = 60

[[fault]]
actor = "shard-0"
do = "kill"
when = "after"
event = 150

[[fault]]
actor = "shard"
do = "drop"
when = "after"
every = 80
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("replicas", ["0", "1"])
def test_a_run_with_prefetch_survives_too_and_comes_out_again(replicas: str, tmp_path: Path) -> None:
    options = ["--workers", "4", "--shards", "2", "--epochs", "8", "--batch-size", "16"]
    survived(tmp_path, KILLED_AHEAD, *options, "--prefetch", "--replicas", replicas)
    summary = summary_of(tmp_path)
    assert (summary["stopped_by"], summary["prefetch"], summary["faults"]["kill"]) == ("completed", True, 2)
    assert summary["worker_seconds"]["hidden"] > 0
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems) == (EXACTLY_ONCE, ())
    assert replay(tmp_path / "run").verdict == "identical"


STOP = """
[[fault]]
actor = "host-0"
do = "stop"
seconds = 20
event = 200
"""


@pytest.mark.timeout(600)
def test_a_host_that_stands_still_does_not_slow_the_others(tmp_path: Path) -> None:
    """Workers 2 and 3 go on at their pace; what 0 and 1 had in hand is granted to them."""
    options = ["--workers", "4", "--shards", "1", "--epochs", "60", "--batch-size", "32"]
    survived(tmp_path, STOP, *options, "--set", "cluster.turns=2", "--set", "ledger.lease_seconds=3")
    run = tmp_path / "run" / "journal"
    (stopped,) = [r.now for r in read_journal(run / "host-0.journal") if isinstance(r, FaultFired)]
    applied = [
        r.now
        for r in read_journal(run / "shard-0.journal")
        if isinstance(r, PushHandled) and r.outcome is Outcome.APPLIED and r.worker >= 2
    ]
    seconds = min(18.0, applied[-1] - stopped, stopped - applied[0])  # as long before as after
    before = sum(stopped - seconds <= now < stopped for now in applied)
    meanwhile = sum(stopped <= now < stopped + seconds for now in applied)
    assert seconds > 1.0
    assert meanwhile >= 0.95 * before
    assert summary_of(tmp_path)["leases"]["reissued"] >= 1
    assert verify(tmp_path / "run").verdict == EXACTLY_ONCE


STANDBYS = """
[[fault]]
actor = "standby-0"
do = "stop"
seconds = 3000
event = 60

[[fault]]
actor = "standby-1"
do = "kill"
when = "after"
event = 60
"""


@pytest.mark.timeout(600)
def test_standbys_that_stand_still_or_are_killed_are_given_up_and_others_brought_up(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(STANDBYS)
    options = ["--replicas", "1", "--workers", "4", "--shards", "2", "--epochs", "48", "--faults", "faults.toml"]
    with launched(tmp_path, *options) as process:
        assert eventually(lambda: training(tmp_path), 100), "no update"
        family = descendants(psutil.Process(process.pid))
        _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert eventually(lambda: gone(family), GONE_SECONDS)
    journal = tmp_path / "run" / "journal"
    parted = [record for record in read_journal(journal / "ledger.journal") if isinstance(record, PairParted)]
    assert sorted((each.shard, each.leads) for each in parted) == [(0, True), (1, True)]
    for shard, limit_seconds in ((0, SILENT_SECONDS + TICK_SECONDS + SLOW_SECONDS), (1, SLOW_SECONDS)):
        (fired,) = [r.now for r in read_journal(journal / f"standby-{shard}.journal") if isinstance(r, FaultFired)]
        (ruled,) = [each.now for each in parted if each.shard == shard]
        assert fired < ruled < fired + limit_seconds
    assert err.count("lost: another is brought up") == 2
    assert summary_of(tmp_path)["standbys"] == {"0": True, "1": True}
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems) == (EXACTLY_ONCE, ())
    assert found.faults == {"stop": 1, "kill": 1}
    assert [count.undone for count in found.shards] == [0, 0]
