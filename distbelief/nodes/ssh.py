"""SSH: a command on one's own machines, several at once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from distbelief.nodes.file import Login

CONNECT_SECONDS = 10
AT_ONCE = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended; `code` 255: it never ran, since the machine cannot be reached."""

    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """Its last word, for a person."""
        return (self.err.strip().splitlines() or [f"exit code {self.code}"])[-1]


def run(login: Login, node: str, command: str, given: str = "", seconds: float = 60.0) -> Done:
    """Run a command in bash on a machine, with this on its standard input. Never raises: a failure is an answer."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options.append(f"ConnectTimeout={CONNECT_SECONDS}")
    if login.proxy:
        options.append(f"ProxyCommand={login.proxy}")
    arguments = [item for option in options for item in ("-o", option)]
    if login.key:
        arguments += ["-i", str(Path(login.key).expanduser())]
    target = f"{login.user}@{node}" if login.user else node
    try:
        done = subprocess.run(
            ["ssh", *arguments, target, command],
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        return Done(255, "", "no ssh program on this machine")
    except subprocess.TimeoutExpired:
        return Done(124, "", f"no end within {seconds:g} s")
    return Done(done.returncode, done.stdout, done.stderr)


def on_all(nodes: Sequence[str], work: Callable[[str], T]) -> dict[str, T]:
    """Do this for all machines, many at once; the results by machine, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(nodes, pool.map(work, nodes), strict=True))
