"""What is wrong with a machine is said in one line each; a machine that is well gets one line in all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time  # noqa: TID251 -- machines tell the time
from pathlib import Path
from typing import Any

import pytest

from distbelief.nodes import check, operations, probe, ssh
from distbelief.nodes.file import ClusterFile, Login
from distbelief.nodes.ssh import Done

GIB = 1 << 30
WELL: dict[str, Any] = {
    "python": "3.11.7", "venv": True, "cores": 4, "shared_memory_bytes": GIB, "disk_bytes": 20 * GIB,
    "temporary_bytes": 5 * GIB, "taken_ports": [], "unreachable": {}, "rsync": True, "ours": [], "installed": "",
}  # fmt: skip
FILE = ClusterFile(
    Path("cluster.yaml"),
    {"provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}, "auth": {"ssh_user": "me"}},
)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the two machines say: a dict that differs from WELL, or how SSH ended."""
    says: dict[str, Any] = {"10.0.0.1": {}, "10.0.0.2": {}}
    asked: list[str] = []

    def run(login: Login, node: str, command: str, given: str = "", seconds: float = 60.0) -> Done:
        assert login.user == "me"
        asked.append(command)
        if isinstance(says[node], Done):
            return says[node]
        return Done(0, json.dumps({"clock": time.time()} | WELL | says[node]), "")

    monkeypatch.setattr(ssh, "run", run)
    says["asked"] = asked
    return says


def test_machines_that_are_well(machines: dict[str, Any]) -> None:
    found = check.look(FILE)
    assert check.healthy(found)
    assert check.lines(found) == [
        f"{node}  ok      Python 3.11.7, 4 cores, clock +0.0 s, 1.0 GiB shared memory, 20.0 GiB disk"
        for node in ("10.0.0.1", "10.0.0.2")
    ]
    assert sorted(machines["asked"]) == [
        "python3 - look '' '10.0.0.1:6379'",
        "python3 - look '6379,8265' '10.0.0.2:22'",
    ]


@pytest.mark.parametrize(
    ("says", "line"),
    [
        (Done(255, "", "Permission denied (publickey)."), "SSH: cannot log in (Permission denied (publickey).)"),
        (Done(127, "", "bash: python3: command not found"), "Python: got no python3, expected 3.11 or later"),
        (Done(1, "", "Traceback\nKeyError: 1"), "cannot look at it: KeyError: 1"),
        ({"python": "3.9.2"}, "Python: got 3.9.2, expected 3.11 or later"),
        ({"python": "3.12.1"}, "Python: got 3.12.1, expected 3.11.7 as on the head"),
        ({"venv": False}, "Python: got no venv module"),
        ({"clock": 0.0}, "expected within 5 s; turn on NTP"),
        ({"shared_memory_bytes": 64 << 20}, "shared memory: got 64 MiB free, expected 300 MiB"),
        ({"disk_bytes": 2 * GIB}, "disk: got 2.0 GiB free, expected 6.0 GiB; make room in the home directory"),
        ({"temporary_bytes": 5}, "disk: got 0 MiB free, expected 1.0 GiB; make room in /tmp"),
        ({"rsync": False}, "rsync: got none"),
        ({"unreachable": {"10.0.0.1:6379": "timed out"}}, "network: cannot reach 10.0.0.1:6379 (timed out)"),
        ({"taken_ports": ["6379"]}, "ports: 6379 taken by another program"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(machines: dict[str, Any], says: Any, line: str) -> None:
    machines["10.0.0.2"] = says
    found = check.look(FILE)
    assert not check.healthy(found)
    good, bad = check.lines(found)
    assert good.startswith("10.0.0.1  ok ")
    assert bad.startswith("10.0.0.2  FAILED  ")
    assert line in bad


def test_packages_that_differ_are_said(machines: dict[str, Any]) -> None:
    machines["10.0.0.1"] = {"installed": "distbelief 2 ray 3 torch 4"}
    machines["10.0.0.2"] = {"installed": "distbelief 1 ray 3 torch 4", "disk_bytes": 2 * GIB}
    (_, bad) = check.lines(check.look(FILE))
    assert "packages: got distbelief 1 ray 3 torch 4, expected distbelief 2 ray 3 torch 4 as on the head" in bad


def test_ray_that_runs_there_is_worth_a_note(machines: dict[str, Any]) -> None:
    machines["10.0.0.1"] = {"ours": ["7 raylet"], "taken_ports": ["6379"]}
    found = check.look(FILE)
    assert check.healthy(found)
    assert check.lines(found)[1] == "10.0.0.1  note    1 processes of Ray run there; `up` starts it anew"


def test_a_key_that_is_missing_or_open_is_said(tmp_path: Path) -> None:
    key = tmp_path / "key"
    file = ClusterFile(FILE.path, FILE.content | {"auth": {"ssh_private_key": str(key)}})
    assert any("expected a key file" in problem for problem in check.here(file))
    key.touch(mode=0o644)
    assert any("others may read" in problem for problem in check.here(file))
    key.chmod(0o600)
    assert not any("ssh_private_key" in problem for problem in check.here(file))


def test_up_starts_nothing_where_something_is_wrong(
    machines: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines["10.0.0.2"] = Done(255, "", "no route")
    (tmp_path / "cluster.yaml").write_text(json.dumps(FILE.content))
    monkeypatch.setattr(check, "here", lambda file: [])
    with pytest.raises(operations.RunFailed, match="nothing was started"):
        operations.up(tmp_path / "cluster.yaml")


# --- the probe itself ------------------------------------------------------------------------------------------------


def probed(*arguments: str) -> str:
    """The probe as it is sent: on standard input, to a Python without our packages."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-", *arguments],
        input=check.script(), capture_output=True, text=True, cwd="/", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_probe_sees_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = json.loads(probed("look", f"{port}", f"127.0.0.1:{port},127.0.0.1:1,256.0.0.1:22"))
    assert said["taken_ports"] == [str(port)]
    assert list(said["unreachable"]) == ["256.0.0.1:22"]
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))
    assert said["cores"] == len(os.sched_getaffinity(0))
    assert set(said) == {*WELL, "clock"}


def test_the_probe_knows_what_is_ours(tmp_path: Path) -> None:
    program = tmp_path / ".distbelief" / "env" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    code = "import sys; print('there', flush=True); sys.stdin.read()"
    with subprocess.Popen([program, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"  # before that its command line may be its parent's
        assert any(line.startswith(f"{process.pid} ") for line in probe.ours())
        process.kill()
    assert not any(line.startswith(f"{process.pid} ") for line in probe.ours())
