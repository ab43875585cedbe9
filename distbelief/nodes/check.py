"""Check: what is wrong with one's own machines, before anything starts on them."""

from __future__ import annotations

import json
import shutil
import time  # noqa: TID251 -- clocks are compared
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distbelief.nodes import probe, ssh
from distbelief.nodes.file import ClusterFile

HEAD_PORTS = (6379, 8265)  # Ray's own, and its dashboard's
SSH_PORT = 22
LEAST_PYTHON = (3, 11)
SKEW_SECONDS = 5.0
SHARED_MEMORY_BYTES = 300 << 20  # the object store and a little
DISK_BYTES, FIRST_DISK_BYTES = 1 << 30, 6 << 30  # with and without the packages installed
TEMPORARY_BYTES = 1 << 30


@dataclass(slots=True)
class Finding:
    """What was found on one machine.

    Attributes:
        facts: What it is like.
        problems: What is wrong, each a line: got, expected, what to do.
        notes: What is worth knowing.
    """

    facts: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a machine said, and how far its clock is ahead of this one's, in seconds."""

    said: Mapping[str, Any]
    ahead: float


def script() -> str:
    """The probe, as it is sent."""
    return Path(probe.__file__).read_text("utf-8")


def here(file: ClusterFile) -> list[str]:
    """What is wrong with this machine."""
    problems = [f"no {name} on this machine: install it" for name in ("ssh", "rsync") if shutil.which(name) is None]
    key = Path(file.login.key).expanduser()
    if file.login.key and not key.is_file():
        problems.append(f"auth.ssh_private_key: got {key}, expected a key file")
    elif file.login.key and key.stat().st_mode & 0o077:
        problems.append(f"auth.ssh_private_key: others may read {key}; chmod 600 it, or ssh refuses it")
    return problems


def look(file: ClusterFile) -> dict[str, Finding]:
    """Look at every machine, all at once."""
    head, *others = file.nodes

    def ask(node: str) -> _Answer | str:
        ports = ",".join(map(str, HEAD_PORTS)) if node == head else ""
        targets = [f"{other}:{SSH_PORT}" for other in others] if node == head else [f"{head}:{HEAD_PORTS[0]}"]
        asked = time.time()
        done = ssh.run(file.login, node, f"python3 - look '{ports}' '{','.join(targets)}'", script())
        answered = time.time()
        if done.code:
            return _unlooked(done)
        said = json.loads(done.out)
        # Its clock was read after the connection stood, which is most of the time: nearer the answer than the question.
        return _Answer(said, max(0.0, said["clock"] - answered) + min(0.0, said["clock"] - asked))

    answers = ssh.on_all(file.nodes, ask)
    first = answers[head]
    return {node: _judge(answer, first if isinstance(first, _Answer) else None) for node, answer in answers.items()}


def _unlooked(done: ssh.Done) -> str:
    if done.code == 255:
        return f"SSH: cannot log in ({done.why}); check the address, auth.ssh_user and auth.ssh_private_key"
    if "python3" in done.err and "not found" in done.err:
        return "Python: got no python3, expected 3.11 or later; install it with its venv module"
    return f"cannot look at it: {done.why}"


def _judge(answer: _Answer | str, head: _Answer | None) -> Finding:
    if isinstance(answer, str):
        return Finding(problems=[answer])
    said = answer.said
    found = Finding(
        f"Python {said['python']}, {said['cores']} cores, clock {answer.ahead:+.1f} s, "
        f"{_size(said['shared_memory_bytes'])} shared memory, {_size(said['disk_bytes'])} disk"
    )
    found.problems += _wrong_versions(said, head.said if head else said)
    if abs(answer.ahead) > SKEW_SECONDS:
        found.problems.append(
            f"clock: {answer.ahead:+.1f} s from this machine's, expected within {SKEW_SECONDS:g} s; turn on NTP"
        )
    first = not said["installed"]
    for what, key, least, do in (
        ("shared memory", "shared_memory_bytes", SHARED_MEMORY_BYTES, "enlarge /dev/shm"),
        ("disk", "disk_bytes", FIRST_DISK_BYTES if first else DISK_BYTES, "make room in the home directory"),
        ("disk", "temporary_bytes", TEMPORARY_BYTES, "make room in /tmp"),
    ):
        if said[key] < least:
            found.problems.append(f"{what}: got {_size(said[key])} free, expected {_size(least)}; {do}")
    if not said["rsync"]:
        found.problems.append("rsync: got none, expected it, since files are copied with it; install it")
    for target, why in said["unreachable"].items():
        found.problems.append(f"network: cannot reach {target} ({why}); check the address and the firewalls")
    if said["ours"]:
        found.notes.append(f"{len(said['ours'])} processes of Ray run there; `up` starts it anew")
    elif said["taken_ports"]:
        ports = ", ".join(said["taken_ports"])
        found.problems.append(f"ports: {ports} taken by another program, expected free; end it")
    return found


def _wrong_versions(said: Mapping[str, Any], head: Mapping[str, Any]) -> Sequence[str]:
    python = tuple(int(part) for part in said["python"].split(".")[:2])
    if python < LEAST_PYTHON:
        return [f"Python: got {said['python']}, expected 3.11 or later"]
    if said["python"] != head["python"]:
        return [
            f"Python: got {said['python']}, expected {head['python']} as on the head; Ray wants the same everywhere"
        ]
    if not said["venv"]:
        return ["Python: got no venv module, expected one; on Debian: apt install python3-venv"]
    if said["installed"] and head["installed"] and said["installed"] != head["installed"]:
        return [f"packages: got {said['installed']}, expected {head['installed']} as on the head; `up` installs them"]
    return []


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.0f} MiB"


def lines(findings: Mapping[str, Finding]) -> list[str]:
    """What a person reads: one line for each machine that is well, one for each problem of the others."""
    width = max(map(len, findings))
    told = []
    for node, found in findings.items():
        told += [f"{node:{width}}  FAILED  {problem}" for problem in found.problems]
        if not found.problems:
            told.append(f"{node:{width}}  ok      {found.facts}")
        told += [f"{node:{width}}  note    {note}" for note in found.notes]
    return told


def healthy(findings: Mapping[str, Finding]) -> bool:
    return not any(found.problems for found in findings.values())
