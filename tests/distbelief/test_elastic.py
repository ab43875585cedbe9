"""Elastic: workers join and leave a run that goes on, and every example still counts once."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from distbelief.elastic import resized, workers_command
from distbelief.replay import replay
from distbelief.rundir import CONNECTION, TOKEN
from distbelief.verify import EXACTLY_ONCE, verify
from ps.errors import BadInput
from ps.journal import LeaseGranted, PushHandled, Record, WorkerLeft
from ps.wire.files import read_journal
from tests.cluster.world import served
from tests.distbelief.test_live import eventually, launched, summary_of, training


@pytest.mark.parametrize(
    ("add", "remove", "message"),
    [
        (None, None, "workers: got --add and --remove, or neither, expected one of them"),
        (1, 1, "workers: got --add and --remove, or neither, expected one of them"),
        (0, None, "--add: got 0, expected 1 or more"),
        (None, -2, "--remove: got -2, expected 1 or more"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, add: int | None, remove: int | None, message: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        workers_command(tmp_path, add, remove)


def test_a_run_that_does_not_go_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^run: got .*, expected the directory of a run that goes on"):
        resized(tmp_path, 1)
    (tmp_path / CONNECTION).write_text(json.dumps({"join": "127.0.0.1:1"}))
    with pytest.raises(BadInput, match=f"^--token-file: cannot read .*{TOKEN}"):
        resized(tmp_path, 1)


def journal(folder: Path, actor: str) -> list[Record]:
    return list(read_journal(folder / "journal" / f"{actor}.journal"))


def test_a_worker_leaves_after_the_lease_in_hand_and_nothing_is_granted_again(tmp_path: Path) -> None:
    with served(tmp_path / "run", cluster__workers=3) as world:
        host = world.host()
        host.leave({1})
        thread = threading.Thread(target=host.run)
        thread.start()
        thread.join(timeout=100)
        assert not thread.is_alive()
    granted = [r for r in journal(tmp_path / "run", "ledger") if isinstance(r, LeaseGranted)]
    left = [r.worker for r in journal(tmp_path / "run", "ledger") if isinstance(r, WorkerLeft)]
    assert left == [1]
    assert {r.worker for r in granted} == {0, 2}
    assert all(r.attempt == 0 for r in granted)
    assert verify(tmp_path / "run").verdict == EXACTLY_ONCE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_join_and_leave_a_live_run(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def pushed(workers: range) -> bool:
        pushes = [r for r in journal(run, "shard-0") if isinstance(r, PushHandled)]
        return {r.worker for r in pushes} >= set(workers)

    with launched(tmp_path, "--workers", "4", "--epochs", "40", "--batch-size", "16") as process:
        assert eventually(lambda: training(tmp_path, 20), 120), "no update"
        assert resized(run, 3) == 7
        assert eventually(lambda: pushed(range(4, 7)), 120), "the new ones do not work"
        assert resized(run, -5) == 2
        with pytest.raises(BadInput, match=r"^workers: got -2 for 2, expected a run that goes on, with 1 to 100,000"):
            resized(run, -2)

        def left() -> list[int]:
            return [r.worker for r in journal(run, "ledger") if isinstance(r, WorkerLeft)]

        assert eventually(lambda: sorted(left()) == [2, 3, 4, 5, 6], 120), "they do not leave"
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "3 workers join: 7 in all" in err
    assert "5 workers leave: 2 in all" in err
    assert summary_of(tmp_path)["stopped_by"] == "completed"
    assert verify(run).verdict == EXACTLY_ONCE
    assert replay(run).verdict == "identical"
