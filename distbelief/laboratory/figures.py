"""Figures of a grid: error against samples and time, heat maps, staleness, time to a target, theory beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from distbelief.histogram import mean
from distbelief.laboratory.groups import Group, Way, by_error, by_time
from distbelief.report import charts, html
from distbelief.report.axes import Axis, share
from distbelief.report.charts import Curve
from distbelief.report.course import SAMPLES, curves, time_axis
from distbelief.report.heat import Field, Sides, heat
from distbelief.report.html import Html

MOST_CURVES, MOST_HISTOGRAMS = 8, 12
SPREAD = 8.0  # times that the slowest way takes as long as the fastest, from which on the axis of time is logarithmic
ERROR = Axis("top-1 error of the average", from_zero=True, text=share)


def learning(groups: Sequence[Group]) -> list[Html]:
    """Error against samples and against virtual time, a pair of figures for every cluster."""
    best = by_error(groups)
    found = []
    for cluster in sorted({group.way.cluster for group in best}):
        chosen = [group for group in best if group.way.cluster == cluster]
        shown = sorted(chosen, key=lambda group: group.error)[:MOST_CURVES]
        shown = [group for group in chosen if group in shown]
        note = f"The {MOST_CURVES} ways with the least error of {len(chosen)}." if len(shown) < len(chosen) else ""
        lengths = [result.summary["seconds"] for group in shown for result in group.results]
        axis, unit = time_axis("virtual time", max(lengths))
        axis = replace(axis, log=max(lengths) > SPREAD * min(lengths))
        where = f", cluster {cluster}" if len({group.way.cluster for group in best}) > 1 else ""
        for against_time, x, size in ((False, SAMPLES, 1.0), (True, axis, unit)):
            title = f"Error against {'virtual time' if against_time else 'samples'}{where}"
            lines = [_curve(group, shown, groups, style, against_time, size) for style, group in enumerate(shown)]
            found.append(curves(title, lines, x, ERROR, note))
    return found


def _curve(
    group: Group, shown: Sequence[Group], groups: Sequence[Group], style: int, against_time: bool, unit: float
) -> Curve:
    lines = [[(x / unit, error) for x, error in line] for line in group.course(against_time)]
    label = group.way.label(each.way for each in shown)
    tuned = [f"{name} {value:g}" for name, value in _tuned(group, groups)]
    several = len(group.results) > 1
    name = f"{label} ({', '.join(tuned)})" if tuned else label
    return Curve(name, lines[0], lines[1] if several else (), lines[2] if several else (), style)


def _tuned(group: Group, groups: Sequence[Group]) -> list[tuple[str, float]]:
    """Its rate and momentum, as far as the grid has more than one."""
    pairs = (("rate", group.rate), ("momentum", group.momentum))
    return [(name, value) for name, value in pairs if len({getattr(each, name) for each in groups}) > 1]


def maps(groups: Sequence[Group]) -> list[Html]:
    """Heat maps by rate, and by momentum at the best rate, as far as the grid has several. Rows are numbers of workers;
    with one number only, ways to train.
    """
    errors = [group.error for group in groups if math.isfinite(group.error)]
    if not errors:
        return []
    span = min(errors), max(errors)
    by_workers = len({group.way.workers for group in groups}) > 1
    momenta = {group.momentum for group in groups}
    found = []
    for shared in sorted({_shared(group.way, by_workers) for group in groups}):
        chosen = [group for group in groups if _shared(group.way, by_workers) == shared]
        if len({group.rate for group in groups}) > 1:
            for momentum in sorted({group.momentum for group in chosen}):
                some = [group for group in chosen if group.momentum == momentum]
                parts = [f"momentum {momentum:g}"] if len(momenta) > 1 else []
                found.append(_map(_titled("Error by rate", parts, shared, groups), some, "rate", span))
        if len({group.momentum for group in chosen}) > 1:
            title = _titled("Error by momentum, at the best rate", [], shared, groups)
            found.append(_map(title, chosen, "momentum", span))
    return found


def _shared(way: Way, by_workers: bool) -> Way:
    """What all rows of a map have in common."""
    return Way(way.cluster, 0, way.consistency, way.correction) if by_workers else Way(way.cluster, 0, "", "")


def _titled(title: str, parts: list[str], shared: Way, groups: Sequence[Group]) -> str:
    """The title, with what tells the map from the others."""
    for name in ("cluster", "consistency", "correction"):
        value = getattr(shared, name)
        if value and len({getattr(group.way, name) for group in groups}) > 1:
            parts = [*parts, f"{name} {value}"]
    return f"{title}: {', '.join(parts)}" if parts else title


def _map(title: str, groups: Sequence[Group], axis: str, span: tuple[float, float]) -> Html:
    rows = sorted({group.way for group in groups})
    columns = sorted({float(getattr(group, axis)) for group in groups})
    fields: list[list[Field]] = []
    for row in rows:
        fields.append([])
        for column in columns:
            some = [g for g in groups if g.way == row and getattr(g, axis) == column and math.isfinite(g.error)]
            fields[-1].append(_field(min(some, key=lambda g: g.error, default=None)))
    by_workers = len({row.workers for row in rows}) > 1
    names = [str(row.workers) if by_workers else row.label(rows) for row in rows]
    sides = Sides(axis, [f"{column:g}" for column in columns], "workers" if by_workers else "", names)
    return html.figure(title, heat(title, sides, fields, span), Html(""))


def _field(group: Group | None) -> Field:
    if group is None:
        return Field(None, "", "not tried")
    low, high = group.errors
    seeds = len(group.results)
    title = f"{group.way.workers} workers, rate {group.rate:g}, momentum {group.momentum:g}: error {share(group.error)}"
    title += f" ({share(low)} to {share(high)} over {seeds} seeds)" if seeds > 1 else ""
    title += f", {group.diverged} of {seeds} diverged" if group.diverged else ""
    ratio = group.mean(lambda result: result.stability_ratio)
    title += f", stability ratio {ratio:.3g}" if math.isfinite(ratio) else ""
    return Field(group.error, f"{100 * group.error:.1f}{' ×' if group.diverged else ''}", title)


def staleness(groups: Sequence[Group]) -> list[Html]:
    """A histogram for every number of workers, consistency and cluster."""
    counts: dict[Way, Counter[int]] = {}
    for group in groups:
        way = Way(group.way.cluster, group.way.workers, group.way.consistency, "")
        for result in group.results:
            found = {int(value): n for value, n in result.summary["staleness"]["histogram"].items()}
            counts.setdefault(way, Counter()).update(found)
    figures = []
    for way, found in sorted(counts.items())[:MOST_HISTOGRAMS]:
        label = way.label(counts)
        drawing = charts.histogram(f"Staleness: {label}", found, Axis("staleness, updates"), mean(found))
        figures.append(html.figure(label, drawing, Html("")))
    return figures


def times(groups: Sequence[Group], target_error: float) -> list[Html]:
    """Virtual time to the target, a figure for every cluster: each way at the rate and momentum that is fastest."""
    fastest = {group.way: group.to_target()[1] for group in by_time(groups)}
    if not fastest:
        return []
    ways = sorted({group.way for group in groups})
    axis, unit = time_axis("virtual time", max(fastest.values()))
    found = []
    for cluster in sorted({way.cluster for way in ways}):
        chosen = [way for way in ways if way.cluster == cluster]
        lengths = [(way.label(chosen), fastest.get(way, math.inf) / unit) for way in chosen]
        where = f", cluster {cluster}" if len({way.cluster for way in ways}) > 1 else ""
        title = f"Virtual time to {share(target_error)} error{where}"
        found.append(html.figure(title, charts.bars(title, lengths, axis), Html("")))
    return found


def theory(groups: Sequence[Group]) -> list[Html]:
    """Effective momentum beside that of memoryless workers, and error against the stability ratio, where measured."""
    figures = []
    momenta = {
        f"momentum {momentum:g}": [
            (float(group.way.workers), group.mean(lambda result: result.effective_momentum))
            for group in groups
            if group.momentum == momentum
        ]
        for momentum in sorted({group.momentum for group in groups})
    }
    if any(math.isfinite(y) for points in momenta.values() for _, y in points):
        workers = sorted({float(group.way.workers) for group in groups})
        lines = [Curve("1 - 1/W: memoryless workers", [(w, 1 - 1 / w) for w in workers], style=6)]
        lines += [Curve(name, points, style=s, joined=False) for s, (name, points) in enumerate(momenta.items())]
        figures.append(curves("Effective momentum", lines, Axis("workers", log=True), Axis("effective momentum")))
    ratios: dict[str, list[tuple[float, float]]] = {}
    for group in groups:
        ratio = group.mean(lambda result: result.stability_ratio)
        if math.isfinite(ratio) and ratio > 0:
            ratios.setdefault(f"momentum {group.momentum:g}", []).append((ratio, group.error))
    lines = [Curve(name, sorted(of), style=s, joined=False) for s, (name, of) in enumerate(sorted(ratios.items()))]
    if lines:
        x = Axis("stability ratio: rate × curvature / what is stable", log=True)
        note = "1: the limit of a quadratic with the same curvature, staleness and momentum."
        figures.append(curves("Error against the stability ratio", lines, x, ERROR, note))
    return figures
