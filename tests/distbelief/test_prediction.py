"""Prediction: a live run of eight workers in two speed classes says what a live run of sixteen will be like.

It measures times, so it wants a machine to itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cluster.recording import Recording

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

COMMAND = str(Path(sys.executable).with_name("distbelief"))
RECORDED, PREDICTED = 8, 16
BATCH = 8
# Half of the workers are slow. A gradient of this model takes a millisecond or two: the planned times decide.
SETTINGS = {
    "model.name": "perceptron", "run.batch_size": BATCH, "run.epochs": 14, "run.evaluate_share": 0.0,
    "cluster.shards": 1, "cluster.paced": "true", "simulate.compute_seconds": 0.1, "simulate.slow_factor": 3.0,
}  # fmt: skip
FAST, SLOW = "fast", "slow"


def ran(*command: object, **settings: object) -> None:
    assignments = [f"--set={key.replace('__', '.')}={value}" for key, value in settings.items()]
    subprocess.run([COMMAND, *map(str, command), *assignments], check=True, timeout=400)


def launched(run: Path, workers: int) -> Path:
    values = {**SETTINGS, "simulate.slow_workers": workers // 2}
    ran("launch", "--workers", workers, "--run", run, **values)
    return run


def updates_per_second(run: Path) -> float:
    found: float = json.loads((run / "summary.json").read_text())["images_per_second"]
    return found / BATCH


def staleness(run: Path, of: int) -> dict[str, Counter[int]]:
    """Per speed class, how often each staleness was met. A worker takes after the one with its number modulo `of`."""
    found: dict[str, Counter[int]] = {FAST: Counter(), SLOW: Counter()}
    for push in Recording.read(run / "journal").taken(0):
        found[SLOW if push.worker % of < of // 2 else FAST][push.staleness] += 1
    return found


def distance(one: Counter[int], other: Counter[int]) -> float:
    """Kolmogorov and Smirnov's: the greatest difference of the two distribution functions."""
    furthest = ones = others = 0.0
    for value in range(max(*one, *other) + 1):
        ones += one[value] / one.total()
        others += other[value] / other.total()
        furthest = max(furthest, abs(ones - others))
    return furthest


def test_the_distance_is_that_of_the_distribution_functions() -> None:
    assert distance(Counter({0: 1, 1: 3}), Counter({0: 10, 1: 30})) == 0.0
    assert distance(Counter({0: 1, 1: 3}), Counter({1: 2, 2: 2})) == 0.5
    assert distance(Counter({0: 1}), Counter({5: 1})) == 1.0


def test_sixteen_workers_are_predicted_from_eight(tmp_path: Path) -> None:
    recorded, live = launched(tmp_path / "eight", RECORDED), launched(tmp_path / "sixteen", PREDICTED)
    predicted = tmp_path / "predicted"
    ran("simulate", "--from", recorded, "--workers", PREDICTED, "--no-gradients", "--run", predicted)
    met, expected = staleness(live, PREDICTED), staleness(predicted, RECORDED)
    assert met[FAST].total() > 2 * met[SLOW].total()
    for speed in (FAST, SLOW):
        assert distance(met[speed], expected[speed]) <= 0.1, speed
    assert updates_per_second(predicted) == pytest.approx(updates_per_second(live), rel=0.1)
