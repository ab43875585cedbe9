"""The page of a laboratory: what a grid came to, for a person."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from distbelief.laboratory import figures
from distbelief.laboratory.experiment import EXPERIMENT, Experiment
from distbelief.laboratory.groups import Group, by_error, grouped
from distbelief.laboratory.results import Result
from distbelief.progress import number, percent
from distbelief.report import html
from distbelief.report.axes import short
from distbelief.report.html import Html

LEARNING = (
    "Every way at the rate and momentum of the grid with the least error at the end; a band from the least to the "
    "greatest of the seeds."
)
TIMES = (
    "Every way at the rate and momentum that reaches the target first. Virtual time: what the simulated cluster takes, "
    "whatever this machine took."
)

MAPS = "Mean top-1 error of the average at the end, in percent. Framed: the least of each row; ×: diverged."


def laboratory_page(experiment: Experiment, results: Sequence[Result], out: Path) -> str:
    """The whole page.

    Args:
        results: Of every cell.
        out: The laboratory's directory.
    """
    groups = grouped(results)
    sections = [_at_a_glance(groups, results), _notices(results), _best(groups, experiment.target_error)]
    for title, found, text in (
        ("Learning", figures.learning(groups), LEARNING),
        ("Time to the target", figures.times(groups, experiment.target_error), TIMES),
        ("The grid", figures.maps(groups), MAPS),
        ("Theory beside it", figures.theory(groups), ""),
        ("Staleness", figures.staleness(groups), ""),
    ):
        if found:
            said = [html.paragraph(text, "note")] if text else []
            sections.append(html.section(title, *said, html.side_by_side(*found)))
    sections += [_cells(results), _again(results, out)]
    return html.page(experiment.title, html.paragraph(experiment.about or "A grid of simulated runs."), sections)


def _at_a_glance(groups: Sequence[Group], results: Sequence[Result]) -> Html:
    best = min(by_error(groups), key=lambda group: group.error, default=None)
    return html.tiles(
        [
            ("cells", f"{len(results):,}"),
            ("updates", short(sum(result.summary["updates"] for result in results))),
            ("diverged", f"{sum(result.diverged for result in results):,}"),
            ("least error, mean over seeds", percent(best.error if best else None)),
        ]
    )


def _notices(results: Sequence[Result]) -> Html:
    early = [result for result in results if result.summary["stopped_by"] not in ("completed", "diverged")]
    lines = [f"{each.cell.name} ended by {each.summary['stopped_by']}: {each.summary['message']}" for each in early]
    return html.notices("warning", lines)


def _best(groups: Sequence[Group], target_error: float) -> Html:
    """A row for every way at its best rate and momentum."""
    best = by_error(groups)
    if not best:
        return html.section("What came out", html.paragraph("Nothing was learned: there were no gradients.", "note"))
    synchronous = {(g.way.cluster, g.way.workers): g.to_target()[1] for g in best if g.way.consistency == "sync"}
    head = ["way", "rate", "momentum", "error", "over seeds", "staleness", "95 %", "most"]
    if target_error:
        head += [f"to {percent(target_error, 0)}: examples", "virtual time"]
        head += ["of sync's"] if synchronous else []
    ways = [group.way for group in best]
    rows = []
    for group in best:
        low, high = group.errors
        spread = f"{100 * low:.1f} to {100 * high:.1f}" if len(group.results) > 1 else "-"
        stale = [fmean(result.summary["staleness"][key] for result in group.results) for key in ("mean", "p95", "max")]
        row = [group.way.label(ways), f"{group.rate:g}", f"{group.momentum:g}", percent(group.error), spread]
        row += [number(stale[0], 2), number(stale[1], 0), number(stale[2], 0)]
        if target_error:
            samples, seconds = group.to_target()
            reached = math.isfinite(seconds)
            share = seconds / synchronous.get((group.way.cluster, group.way.workers), math.nan) if reached else math.nan
            row += [f"{samples:,.0f}" if reached else "never", f"{seconds:.2f} s" if reached else "never"]
            row += [number(share, 2)] if synchronous else []
        rows.append(row)
    text = "Every way to train, at the rate and momentum of the grid with the least error of the average at the end."
    return html.section("What came out", html.paragraph(text, "note"), html.table(head, rows))


def _cells(results: Sequence[Result]) -> Html:
    head = ["cell", "error, average", "error, latest", "final loss", "staleness", "updates", "virtual time", "diverged"]
    rows = [
        [
            result.cell.name, percent(None if math.isnan(result.error) else result.error),
            percent(result.summary["evaluation"]["latest"]["top1_error"]), number(result.summary["train_loss"], 4),
            number(result.summary["staleness"]["mean"], 2), f"{result.summary['updates']:,}",
            f"{result.summary['seconds']:.2f} s", "yes" if result.diverged else "",
        ]
        for result in results
    ]  # fmt: skip
    return html.section("Cells", html.folded(f"All {len(rows):,} cells", html.table(head, rows)))


def _again(results: Sequence[Result], out: Path) -> Html:
    first = results[0].cell
    text = (
        "results.csv has these numbers, a row per cell. Every cell is a run of its own: it can be replayed to the bit, "
        "verified, evaluated, and has a page. The experiment itself, in another directory:"
    )
    commands = [
        shlex.join(["distbelief", command, str(out / "cells" / first.name)])
        for command in ("report", "replay", "verify")
    ]
    commands.append(shlex.join(["distbelief", "staleness", str(out / EXPERIMENT), "--out", "again"]))
    settings = html.folded("Every setting of the first cell (config.toml)", html.code(first.config.to_toml()))
    return html.section("Again", html.paragraph(text), html.code("\n".join(commands)), settings)
