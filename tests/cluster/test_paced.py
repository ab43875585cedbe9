"""Paced runs: on the live clock gradients take as long as the model of a cluster says."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from cluster.model import ClusterModel
from distbelief.config import Config
from distbelief.fit import fitted
from distbelief.launcher import prepare
from ps.errors import BadInput
from ps.journal import WorkerTimed
from ps.wire.files import read_journal
from tests.cluster.world import World, served

SECONDS = 0.02
WORKERS = 4


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two slow workers and two others, all on one host with a single turn; ended."""
    settings = {
        "cluster__paced": True, "simulate__compute_seconds": SECONDS, "simulate__slow_workers": 2,
        "simulate__slow_factor": 3.0,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "run"
    with served(folder, cluster__workers=WORKERS, run__batch_size=64, **settings) as world:
        world.host(turns=1).run()
    return world


def test_every_gradient_takes_the_time_that_was_drawn_for_it(paced: World) -> None:
    assert paced.spec.pace is not None
    model = ClusterModel(paced.spec.pace, paced.spec.plan.seed)
    spent: dict[int, list[WorkerTimed]] = defaultdict(list)
    for record in read_journal(paced.spec.journal / "host-0.journal"):
        if isinstance(record, WorkerTimed):
            spent[record.worker].append(record)
    assert sorted(spent) == list(range(WORKERS))
    for worker, records in spent.items():
        drawn = model.compute_times(worker)
        for record in records:
            assert record.decode_seconds + record.compute_seconds >= drawn()
            assert record.turn_seconds == 0.0, "nobody waits on a machine of its own"


def test_a_fit_gives_every_worker_a_machine_of_its_own(paced: World) -> None:
    assert fitted(paced.spec.folder)["simulate.turns"] == 0


def test_times_that_are_only_measured_are_no_plan(tmp_path: Path) -> None:
    chosen = {"cluster.paced": True, "simulate.compute": "empirical", "run.folder": str(tmp_path / "run")}
    with pytest.raises(BadInput, match=r"simulate\.compute: got 'empirical', expected a distribution to draw from"):
        prepare(Config.of(chosen))
