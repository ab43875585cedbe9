"""Resume: a run whose processes are gone is taken up where its run directory says it was.

Shards and averager come back from the newest whole snapshot, the ledger from its journal; leases that a shard had after
its snapshot, or that somebody held, are granted again. Workers are new ones, under ids that nobody has had.
"""

from __future__ import annotations

import json
import secrets
import sys
import time  # noqa: TID251 -- waits for what is left of the run's processes
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from cluster.logs import logging_to
from cluster.machines import build_ledger
from cluster.recording import first_opening
from cluster.witnesses import unlike
from distbelief import BEGAN, rundir
from distbelief.config import Config
from distbelief.draft import anchored, draft, facts_of, faults_of
from distbelief.interrupts import Interrupts
from distbelief.launcher import Launch, Prepared, exit_code, identity_of, shown
from distbelief.logs import LoggedView
from distbelief.progress import View, view_for
from distbelief.status import running
from ps.errors import BadInput, RunFailed, require
from ps.ledger import Ending
from ps.messages import LEDGER
from ps.wire.files import SUFFIX, run_of
from workers.datasets import load
from workers.images import Traits

GONE_SECONDS = 30.0
OVER = (Ending.COMPLETED.value, Ending.DIVERGED.value)


def resume_command(run: Path, workers: int | None) -> int:
    """`distbelief resume`: returns the exit code. Raises BadInput, RunFailed."""
    return exit_code(resume(run, workers, started=max(psutil.Process().create_time(), BEGAN)))


def resume(
    run: Path, workers: int | None = None, view: View | None = None, started: float | None = None
) -> dict[str, Any]:
    """Take a run up and bring it to its end.

    Args:
        run: Run directory.
        workers: Another number of workers than it was started with.
        view, started: As of `launch`.

    Returns:
        The content of summary.json.

    Raises:
        BadInput: Not a run directory, or the run goes on, or is over.
        RunFailed: The run could not go on.
    """
    view = view or view_for(sys.stderr)
    started = time.time() if started is None else started
    with Interrupts() as interrupts, rundir.held(run), logging_to(run, "driver"):
        try:
            config, prepared, first = _prepare(run, workers)
            logged = LoggedView(view)
            logged.begin(shown(config, prepared))
            _wait_until_gone(run)
            rundir.remove_connection(run)
            (run / rundir.SUMMARY).unlink(missing_ok=True)
            return Launch(config, prepared, logged, interrupts, started, first).run()
        finally:
            view.close()


def _prepare(run: Path, workers: int | None) -> tuple[Config, Prepared, float]:
    """The run as it was, and when it was begun."""
    config = rundir.config_of(run)
    if workers is not None:
        require(workers >= 1, "--workers", workers, "at least 1")
        config = replace(config, cluster=replace(config.cluster, workers=workers))
        config.check()
    config = anchored(config)
    if (by := _ended_by(run)) in OVER:
        raise BadInput(f"run: got {run}, which has {by}; expected one that was interrupted, killed or stopped early")
    opened = first_opening(run / rundir.JOURNAL)
    drafted = draft(config)
    mine = replace(build_ledger(drafted.spec).opened(opened.now), workers=opened.workers)
    if mine != opened:
        raise RunFailed(f"{run}: config.toml and data are not those of the journals: {unlike(opened, mine)}")
    load(config.data, "test")
    spec = replace(
        drafted.spec,
        run=run_of(run / rundir.JOURNAL / f"{LEDGER}{SUFFIX}"),
        folder=run.absolute(),
        token=secrets.token_hex(32),
        identity=identity_of(config.cluster),
        faults=faults_of(config),
    )
    dataset = drafted.dataset
    prepared = Prepared(spec, drafted.weights_N, Traits.of(dataset), dataset, facts_of(config, drafted))
    return config, prepared, opened.now


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
