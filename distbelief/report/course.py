"""Course of a run: the sections of its page that are drawn: learning, staleness, time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from distbelief.histogram import binned, mean, percentile, total
from distbelief.report import charts, html
from distbelief.report.axes import Axis, share
from distbelief.report.charts import Curve, Spread
from distbelief.report.drawing import Point
from distbelief.report.history import History
from distbelief.report.html import Html
from distbelief.report.subject import Subject

STRETCHES = 50  # that the course of a run is drawn in
COLUMNS = 64  # workers that are drawn one by one; more are drawn in groups
SHARDS = 6  # that are drawn; more stand in the table only
SAMPLES = Axis("examples applied", from_zero=True)
PARTS = {  # of a worker's time, from the bottom of a column up
    "compute": "computing",
    "exchange": "exchanging with the shards",
    "decode": "waiting for images",
    "turn": "waiting for a core",
    "lease": "waiting for a lease",
}

Line = dict[str, Any]  # of metrics.jsonl


def time_axis(kind: str, longest: float, from_zero: bool = True) -> tuple[Axis, float]:
    """An axis of seconds, minutes or hours, and what seconds are divided by."""
    for name, size in (("h", 3600.0), ("min", 60.0)):
        if longest > 3 * size:
            return Axis(f"{kind}, {name}", from_zero=from_zero), size
    return Axis(f"{kind}, s", from_zero=from_zero), 1.0


def curves(title: str, of: Sequence[Curve], x: Axis, y: Axis, note: str = "") -> Html:
    """A figure of those curves that have points."""
    shown = [curve for curve in of if curve.points]
    legend = html.legend((curve.name, curve.mark) for curve in shown)
    return html.figure(title, charts.curves(title, shown, x, y), legend, note)


def learning(subject: Subject) -> Html:
    """Loss and error, against samples and against time."""
    course = subject.history.course(subject.began, STRETCHES)
    if not subject.learned or not any(math.isfinite(each.loss) for each in course):
        return html.section("Learning", html.paragraph("Nothing was learned: no gradient is known.", "note"))
    tested = [line for line in subject.metrics if line["kind"] == "evaluation"]
    if subject.summary and (not tested or tested[-1]["samples"] < course[-1].samples):
        average = subject.summary["evaluation"]["average"]
        known = {f"average_{key}": average[key] for key in ("loss", "top1_error") if average[key] is not None}
        tested.append({"samples": course[-1].samples, "seconds": course[-1].seconds, **known})
    axis, unit = time_axis(subject.clock, course[-1].seconds, subject.simulated)
    samples = [float(each.samples) for each in course]
    seconds = [each.seconds / unit for each in course]
    figures = []
    for name, x, places, place in (
        ("samples", SAMPLES, samples, lambda line: float(line["samples"])),
        ("time", axis, seconds, lambda line: float(line["seconds"]) / unit),
    ):
        losses = [
            Curve("training", list(zip(places, [each.loss for each in course], strict=True))),
            Curve("test, average", _tested(tested, place, "average_loss"), style=1),
        ]
        errors = [
            Curve("training", list(zip(places, [each.error for each in course], strict=True))),
            Curve("test, average", _tested(tested, place, "average_top1_error"), style=1),
        ]
        figures.append(curves(f"Loss against {name}", losses, x, Axis("loss, nats")))
        figures.append(curves(f"Error against {name}", errors, x, Axis("top-1 error", from_zero=True, text=share)))
    note = "Training: means over the examples of each stretch of the run, with dropout and augmentation."
    return html.section("Learning", html.side_by_side(*figures), html.paragraph(note, "note"))


def _tested(lines: Sequence[Line], place: Callable[[Line], float], key: str) -> list[Point]:
    return [(place(line), float(line[key])) for line in lines if key in line]


def staleness(subject: Subject) -> Html:
    """Histograms over all, by shard and by worker."""
    by_shard, counts = subject.history.by_shard, subject.staleness
    if not counts:
        return html.section("Staleness", html.paragraph("No gradient was applied.", "note"))
    axis = Axis("staleness, updates")
    drawing = charts.histogram("Staleness of all updates", counts, axis, mean(counts))
    figures = [html.figure("All updates", drawing, Html(""))]
    y = Axis("staleness, updates", from_zero=True)
    drawing = charts.spreads("Staleness by worker", _by_worker(subject.history), "worker", y)
    figures.append(html.figure("By worker", drawing, Html(""), "A dot at the median, a bar from 5 to 95 %."))
    if 1 < len(by_shard) <= SHARDS:
        least, width = min(counts), charts.bar_width(counts)
        shards = [
            Curve(name, [(v + (width - 1) / 2, n / sum(found.values())) for v, n in sorted(bars.items())], style=style)
            for style, (name, found) in enumerate(sorted(by_shard.items()))
            for bars in [binned(found, least, width)]
        ]
        figures.append(curves("By shard", shards, axis, Axis("share of updates", from_zero=True, text=share)))
    rows = [
        [
            name, f"{sum(found.values()):,}", f"{mean(found):,.2f}",
            *[f"{percentile(found, q):,}" for q in (0.5, 0.95)], f"{max(found):,}",
        ]
        for name, found in [*sorted(by_shard.items()), ("all", counts)]
    ]  # fmt: skip
    table = html.table(["shard", "gradients", "mean", "median", "95 %", "most"], rows)
    text = "Staleness: the updates that a shard applied between a worker's pull and the arrival of its gradient."
    return html.section("Staleness", html.paragraph(text), html.side_by_side(*figures), table)


def time(subject: Subject) -> Html:
    """Throughput, and where a worker's time goes."""
    history = subject.history
    course = history.course(subject.began, STRETCHES)
    if not course:
        return html.section("Time", html.paragraph("No lease was finished.", "note"))
    axis, unit = time_axis(subject.clock, course[-1].seconds, subject.simulated)
    speed = Curve("images per second", [(each.seconds / unit, each.images_per_second) for each in course])
    y = Axis("images per second", from_zero=True)
    figures = [html.figure("Throughput", charts.curves("Throughput", [speed], axis, y), Html(""))]
    groups = _groups(sorted(history.timed))
    if groups:
        parts = {
            meaning: [
                1e3 * sum(history.seconds[w][part] for w in workers) / sum(history.timed[w] for w in workers)
                for _, workers in groups
            ]
            for part, meaning in PARTS.items()
        }
        title = "Where a worker's time goes"
        legend = html.legend((name, charts.patch(style)) for style, name in enumerate(parts))
        y = Axis("milliseconds per lease", from_zero=True)
        drawing = charts.stacks(title, [name for name, _ in groups], parts, "worker", y)
        figures.append(html.figure(title, drawing, legend))
    return html.section("Time", html.side_by_side(*figures))


def _groups(workers: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Workers one by one, or in groups of neighbours if they are many."""
    size = max(1, -(-len(workers) // COLUMNS))
    parts = [list(workers[first : first + size]) for first in range(0, len(workers), size)]
    return [(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}", part) for part in parts]


def _by_worker(history: History) -> list[Spread]:
    found = []
    for name, workers in _groups(sorted(history.by_worker)):
        counts = total([dict(history.by_worker[worker]) for worker in workers])
        low, middle, high = (percentile(counts, q) for q in (0.05, 0.5, 0.95))
        found.append(Spread(name, low, middle, high, mean(counts)))
    return found
