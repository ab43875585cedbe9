"""Groups: means over seeds, and which rate and momentum is called the best."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from distbelief.laboratory import figures
from distbelief.laboratory.experiment import Experiment
from distbelief.laboratory.groups import Way, by_error, by_time, grouped
from distbelief.laboratory.results import Evaluated, Result


def result(workers: int, consistency: str, rate: float, seed: int, error: float, **more: object) -> Result:
    """A cell that came to this error after two evaluations, at 1 and 2 virtual seconds."""
    grid = {"workers": (workers,), "consistency": (consistency,), "rate": (rate,), "seed": (seed,), "momentum": (0.9,)}
    (cell,) = Experiment("e", "e", grids=(grid,)).cells()
    summary = {"evaluation": {"average": {"top1_error": error}}, "seconds": 2.0, **more}
    course = (Evaluated(100, 1.0 + seed, error + 0.2), Evaluated(200, 2.0 + seed, error))
    target = next((each for each in course if each.error <= 0.3), None)
    return Result(cell, summary, course, target, False)


RESULTS = [
    result(8, "sync", 0.1, 0, 0.20), result(8, "sync", 0.1, 1, 0.24),
    result(8, "async", 0.1, 0, 0.05), result(8, "async", 0.1, 1, 0.09),
    result(8, "async", 0.2, 0, 0.40), result(8, "async", 0.2, 1, 0.02),
]  # fmt: skip


def test_seeds_are_put_together() -> None:
    groups = grouped(RESULTS)
    assert [(g.way.consistency, g.rate, len(g.results)) for g in groups] == [
        ("async", 0.1, 2), ("async", 0.2, 2), ("sync", 0.1, 2)
    ]  # fmt: skip
    assert groups[0].error == pytest.approx(0.07)
    assert groups[0].errors == (0.05, 0.09)
    middle, low, high = groups[0].course(against_time=False)
    assert middle == [(100, pytest.approx(0.27)), (200, pytest.approx(0.07))]
    assert (low[1], high[1]) == ((200, 0.05), (200, 0.09))
    assert groups[0].course(against_time=True)[0][0][0] == pytest.approx(1.5)


def test_the_best_of_each_way() -> None:
    groups = grouped(RESULTS)
    assert [(g.way.consistency, g.rate) for g in by_error(groups)] == [("async", 0.1), ("sync", 0.1)]
    assert groups[0].to_target() == (100, 1.5)
    assert groups[1].to_target() == (math.inf, math.inf)  # one seed never came to it
    assert [(g.way.consistency, g.rate) for g in by_time(groups)] == [("async", 0.1), ("sync", 0.1)]
    idle = [replace(RESULTS[0], summary={"evaluation": {"average": {"top1_error": None}}}, target=None)]
    assert by_error(grouped(idle)) == by_time(grouped(idle)) == []


def test_ways_are_called_by_what_tells_them_apart() -> None:
    async_8, sync_8 = Way("even", 8, "async", "none"), Way("even", 8, "sync", "none")
    assert async_8.label([async_8, sync_8]) == "async"
    assert async_8.label([async_8]) == "8 workers"
    assert Way("even", 1, "async", "none").label([sync_8]) == "1 worker, async"
    assert Way("even", 8, "async", "none").label([Way("even", 8, "async", "dana")]) == "no correction"


def test_what_was_measured_stands_beside_theory() -> None:
    assert figures.theory(grouped(RESULTS)) == []
    measured = [
        result(workers, "async", 0.1, 0, 0.1, effective_momentum=1 - 1 / workers, stability={"ratio": workers / 8})
        for workers in (2, 4, 8)
    ]
    momentum, ratio = figures.theory(grouped(measured))
    assert "momentum 0.9: 0.75 at 4" in momentum
    assert "1 - 1/W: memoryless workers: 0.875 at 8" in momentum
    assert "momentum 0.9: 10 % at 0.5" in ratio


def test_maps_have_rows_of_workers_or_else_of_ways() -> None:
    (by_way,) = figures.maps(grouped(RESULTS))
    assert ">async</text>" in by_way
    assert ">sync</text>" in by_way
    assert "8 workers, rate 0.2, momentum 0.9: error 21 % (2 % to 40 % over 2 seeds)" in by_way
    more = figures.maps(grouped([*RESULTS, result(32, "async", 0.1, 0, 0.5)]))
    assert len(more) == 2  # one for each consistency
    assert "Error by rate: consistency async" in more[0]
    assert ">32</text>" in more[0]


def test_times_to_a_target_are_of_the_fastest_and_never_is_said() -> None:
    (figure,) = figures.times(grouped(RESULTS), 0.3)
    assert "async: 1.5" in figure
    assert "sync: 2.5" in figure
    (figure,) = figures.times(grouped([*RESULTS[2:4], result(8, "backup:1", 0.1, 0, 0.7)]), 0.3)
    assert "backup:1: never" in figure
    assert figures.times(grouped([result(8, "sync", 0.1, 0, 0.7)]), 0.3) == []
