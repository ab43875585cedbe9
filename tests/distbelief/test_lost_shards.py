"""Shards with standbys are killed, again and again: whatever was acknowledged is there, and the run goes on at once.

The long version kills fifty of them, ten in each of five runs; DISTBELIEF_SHARD_KILLS says how many otherwise, and
DISTBELIEF_FIRST_SEED which run comes first.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from distbelief import cli
from distbelief.replay import replay
from distbelief.status import running
from distbelief.verify import verify
from ps.journal import PullHandled, PushHandled, ShardOpened, WorkerExchanged
from ps.messages import Outcome
from ps.wire.files import journals, read_journal
from tests.distbelief.kills import SLOW, Ride, hit_in_mid_exchange, ride
from tests.distbelief.test_live import temporaries
from tests.distbelief.test_lost_processes import assert_nothing_is_left

SHARDS = 2
OPTIONS = ["--replicas", "1", "--workers", "4", "--set", "cluster.turns=2", "--set", "snapshot.every_seconds=5"]
KILLS = int(os.environ.get("DISTBELIEF_SHARD_KILLS", "50"))  # in the long version
FIRST_SEED = int(os.environ.get("DISTBELIEF_FIRST_SEED", "0"))
KILLS_PER_RIDE, EPOCHS_PER_KILL = 10, 3


@dataclass(frozen=True, slots=True)
class Promotion:
    """A standby went on. `seconds`: from the kill until the shard had handled an exchange again."""

    shard: int
    version: int
    seconds: float


def in_step(run: Path) -> bool:
    """Whether every shard has a standby that holds what it holds."""
    found = running(run)
    return found is not None and [shard.standby for shard in found.shards] == ["in step"] * SHARDS


def promotions(made: Ride) -> list[Promotion]:
    found = []
    for shard in range(SHARDS):
        opened: ShardOpened | None = None
        for record in read_journal(made.run / "journal" / f"shard-{shard}.journal"):
            if isinstance(record, ShardOpened):
                opened = record if record.promoted else None
            elif opened and isinstance(record, PushHandled | PullHandled) and record.now > opened.now:
                killed = max(kill.at for kill in made.kills if kill.at < opened.now)
                found.append(Promotion(shard, opened.version, record.now - killed))
                opened = None
    return found


def assert_what_was_acknowledged_is_there(run: Path) -> None:
    """Every update that a worker was told of made the very version that it was told."""
    made: list[dict[int, int]] = []
    for shard in range(SHARDS):
        records = read_journal(run / "journal" / f"shard-{shard}.journal")
        pushes = (r for r in records if isinstance(r, PushHandled) and r.outcome is Outcome.APPLIED)
        made.append({push.version: push.lease for push in pushes})
        assert sorted(made[shard]) == list(range(1, len(made[shard]) + 1))
    told = 0
    for path in journals(run / "journal"):
        for record in read_journal(path) if path.stem.startswith("host") else ():
            if isinstance(record, WorkerExchanged) and record.outcome is Outcome.APPLIED:
                assert made[record.shard][record.reading.version] == record.lease
                told += 1
    assert told > 0


def check(made: Ride) -> list[Promotion]:
    """What must hold of a run whose shards were killed; returns what became of them."""
    found = promotions(made)
    assert len(found) == len(made.kills), made.output
    assert made.output.count("lost: its standby goes on") == len(made.kills)
    assert_what_was_acknowledged_is_there(made.run)
    counted = verify(made.run)
    assert (counted.verdict, counted.problems) == ("exactly once", ())
    assert [count.undone for count in counted.shards] == [0] * SHARDS
    summary = json.loads((made.run / "summary.json").read_text())
    assert summary["standbys"] == {str(shard): True for shard in range(SHARDS)}
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_shard_with_a_standby_is_lost_and_nothing_else_is(tmp_path: Path) -> None:
    before = temporaries(tmp_path)
    made = ride(tmp_path, 0, ["shard"] * 3, [*OPTIONS, "--epochs", "24"], in_step)
    assert made.killed == ["shard"] * 3, made.output
    check(made)
    assert replay(made.run).verdict == "identical"
    assert_nothing_is_left(made, tmp_path, before)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_standbys_of_a_run_that_nobody_kills_are_the_same_at_its_end(tmp_path: Path) -> None:
    made = ride(tmp_path, 0, [], [*OPTIONS, "--epochs", "2", "--correction", "dc-asgd"])
    check(made)
    assert cli.run(["verify", str(made.run)]) == 0


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_shards_with_standbys_are_killed_again_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[Promotion] = []
    hits = 0
    for number, first in enumerate(range(0, KILLS, KILLS_PER_RIDE), FIRST_SEED):
        folder = tmp_path / str(number)
        folder.mkdir()
        kills = min(KILLS_PER_RIDE, KILLS - first)
        (folder / "slow.toml").write_text(SLOW)
        options = [*OPTIONS, "--faults", "slow.toml", "--epochs", str(EPOCHS_PER_KILL * kills), "--seed", str(number)]
        before = temporaries(folder)
        made = ride(folder, number, ["shard"] * kills, options, in_step)
        assert len(made.kills) == kills, "the run was over before"
        found += check(made)
        hits += len(hit_in_mid_exchange(made, SHARDS))
        assert_nothing_is_left(made, folder, before)
    assert 2 * hits >= len(found)
    seconds = sorted(promotion.seconds for promotion in found)
    with capsys.disabled():
        spread = f"{seconds[0]:.2f} to {seconds[-1]:.2f} s, median {median(seconds):.2f} s"
        print(f"\n{len(found)} shards killed, {hits} in mid-exchange; standbys went on after {spread}")
    assert median(seconds) < 3.0
