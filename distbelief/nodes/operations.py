"""Cluster: `ray up` and `ray down`, without their traps.

the new autoscaler counts the head as a worker         the earlier one is used, RAY_UP_enable_autoscaler_v2=0
anyone who reaches the head's port may run code there  a token that every machine has and no other
what is installed differs from what runs here          a wheel of this very program
nodes come when they come                              `up` returns when all are there
`ray down` stops the head, and hopes                   `down` stops every machine, and looks
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time  # noqa: TID251 -- machines are waited for
from importlib import resources
from pathlib import Path

import click

from distbelief.nodes import check as checking
from distbelief.nodes import ssh
from distbelief.nodes.file import ENVIRONMENT, ClusterFile
from ps.errors import BadInput, RunFailed

UP_SECONDS = 1800.0  # installing takes its time
NODES_SECONDS = 1200.0
LOOK_SECONDS = 2.0


def init(file: Path, provider: str) -> int:
    """Write a cluster file. Raises BadInput if there is one."""
    text = (resources.files("cluster") / f"{provider}.yaml").read_text("utf-8")
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise BadInput(f"cannot write {file}: {error.strerror}; name another file") from error
    click.echo(f"wrote {file}: fill in the machines, then: distbelief cluster check {file}")
    return 0


def check(path: Path) -> int:
    """Look at the machines; print what is found; return 1 if anything is wrong."""
    file = ClusterFile.read(path)
    if not file.own_machines:
        click.echo(f"{path}: the machines are made by {file.content['provider'].get('type')}: nothing to look at yet")
        return 0
    return 0 if _checked(file) else 1


def _checked(file: ClusterFile) -> bool:
    problems = checking.here(file)
    for problem in problems:
        click.echo(f"this machine  FAILED  {problem}")
    if problems:
        return False
    findings = checking.look(file)
    for line in checking.lines(findings):
        click.echo(line)
    return checking.healthy(findings)


def up(path: Path) -> int:
    """Bring the cluster up; return when every machine is part of it.

    Raises:
        RunFailed: The machines are not fit for it, or one did not come up.
    """
    file = ClusterFile.read(path)
    if file.own_machines and not _checked(file):
        raise RunFailed("nothing was started: mend what is said above")
    prepared = file.prepare()
    click.echo(f"installing and starting; what happens: {file.home / 'up.log'}")
    _ray(file, "up", "--no-config-cache", "--disable-usage-stats", str(prepared))
    if file.own_machines:
        _await_nodes(file)
        head = f"{file.login.user}@{file.nodes[0]}".removeprefix("@")
        click.echo(f"up: {len(file.nodes)} machines. Now: ssh {head}, and there: distbelief launch --address auto")
    else:
        click.echo(f"up. Now: ray attach {prepared}, and there: distbelief launch --address auto")
    return 0


def _ray(file: ClusterFile, command: str, *arguments: str) -> None:
    """Run Ray's own command; its output goes to a log beside the cluster's other files."""
    environment = os.environ | {
        "RAY_UP_enable_autoscaler_v2": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(file.token),
    }
    log = file.home / f"{command}.log"
    with log.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ray.scripts.scripts", command, "--yes", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=UP_SECONDS,
            check=False,
        )
    if done.returncode:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise RunFailed(f"ray {command} failed ({' '.join(last)}); see {log}")


def _await_nodes(file: ClusterFile) -> None:
    """Return when Ray on the head knows every machine. Raises RunFailed if one does not come."""
    deadline = time.monotonic() + NODES_SECONDS
    head, missing, told = file.nodes[0], set(file.nodes), ""
    while missing:
        done = ssh.run(file.login, head, f"bash -c '{ENVIRONMENT}; distbelief cluster nodes --json'", seconds=120)
        if done.code == 0:
            missing = set(file.nodes) - {node["address"] for node in json.loads(done.out)}
        if missing and time.monotonic() > deadline:
            where = f"on {head}: /tmp/ray/session_latest/logs/monitor.out"
            raise RunFailed(
                f"not part of the cluster after {NODES_SECONDS:g} s: {', '.join(sorted(missing))}; see {where}"
            )
        here = f"{len(file.nodes) - len(missing)} of {len(file.nodes)} machines are up"
        if here != told:
            click.echo(here)
            told = here
        if missing:
            time.sleep(LOOK_SECONDS)


def down(path: Path) -> int:
    """Stop every machine; return 1 if one could not be stopped, or not be reached."""
    file = ClusterFile.read(path)
    prepared = file.home / "cluster.yaml"
    if not file.own_machines:
        _ray(file, "down", str(prepared if prepared.exists() else path))
        click.echo("down: the cloud's machines are being ended")
        return 0

    def stop(node: str) -> str:
        stopped = ssh.run(file.login, node, f"bash -c '{ENVIRONMENT} && ray stop --force'", seconds=120)
        ended = ssh.run(file.login, node, "python3 - end", checking.script())
        if ended.code:
            return f"FAILED  cannot look whether it stopped: {ended.why}"
        if remain := ended.out.strip():
            return f"FAILED  still running: {'; '.join(remain.splitlines())}"
        return "stopped" if stopped.code == 0 else f"stopped (ray stop could not be run: {stopped.why})"

    _forget(file, prepared)
    results = ssh.on_all(file.nodes, stop)
    for node, result in results.items():
        click.echo(f"{node}  {result}")
    return 1 if any(result.startswith("FAILED") for result in results.values()) else 0


def _forget(file: ClusterFile, prepared: Path) -> None:
    """Let Ray's own bookkeeping on this machine know; whether it succeeds is seen on the machines themselves."""
    if prepared.exists():
        try:
            _ray(file, "down", str(prepared))
        except RunFailed as error:
            click.echo(f"note: {error}")


def nodes(as_json: bool) -> int:
    """Print the machines of the cluster that this one belongs to. Raises BadInput if it belongs to none."""
    from cluster.live.connection import living

    found = living("auto")
    if as_json:
        click.echo(json.dumps([{"address": node.address, "cores": node.cores, "gpus": node.gpus} for node in found]))
    else:
        for node in found:
            click.echo(f"{node.address}  {node.cores:g} cores, {node.gpus:g} GPUs")
    return 0
