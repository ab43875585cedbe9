"""Laboratory: runs the cells of an experiment, each once, and writes what they came to.

    OUT/cells/NAME/    a run directory per cell: replay, verify, report and evaluate work on it
    OUT/results.csv    a row per finished cell, rewritten whenever one is
    OUT/report.html    when all are
    OUT/experiment.toml  what was asked for, to run it again

A cell that is finished is not run again: the same command goes on where the last one was ended, whatever ended it. A
cell's directory is named after all its settings, so another experiment may use the same OUT.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import click

from cluster.local import private_ray
from distbelief.counter import Counter
from distbelief.draft import anchored
from distbelief.fit import fitted
from distbelief.interrupts import Interrupts
from distbelief.laboratory.cells import UNFINISHED, Job, run_cell, unpack
from distbelief.laboratory.experiment import EXPERIMENT, Cell, Experiment, Grid, find, quick, shipped
from distbelief.laboratory.page import laboratory_page
from distbelief.laboratory.pool import in_processes
from distbelief.laboratory.results import Result, table
from distbelief.report.pictures import write_pictures
from ps.errors import BadInput
from ps.wire.files import write_whole

CELLS, RESULTS, REPORT, FIGURES, LOCK = "cells", "results.csv", "report.html", "figures", ".lock"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asked of a laboratory, besides the experiment.

    Attributes:
        out: Its directory; None for one named after the experiment.
        address: Ray to compute the cells on, as in ClusterSettings; "" for processes of this machine.
        target_error: In place of the experiment's.
        source: Run directory whose compute times the clusters have; None for those of the experiment.
    """

    out: Path | None = None
    address: str = ""
    target_error: float | None = None
    source: Path | None = None


def staleness_command(experiment: str, axes: Grid, settings: Mapping[str, object], asked: Asked) -> int:
    """`distbelief staleness`: run it and say where the results are; return the exit code. Raises as `run`."""
    chosen = find(experiment) if experiment else quick()
    if asked.source is not None:
        chosen = chosen.measured(fitted(asked.source))
    chosen = chosen.narrowed(axes, settings, asked.target_error)
    out = asked.out or Path("runs") / f"staleness-{chosen.name}"
    with Interrupts():  # SIGTERM too ends the cells' processes, and what is finished is kept
        results = run(chosen, out, asked.address)
    best = min((result for result in results if result.error == result.error), key=lambda r: r.error, default=None)
    click.echo(f"cells    {len(results)}, {sum(result.diverged for result in results)} of them diverged")
    if best is not None:
        click.echo(f"best     top-1 error {100 * best.error:.2f} %: {best.cell.name}")
    click.echo(f"results  {out / RESULTS}\nreport   {out / REPORT}, its figures as SVG in {out / FIGURES}")
    return 0


def list_command() -> int:
    """`distbelief staleness --list`: the shipped experiments, a line each; returns the exit code."""
    known = shipped()
    width = max(map(len, known))
    for name, experiment in known.items():
        minutes = f"{len(experiment.cells())} cells, about {experiment.minutes:g} min on two cores"
        click.echo(f"{name:{width}}  {experiment.title} ({minutes})")
    return 0


def run(experiment: Experiment, out: Path, address: str = "") -> list[Result]:
    """Run the cells of an experiment that are not finished; write results.csv, report.html, and its figures as files.

    Args:
        out: Directory, made if it is not there.
        address: As in `Asked`.

    Raises:
        BadInput: The experiment cannot be run, or the directory cannot be used.
        RunFailed: A cell's process was lost; the others are kept.
    """
    cells = experiment.cells()
    with _held(out):
        folder = out / CELLS
        write_whole(out / EXPERIMENT, experiment.to_toml().encode())
        for left in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left)
        missing = [cell for cell in cells if not (folder / cell.name).is_dir()]
        if len(missing) < len(cells):
            click.echo(f"{len(cells) - len(missing)} of {len(cells)} cells are finished already", err=True)
        results = {cell.name: _read(experiment, cell, folder) for cell in cells if cell not in missing}
        with Counter("staleness", "cells", sys.stderr) as counter:
            counter.show(len(results), len(cells))
            for _ in _computed(missing, folder, address):
                for cell in missing:
                    if cell.name not in results and (folder / cell.name).is_dir():
                        results[cell.name] = _read(experiment, cell, folder)
                ordered = [results[cell.name] for cell in cells if cell.name in results]
                write_whole(out / RESULTS, table(ordered).encode())
                counter.show(len(results), len(cells))
        ordered = [results[cell.name] for cell in cells]
        write_whole(out / RESULTS, table(ordered).encode())
        page = laboratory_page(experiment, ordered, out.resolve())
        write_whole(out / REPORT, page.encode())
        write_pictures(page, out / FIGURES)
        return ordered


def _read(experiment: Experiment, cell: Cell, folder: Path) -> Result:
    return Result.read(cell, folder / cell.name, experiment.target_error)


def _computed(cells: Sequence[Cell], folder: Path, address: str) -> Iterator[None]:
    """Compute these cells; something comes whenever one is finished and in its place."""
    if not cells:
        return
    here = str(folder.resolve()) if address in ("", "local") else ""
    jobs = [Job(cell.name, anchored(cell.config), here) for cell in cells]
    if not address:
        for _ in in_processes(run_cell, jobs):
            yield
        return
    with private_ray() if address == "local" else nullcontext() as temporary:
        from cluster.live.connection import connected, tasks  # Ray reads its settings when it is imported

        with connected(address, temporary):
            for archive in tasks(run_cell, jobs):
                if archive:
                    unpack(archive, folder)
                yield


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The directory, made and ours alone. Raises BadInput."""
    try:
        (out / CELLS).mkdir(parents=True, exist_ok=True)
        file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BadInput(f"--out: cannot write {out}: {error.strerror}; name another directory") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"--out: got {out}, where another laboratory is at work; name another directory") from None
        yield
    finally:
        os.close(file)
