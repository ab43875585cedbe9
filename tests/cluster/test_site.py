"""What Ray is asked for, for one actor."""

from __future__ import annotations

import pytest

from tests.cluster.simulation import specification

site = pytest.importorskip("cluster.live.site")


@pytest.mark.parametrize("gpus", [0.0, 0.25, 2.0])
def test_an_actor_takes_its_share_of_a_gpu_and_no_core(gpus: float) -> None:
    """Cores are shared out by cluster.placement; to Ray a logical worker's core would be one that the run keeps."""
    options = site.Site(specification(1, 1)).options("host-0", "ab" * 28, gpus)
    assert (options["num_cpus"], options["num_gpus"]) == (0, gpus)
    assert options["scheduling_strategy"].node_id == "ab" * 28


def test_no_two_actors_of_a_run_have_one_name() -> None:
    here = site.Site(specification(1, 1))
    names = [here.options("shard-0", "ab" * 28)["name"] for _ in range(2)]
    assert names[0] != names[1]
    assert all(name.startswith("distbelief-simulated-") and name.endswith("-shard-0") for name in names)
