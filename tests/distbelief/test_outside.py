"""Workers from outside: told where to join, they compute for the run, leave or die, and are refused in one line."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distbelief.rendezvous import Ticket
from distbelief.replay import IDENTICAL, replay
from distbelief.verify import ENDED_EARLY, verify
from ps.errors import BadInput
from ps.wire import tls
from tests.distbelief.test_live import LONG, eventually, launched, summary_of, training

COMMAND = [str(Path(sys.executable).with_name("distbelief")), "worker"]
WAIT_SECONDS = 150.0


def test_a_token_file_says_what_it_was_written_with_and_is_nobody_else_s(tmp_path: Path) -> None:
    door = tls.made()
    Ticket("secret", door).write(tmp_path / "token")
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    read = Ticket.read(tmp_path / "token")
    assert (read.token, read.door.certificate, read.door.name) == ("secret", door.certificate, door.name)
    assert read.door.key == b""


@pytest.mark.parametrize("content", [b"", b"secret", b"[]", b'{"token": "secret"}', b"\xff"])
def test_what_is_no_token_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(BadInput, match=r"which is no token file; expected a copy of the run's worker.token"):
        Ticket.read(tmp_path / "token")


def test_a_missing_token_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        Ticket.read(tmp_path / "token")


@contextmanager
def worker(cwd: Path, connect: str, *options: str, token: str = "run/worker.token") -> Iterator[subprocess.Popen[str]]:
    """A worker that joins, where Ray cannot be imported."""
    (cwd / "no").mkdir(exist_ok=True)
    (cwd / "no" / "ray.py").write_text("raise ImportError('no ray on this machine')")
    environment = os.environ | {"PYTHONPATH": str(cwd / "no")}
    command = [*COMMAND, "--connect", connect, "--token-file", token, *options]
    process = subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def refused(cwd: Path, connect: str, token: str) -> str:
    with worker(cwd, connect, token=token) as process:
        _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 2, err
    (line,) = err.splitlines()
    return line


def computed(cwd: Path, host: int) -> bool:
    """Whether this worker host has computed a lease, by its journal as the run has it."""
    file = cwd / "run" / "journal" / f"host-{host}.journal"
    return file.exists() and file.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_join_leave_and_die_and_no_lease_is_lost_or_counts_twice(tmp_path: Path) -> None:
    with launched(tmp_path, "--workers", "2", "--batch-size", "64", *LONG) as run:
        assert eventually(lambda: training(tmp_path, 20), WAIT_SECONDS)
        connect = json.loads((tmp_path / "run" / "connection.json").read_text())["join"]
        ticket = json.loads((tmp_path / "run" / "worker.token").read_text())
        (tmp_path / "wrong.token").write_text(json.dumps(ticket | {"token": "wrong"}))
        other = tls.made().certificate.decode()
        (tmp_path / "other.token").write_text(json.dumps(ticket | {"certificate": other}))
        assert "refused: wrong or missing run token" in refused(tmp_path, connect, "wrong.token")
        assert "got no run" in refused(tmp_path, connect, "other.token")

        with worker(tmp_path, connect, "--workers", "2") as leaving:
            assert eventually(lambda: computed(tmp_path, 2), WAIT_SECONDS)
            leaving.send_signal(signal.SIGINT)
            _, err = leaving.communicate(timeout=WAIT_SECONDS)
            assert leaving.returncode == 0, err
            assert "left: " in err
        with worker(tmp_path, connect) as dying:
            assert eventually(lambda: computed(tmp_path, 4), WAIT_SECONDS)
            dying.kill()
        with worker(tmp_path, connect) as staying:
            assert eventually(lambda: computed(tmp_path, 5), WAIT_SECONDS)
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=2 * WAIT_SECONDS)
            assert run.returncode == 130, err
            _, told = staying.communicate(timeout=WAIT_SECONDS)
            assert staying.returncode == 0, told
            assert "the run is over: " in told
    assert f"distbelief worker --connect {connect} --token-file run/worker.token" in err
    assert not (tmp_path / "run" / "worker.token").exists()
    assert verify(tmp_path / "run").verdict == ENDED_EARLY  # no lease is lost and none counted twice
    assert summary_of(tmp_path)["leases"]["reissued"] >= 1
    assert replay(tmp_path / "run").verdict == IDENTICAL
