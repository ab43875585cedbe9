"""What a run started is ended with it, however it hides: the reaper alone, with processes that Ray's stand for."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.reaper import MARK, Reaper, members

SLEEPER = [sys.executable, "-I", "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"]

# Owns a reaper and two children, says where they are, and waits to be killed.
OWNER = f"""
import subprocess, sys
from cluster.reaper import Reaper
reaper = Reaper()
with reaper:
    sleeper = {SLEEPER!r}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    titled = subprocess.Popen(sleeper, env={{}}, cwd=reaper.folder, **pipes)
    moved = subprocess.Popen(sleeper, cwd="/", **pipes)
    for child in (titled, moved):
        child.stdout.readline()
    print(reaper.folder, titled.pid, moved.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def children() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def sleeper(children: ExitStack, environment: dict[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    """A process that lives until it is killed or this test ends."""
    process = subprocess.Popen(SLEEPER, env=environment, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    children.callback(process.communicate)
    assert process.stdout is not None
    process.stdout.readline()  # it runs
    return process


def test_a_process_is_known_by_its_mark_or_by_where_it_works(children: ExitStack, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "run-of-another"
    (folder / "session").mkdir(parents=True)
    elsewhere.mkdir()
    marked = sleeper(children, {MARK: "ours"}, elsewhere)
    titled = sleeper(children, {}, folder)  # as Ray's agents: the title is written over the environment
    deeper = sleeper(children, {}, folder / "session")
    stranger = sleeper(children, {MARK: "theirs"}, elsewhere)
    found = members("ours", folder)
    assert set(found) == {marked.pid, titled.pid, deeper.pid}
    assert stranger.pid not in found


def test_a_killed_owner_leaves_no_process_and_no_folder() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder, *pids = owner.stdout.readline().split()
    assert Path(folder).is_dir()
    watched = [os.pidfd_open(int(pid)) for pid in pids]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    for descriptor in watched:
        assert _ended(descriptor)
        os.close(descriptor)
    owner.stdout.close()
    assert owner.stdin is not None
    owner.stdin.close()


def _ended(descriptor: int) -> bool:
    """Wait until a process that is not our child is dead."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(10_000))


def test_an_orderly_end_leaves_nothing_either() -> None:
    reaper = Reaper()
    with reaper:
        assert os.environ[MARK] == reaper.mark
        assert reaper.folder.is_dir()
    assert MARK not in os.environ
    assert not reaper.folder.exists()
