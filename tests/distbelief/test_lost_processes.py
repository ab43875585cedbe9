"""Any process of a live run is killed, again and again: it ends all the same, and every example counts once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distbelief import cli
from distbelief.replay import replay
from distbelief.verify import verify
from ps.streams import numpy_stream
from tests.distbelief.kills import ROLES, hit_in_mid_exchange, ride
from tests.distbelief.test_live import GONE_SECONDS, eventually, gone, launched

OFTEN = ["--workers", "4", "--set", "snapshot.every_seconds=2", "--set", "cluster.turns=2"]
KILLS = int(os.environ.get("DISTBELIEF_KILLS", "5"))  # of each role in the long version
KILLS_PER_RUN = 10


def error(run: Path) -> float:
    found: float = json.loads((run / "summary.json").read_text())["evaluation"]["average"]["top1_error"]
    return found


def assert_nothing_was_lost(run: Path) -> None:
    found = verify(run)
    assert (found.verdict, found.problems) == ("exactly once", ())
    again = replay(run)
    assert (again.verdict, again.differences) == ("identical", [])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_kind_of_process_is_killed_once(tmp_path: Path) -> None:
    made = ride(tmp_path, 0, ("shard", "host", "ledger", "averager", "driver"), [*OFTEN, "--epochs", "24"])
    assert made.killed == ["shard", "host", "ledger", "averager", "driver"], made.output
    assert_nothing_was_lost(made.run)
    assert error(made.run) < 0.05
    assert eventually(lambda: gone(made.family), GONE_SECONDS)
    assert cli.run(["resume", str(made.run)]) == 2, "it is over"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_snapshot_that_cannot_be_written_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    with launched(tmp_path, "--epochs", "16", "--set", "snapshot.every_seconds=1") as process:
        folder = tmp_path / "run" / "snapshots"
        assert eventually(lambda: any(folder.glob("*/manifest.json")), 120), "no snapshot"
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("no place for a folder")
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "could not be written" in err
    assert "the run goes on without" in err
    assert verify(tmp_path / "run").verdict == "exactly once"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_processes_are_killed_again_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DISTBELIEF_KILLS of each kind, ten in a run."""
    (tmp_path / "calm").mkdir()
    calm = ride(tmp_path / "calm", 0, (), [*OFTEN, "--epochs", "64"])
    roles = [ROLES[i % len(ROLES)] for i in numpy_stream(0, "roles").permutation(KILLS * len(ROLES))]
    killed: list[str] = []
    hits = 0
    for number, first in enumerate(range(0, len(roles), KILLS_PER_RUN)):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = ride(folder, number, roles[first : first + KILLS_PER_RUN], [*OFTEN, "--epochs", "64"])
        assert_nothing_was_lost(made.run)
        assert error(made.run) <= error(calm.run) + 0.01
        assert eventually(lambda family=made.family: gone(family), GONE_SECONDS)  # type: ignore[misc]
        killed += made.killed
        hits += hit_in_mid_exchange(made, 2)
    with capsys.disabled():
        counts = {role: killed.count(role) for role in ROLES}
        print(
            f"\nkilled {counts}; {hits} of hosts and shards in mid-exchange; errors within a point of {error(calm.run)}"
        )
    assert 2 * hits >= counts["host"] + counts["shard"]
