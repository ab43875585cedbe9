"""Resume: a run whose processes are gone is taken up where its run directory says it was.

Shards and averager come back from the newest whole snapshot, the ledger from its journal; leases that a shard had after
its snapshot, or that somebody held, are granted again. Workers are new ones, under ids that nobody has had.

Another number of shards comes about at rest: the run goes on with the shards that it has until all of them have the
same leases, a snapshot of that is cut anew (see ps.repartition), and it goes on from there.
"""

from __future__ import annotations

import json
import secrets
import shlex
import sys
import time  # noqa: TID251 -- waits for what is left of the run's processes
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from msgspec import structs

from cluster.logs import logging_to
from cluster.machines import build_ledger
from cluster.recording import openings
from cluster.spec import RunSpec
from cluster.witnesses import unlike
from distbelief import BEGAN, rundir
from distbelief.config import Config
from distbelief.draft import anchored, draft, facts_of, faults_of
from distbelief.interrupts import Interrupts
from distbelief.launcher import Launch, Prepared, identity_of, shown
from distbelief.logs import LoggedView
from distbelief.progress import View, view_for
from distbelief.status import running
from distbelief.summary import VIRTUAL_START, exit_code
from ps.errors import BadInput, RunFailed, require
from ps.ledger import Ending
from ps.messages import LEDGER
from ps.wire.files import SUFFIX, run_of
from workers.datasets import load
from workers.images import Traits

GONE_SECONDS = 30.0
OVER = (Ending.COMPLETED.value, Ending.DIVERGED.value)


def resume_command(run: Path, workers: int | None, shards: int | None) -> int:
    """`distbelief resume`: returns the exit code. Raises BadInput, RunFailed."""
    return exit_code(resume(run, workers, shards, started=max(psutil.Process().create_time(), BEGAN)))


def resume(
    run: Path,
    workers: int | None = None,
    shards: int | None = None,
    view: View | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Take a run up and bring it to its end.

    Args:
        run: Run directory.
        workers: Another number of workers than it was started with.
        shards: Another number of shards than it has now.
        view, started: As of `launch`.

    Returns:
        The content of summary.json.

    Raises:
        BadInput: Not a run directory, or the run goes on, or is over.
        RunFailed: The run could not go on.
    """
    view = view or view_for(sys.stderr)
    started = time.time() if started is None else started
    with Interrupts() as interrupts, rundir.held(run):
        try:
            config, prepared, first = _prepare(run, workers, shards)
            with logging_to(run, "driver"):
                logged = LoggedView(view)
                logged.begin(shown(config, prepared))
                _wait_until_gone(run)
                rundir.remove_connection(run)
                (run / rundir.SUMMARY).unlink(missing_ok=True)
                return Launch(config, prepared, logged, interrupts, started, first).run()
        finally:
            view.close()


def _prepare(run: Path, workers: int | None, shards: int | None) -> tuple[Config, Prepared, float]:
    """The run as it goes on, and when it was first asked for."""
    for option, count in (("--workers", workers), ("--shards", shards)):
        require(count is None or count >= 1, option, count, "at least 1")
    config = rundir.config_of(run)
    if (by := _ended_by(run)) in OVER:
        raise BadInput(f"run: got {run}, which has {by}; expected one that was interrupted, killed or stopped early")
    opened = openings(run / rundir.JOURNAL)
    if opened[0].now == VIRTUAL_START:
        again = shlex.join(["distbelief", "simulate", "--config", str(run / rundir.CONFIG)])
        raise BadInput(f"run: got {run}, a simulated run; expected a live one: simulate it again with {again}")
    cluster = replace(config.cluster, shards=opened[-1].shards)  # config.toml has the first
    if workers is not None:
        cluster = replace(cluster, workers=workers)
    if shards is not None:
        cluster = replace(cluster, shards=shards)
    config = replace(config, cluster=cluster)
    config.check()
    config = anchored(config)
    drafted = draft(config)
    first = opened[0]
    mine = structs.replace(build_ledger(drafted.spec).opened(first.now), workers=first.workers, shards=first.shards)
    if mine != first:
        raise RunFailed(f"{run}: config.toml and data are not those of the journals: {unlike(first, mine)}")
    load(config.data, "test")
    spec = replace(
        drafted.spec,
        run=run_of(run / rundir.JOURNAL / f"{LEDGER}{SUFFIX}"),
        folder=run.absolute(),
        token=secrets.token_hex(32),
        identity=identity_of(config.cluster),
        faults=faults_of(config),
        cut=opened[-1].cut,
    )
    dataset = drafted.dataset
    before = None
    if cluster.shards != opened[-1].shards:
        before = _as_it_is(spec, opened[-1].shards)
        spec = replace(spec, cut=spec.cut + 1)
    facts = facts_of(config, drafted)
    asked = rundir.started(run) or first.now
    return config, Prepared(spec, drafted.weights_N, Traits.of(dataset), dataset, facts, before=before), asked


def _as_it_is(spec: RunSpec, shards: int) -> RunSpec:
    """The run with as many shards as it has now, to be brought to rest. Its actors are not those that come later."""
    return replace(
        spec,
        token=secrets.token_hex(32),
        layout=replace(spec.layout, shards=shards),
        cluster=replace(spec.cluster, shards=shards),
        resting=True,
    )


def _ended_by(run: Path) -> str:
    """What the run's summary says; empty if there is none."""
    try:
        return str(json.loads((run / rundir.SUMMARY).read_bytes())["stopped_by"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _wait_until_gone(run: Path) -> None:
    """Processes of a run whose driver was killed end by themselves; two that write one journal would spoil it."""
    deadline = time.monotonic() + GONE_SECONDS
    while running(run) is not None:
        if time.monotonic() > deadline:
            raise RunFailed(f"{run}: its actors still answer after {GONE_SECONDS:.0f} s; end them, then resume")
        time.sleep(0.5)
