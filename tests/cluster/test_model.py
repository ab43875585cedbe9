"""Cluster model: the distributions, whose stream is whose, and transfers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.model import ClusterModel, SimulateSettings

BASE = SimulateSettings(compute_seconds=2.0)


def times(model: ClusterModel, worker: int, count: int = 20_000) -> list[float]:
    draw = model.compute_times(worker)
    return [draw() for _ in range(count)]


@pytest.mark.parametrize(
    ("settings", "spread"),
    [
        (replace(BASE, compute="constant"), 0.0),
        (replace(BASE, compute="exponential"), 1.0),
        (replace(BASE, compute="lognormal", sigma=0.5), 0.533),
        (replace(BASE, compute="pareto", tail=3.5), 0.436),
    ],
    ids=lambda value: getattr(value, "compute", None),
)
def test_every_distribution_has_the_mean_asked_for(settings: SimulateSettings, spread: float) -> None:
    """`spread`: standard deviation over mean, from the distributions' own formulas."""
    drawn = times(ClusterModel(settings, 0), 3)
    mean = sum(drawn) / len(drawn)
    deviation = (sum((t - mean) ** 2 for t in drawn) / len(drawn)) ** 0.5
    assert mean == pytest.approx(2.0, rel=0.03)
    assert deviation / mean == pytest.approx(spread, rel=0.1, abs=1e-9)


def test_slow_workers_are_as_much_slower_as_asked() -> None:
    model = ClusterModel(replace(BASE, compute="constant", slow_workers=1, slow_factor=5.0), 0)
    assert [model.compute_times(worker)() for worker in range(3)] == [10.0, 2.0, 2.0]


def test_recorded_workers_are_taken_round() -> None:
    model = ClusterModel(replace(BASE, compute="empirical", source="run"), 0, [[1.0, 1.5], [9.0]])
    assert set(times(model, 2, 100)) == {1.0, 1.5}
    assert set(times(model, 3, 100)) == {9.0}


def test_every_worker_has_a_stream_of_its_own() -> None:
    model = ClusterModel(replace(BASE, compute="exponential", life_seconds=5.0), 7)
    alone = times(model, 1, 100)
    draw_other, draw = model.compute_times(0), model.compute_times(1)
    interleaved = [(draw_other(), draw())[1] for _ in range(100)]
    assert interleaved == alone
    assert times(model, 0, 100) != alone
    assert times(ClusterModel(model.settings, 8), 1, 100) != alone
    assert model.life_seconds(1) == model.life_seconds(1) != model.life_seconds(2)


def test_transfers_take_latency_and_their_size_over_the_bandwidth() -> None:
    assert ClusterModel(replace(BASE, latency_seconds=0.5), 0).transfer_seconds(10**9) == 0.5
    assert ClusterModel(replace(BASE, latency_seconds=0.5, bandwidth=1e3), 0).transfer_seconds(500) == 1.0


def test_nobody_is_lost_unless_asked_for() -> None:
    assert ClusterModel(BASE, 0).life_seconds(0) == float("inf")
