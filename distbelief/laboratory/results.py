"""Results: what each cell of a grid came to, read from its run directory, and the table of all of them.

diverged    a loss or gradient was not finite, or the last epoch's loss is above that of guessing, ln(classes); without
            gradients nothing does
to target   at the first evaluation of the average, about as often as simulate.evaluate_epochs says, whose error is
            at most the target; empty if there was none
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from distbelief import rundir
from distbelief.laboratory.experiment import Cell
from distbelief.report.subject import read_metrics
from ps.ledger import Ending
from workers.datasets import DataSettings, load

COLUMNS = (
    "workers", "consistency", "correction", "momentum", "rate", "seed",
    "staleness_mean", "staleness_p95", "staleness_max", "updates", "samples", "virtual_seconds", "final_loss",
    "top1_error_average", "top1_error_latest", "samples_to_target", "virtual_seconds_to_target", "diverged",
    "effective_momentum", "stability_ratio", "cluster", "cell",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation of the average. Error: top-1, a fraction."""

    samples: int
    seconds: float
    error: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell came to.

    Attributes:
        summary: Its summary.json.
        course: Its evaluations, in order.
        target: The first of them whose error is at most the target; None if there is none.
        diverged: See the head of this file.
    """

    cell: Cell
    summary: dict[str, Any]
    course: tuple[Evaluated, ...]
    target: Evaluated | None
    diverged: bool

    @classmethod
    def read(cls, cell: Cell, folder: Path, target_error: float) -> Result:
        """From the cell's run directory."""
        summary = json.loads((folder / rundir.SUMMARY).read_bytes())
        course = tuple(
            Evaluated(line["samples"], line["seconds"], line["average_top1_error"])
            for line in read_metrics(folder)[0]
            if line["kind"] == "evaluation" and "average_top1_error" in line
        )
        reached = next((each for each in course if each.error <= target_error), None) if target_error else None
        return cls(cell, summary, course, reached, _diverged(cell, summary))

    @property
    def error(self) -> float:
        """Of the average at the end, top-1; NaN if nothing was learned."""
        error = self.summary["evaluation"]["average"]["top1_error"]
        return math.nan if error is None else float(error)

    @property
    def effective_momentum(self) -> float | None:
        """Measured from the trajectory; None if it was not."""
        return self.summary.get("effective_momentum")

    @property
    def stability_ratio(self) -> float | None:
        """Rate times curvature over what is stable; None if it was not measured."""
        stability = self.summary.get("stability")
        return stability["ratio"] if stability else None

    def row(self) -> tuple[object, ...]:
        """Values in the order of COLUMNS; None for what is not known."""
        cell, summary = self.cell, self.summary
        staleness, evaluation = summary["staleness"], summary["evaluation"]
        return (
            cell.workers, cell.consistency, cell.correction, cell.momentum, cell.rate, cell.seed,
            staleness["mean"], staleness["p95"], staleness["max"], summary["updates"], summary["samples"],
            summary["seconds"], summary["train_loss"], evaluation["average"]["top1_error"],
            evaluation["latest"]["top1_error"], self.target and self.target.samples,
            self.target and self.target.seconds, str(self.diverged).lower(),
            self.effective_momentum, self.stability_ratio, cell.cluster, cell.name,
        )  # fmt: skip


def _diverged(cell: Cell, summary: dict[str, Any]) -> bool:
    loss = summary["train_loss"]
    if cell.config.simulate.gradients == "none":
        return False
    if summary["stopped_by"] == Ending.DIVERGED.value or loss is None:
        return True
    return bool(loss > math.log(_classes(cell.config.data)))


@cache
def _classes(data: DataSettings) -> int:
    return len(load(data, "test").classes)


def table(results: Iterable[Result]) -> str:
    """results.csv: a row per cell under a row of names; empty for what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if value is None else value for value in result.row()] for result in results)
    return text.getvalue()
