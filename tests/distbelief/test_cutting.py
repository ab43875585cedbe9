"""A run is stopped and taken up with another number of shards: every bit is kept, and it is replayed as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distbelief import cli
from distbelief.replay import replay
from distbelief.verify import verify
from ps.journal import LedgerOpened, ShardOpened
from ps.states import AveragerState, ShardState
from ps.wire.files import read_journal
from ps.wire.snapshots import Manifest, manifests, newest
from tests.distbelief.test_live import COMMAND, eventually, summary_of, training

OPTIONS = ["--workers", "4", "--shards", "1", "--epochs", "30", "--set", "snapshot.keep=99", "--set", "cluster.turns=2"]
SECONDS = 240


def vectors(snapshots: Path, manifest: Manifest, shards: int) -> dict[str, Tensor]:
    """All that this set has of every element."""
    actors = [f"shard-{shard}" for shard in range(shards)]
    states = [newest(snapshots, actor, manifest.layout).state for actor in [*actors, "averager"]]
    average = states.pop()
    assert isinstance(average, AveragerState)
    held = [state for state in states if isinstance(state, ShardState)]
    assert len({(state.version, state.applied) for state in held}) == 1
    found = {"weights": torch.cat([state.weights_N for state in held])}
    for slot in range(len(held[0].slots)):
        found[f"slot {slot}"] = torch.cat([state.slots[slot] for state in held])
    return found | {"average": torch.cat([part.a_N for part in average.slices])}


def sets(snapshots: Path) -> list[Manifest]:
    """All sets, the oldest first."""
    found = [manifest for manifest in manifests(snapshots) if isinstance(manifest, Manifest)]
    return found[::-1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_two_three_one_shards(tmp_path: Path) -> None:
    """Stopped once, killed once; each cut keeps every bit, and what all of it came to is replayed."""
    run = tmp_path / "run"
    counts = (1, 2, 3, 1)
    ends = (signal.SIGINT, signal.SIGKILL, signal.SIGINT, None)
    for turn, (before, shards, end) in enumerate(zip((1, *counts), counts, ends, strict=False)):
        arguments = ["resume", "run", "--shards", str(shards)] if turn else ["launch", "--run", "run", *OPTIONS]
        process = subprocess.Popen(
            [COMMAND[0], *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            if end is None:
                _, err = process.communicate(timeout=SECONDS)
                assert process.returncode == 0, err
            else:
                assert eventually(lambda: went_on(tmp_path, shards), SECONDS), "it does not go on"  # noqa: B023
                process.send_signal(end)
                _, err = process.communicate(timeout=SECONDS)
                assert process.returncode == (130 if end is signal.SIGINT else -end), err
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if shards != before:
            assert f"cut {before} shards into {shards}" in err
            assert_the_same_bits(run / "snapshots", before, shards)
    summary = summary_of(tmp_path)
    assert (summary["stopped_by"], summary["shards"], summary["replayable"]) == ("completed", 1, True)
    assert summary["updates"] == 30 * 180
    found = verify(run)
    assert (found.verdict, found.problems, found.cut) == ("exactly once", (), (1, 2, 3, 1))
    assert [count.applied for count in found.shards] == [30 * 180]
    again = replay(run)
    assert (again.verdict, again.differences, again.versions) == ("identical", [], (30 * 180,))
    assert cli.run(["report", str(run)]) == 0
    assert cli.run(["evaluate", str(run), "--json"]) == 0


def went_on(cwd: Path, shards: int) -> bool:
    """Whether the run does some work with so many shards."""
    journal = cwd / "run" / "journal"
    if not training(cwd, 50):
        return False
    opened = [record for record in read_journal(journal / "ledger.journal") if isinstance(record, LedgerOpened)]
    records = list(read_journal(journal / "shard-0.journal"))
    places = [at for at, record in enumerate(records) if isinstance(record, ShardOpened) and record.shards == shards]
    return opened[-1].shards == shards and bool(places) and len(records) > places[-1] + 200


def assert_the_same_bits(snapshots: Path, before: int, shards: int) -> None:
    """The first set of the newest layout and the one that it was cut from hold the same."""
    all_of = sets(snapshots)
    layout = all_of[-1].layout
    at = next(at for at, manifest in enumerate(all_of) if manifest.layout == layout)
    folder = snapshots.with_name("compared")
    old, new = (alone(folder / str(at + step), snapshots, all_of[at + step]) for step in (-1, 0))
    one, other = vectors(old, all_of[at - 1], before), vectors(new, all_of[at], shards)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def alone(folder: Path, snapshots: Path, manifest: Manifest) -> Path:
    """A folder that holds this set and no other."""
    place = folder / f"{manifest.number:06}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(snapshots / f"{manifest.number:06}")
    return folder


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["resume", str(tmp_path), "--shards", "0"]) == 2
    assert "--shards" in capsys.readouterr().err
