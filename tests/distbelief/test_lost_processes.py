"""Any process of a live run is killed, again and again: it ends all the same, and every example counts once.

The long version kills two hundred processes, twenty in each of ten runs. They may be had one by one, and what each came
to is kept in a file that the next one goes on with:

DISTBELIEF_KILLS_LOG=kills.jsonl DISTBELIEF_FIRST_RIDE=7 DISTBELIEF_RIDES=1 pytest -m soak -k killed_again ...
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from distbelief import cli
from distbelief.replay import replay
from distbelief.verify import verify
from ps.streams import numpy_stream
from tests.distbelief.kills import SLOW, Ride, hit_in_mid_exchange, ride
from tests.distbelief.test_live import GONE_SECONDS, eventually, gone, launched, temporaries, temporary

OFTEN = ["--workers", "4", "--set", "snapshot.every_seconds=2", "--set", "cluster.turns=2"]
SOAK = [*OFTEN, "--epochs", "16", "--faults", "slow.toml"]
KILLS = {"host": 60, "shard": 60, "ledger": 30, "averager": 25, "driver": 25}  # in the long version
KILLS_PER_RIDE = 20
EVERY_RIDE = sum(KILLS.values()) // KILLS_PER_RIDE
FIRST_RIDE = int(os.environ.get("DISTBELIEF_FIRST_RIDE", "0"))
RIDES = int(os.environ.get("DISTBELIEF_RIDES", str(EVERY_RIDE)))
CALM_RIDES = 3  # without a kill: what the errors of the others are compared with
A_POINT = 0.01


def error(run: Path) -> float:
    found: float = json.loads((run / "summary.json").read_text())["evaluation"]["average"]["top1_error"]
    return found


def assert_nothing_was_lost(run: Path) -> None:
    found = verify(run)
    assert (found.verdict, found.problems) == ("exactly once", ())
    again = replay(run)
    assert (again.verdict, again.differences) == ("identical", [])


def assert_nothing_is_left(made: Ride, cwd: Path, before: set[Path]) -> None:
    """No process, no temporary file, no shared memory, no socket."""
    assert eventually(lambda: gone(made.family), GONE_SECONDS)
    assert eventually(lambda: temporaries(cwd) <= before, GONE_SECONDS), temporaries(cwd) - before
    own = str(temporary(cwd))
    assert own not in Path("/proc/net/unix").read_text()
    temporary(cwd).rmdir()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_kind_of_process_is_killed_once(tmp_path: Path) -> None:
    before = temporaries(tmp_path)
    made = ride(tmp_path, 0, ("shard", "host", "ledger", "averager", "driver"), [*OFTEN, "--epochs", "24"])
    assert made.killed == ["shard", "host", "ledger", "averager", "driver"], made.output
    assert_nothing_was_lost(made.run)
    assert error(made.run) < 0.05
    assert_nothing_is_left(made, tmp_path, before)
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


class KillsLog:
    """What rides came to, in a file that outlives this process if $DISTBELIEF_KILLS_LOG names one."""

    def __init__(self, otherwise: Path) -> None:
        self._path = Path(os.environ.get("DISTBELIEF_KILLS_LOG", str(otherwise)))

    def rides(self) -> dict[str, dict[str, Any]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return {entry["ride"]: entry for entry in map(json.loads, lines)}

    def add(self, **entry: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def errors(self, *names: str) -> list[float]:
        """Of the rides whose names begin so."""
        return [entry["error"] for name, entry in self.rides().items() if name.startswith(names)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> KillsLog:
    return KillsLog(tmp_path_factory.mktemp("kills") / "kills.jsonl")


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", range(CALM_RIDES))
def test_what_a_run_that_nobody_kills_comes_to(tmp_path: Path, log: KillsLog, number: int) -> None:
    if f"calm {number}" not in log.rides():
        (tmp_path / "slow.toml").write_text(SLOW)
        before = temporaries(tmp_path)
        calm = ride(tmp_path, number, (), [*SOAK, "--seed", str(number)])
        assert_nothing_is_left(calm, tmp_path, before)
        log.add(ride=f"calm {number}", killed={}, error=error(calm.run))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", range(FIRST_RIDE, min(FIRST_RIDE + RIDES, EVERY_RIDE)))
def test_processes_are_killed_again_and_again(tmp_path: Path, log: KillsLog, number: int) -> None:
    if str(number) in log.rides():
        return  # it was had before
    all_roles = [role for role, count in KILLS.items() for _ in range(count)]
    first = number * KILLS_PER_RIDE
    order = numpy_stream(0, "roles").permutation(len(all_roles))[first : first + KILLS_PER_RIDE]
    roles = [all_roles[at] for at in order]
    errors: list[float] = []
    killed: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    while roles:  # where a run is over before all of them were had, which takes a busy machine, another goes on
        folder = tmp_path / str(len(errors))
        folder.mkdir()
        (folder / "slow.toml").write_text(SLOW)
        before = temporaries(folder)
        made = ride(folder, number, roles, [*SOAK, "--seed", str(number)])
        assert made.kills, "the run was over before"
        assert_nothing_was_lost(made.run)
        assert_nothing_is_left(made, folder, before)
        errors.append(error(made.run))
        assert errors[-1] <= max(log.errors("calm")) + A_POINT
        killed.update(made.killed)
        hits.update(kill.role for kill in hit_in_mid_exchange(made, 2))
        roles = roles[len(made.kills) :]
    log.add(ride=str(number), killed=killed, in_mid_exchange=hits, error=max(errors))


@pytest.mark.soak
def test_all_kinds_of_processes_were_killed_and_half_of_them_in_mid_exchange(log: KillsLog) -> None:
    killed: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for entry in log.rides().values():
        killed.update(entry["killed"])
        hits.update(entry.get("in_mid_exchange", {}))
    print(f"killed {dict(killed)}, of which in mid-exchange {dict(hits)}")
    if len(log.rides()) == CALM_RIDES + EVERY_RIDE:
        assert killed == KILLS
        assert mean(log.errors(*"0123456789")) <= mean(log.errors("calm")) + A_POINT
    assert 2 * hits.total() >= killed["host"] + killed["shard"]
