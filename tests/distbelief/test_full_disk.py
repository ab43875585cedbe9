"""A disk that fills up under a run: one line, and when there is room again it goes on from what it had."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from distbelief import cli
from distbelief.replay import replay
from distbelief.verify import verify
from tests.distbelief.test_live import GONE_SECONDS, descendants, eventually, gone, launched, summary_of, training

DISK_BYTES = 40 << 20
pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, where the run directory is to be."""
    folder = tmp_path / "run"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free; return the file that takes the room."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):  # full
                while True:
                    file.write(b"1" * size)
    assert os.statvfs(folder).f_bavail == 0
    return path


@pytest.mark.timeout(900)
def test_a_full_disk_is_one_line_and_the_run_is_taken_up_when_there_is_room(tmp_path: Path, disk: Path) -> None:
    with launched(tmp_path, "--workers", "4", "--epochs", "24", "--set", "snapshot.every_seconds=1") as process:
        assert eventually(lambda: any(disk.glob("snapshots/*/manifest.json")), 120), "no snapshot"
        assert eventually(lambda: training(tmp_path, 100), 120), "it does not go on"
        family = descendants(psutil.Process(process.pid))
        filler = fill(disk)
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert "No space left on device" in last
    assert "resume" in last
    assert eventually(lambda: gone(family), GONE_SECONDS)
    found = verify(disk)
    assert (found.verdict, found.problems) == ("ended early", ())
    filler.unlink()
    assert cli.run(["resume", str(disk)]) == 0
    assert summary_of(tmp_path)["stopped_by"] == "completed"
    assert verify(disk).verdict == "exactly once"
    assert replay(disk).verdict == "identical"
