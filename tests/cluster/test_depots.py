"""Depots: every machine that does not see the run directory has a folder of its own, whenever it joined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.placement import Node
from cluster.shipping import Depot
from cluster.spec import RunSpec
from tests.cluster.simulation import specification

depots = pytest.importorskip("cluster.live.depots")
site = pytest.importorskip("cluster.live.site")


class Here:
    """An actor in this process: what a call gives is there at once."""

    def __init__(self, made: Depot) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._made, name))


class FarDepot(Depot):
    """One of a machine that does not see the run directory."""

    def __init__(self, folder: Path, mark: str) -> None:
        super().__init__(folder, "none")


def spec_in(folder: Path) -> RunSpec:
    return replace(specification(1, 1), folder=folder)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Depot]]:
    """The machines of a cluster, by what their depots are."""
    machines: dict[str, type[Depot]] = {"near": Depot, "far": FarDepot}

    def options(node: str) -> Any:
        return SimpleNamespace(remote=lambda folder, mark: Here(machines[node](folder, mark)))

    monkeypatch.setattr(depots.ray, "remote", lambda kind: SimpleNamespace(options=lambda **given: options(**given)))
    monkeypatch.setattr(depots.ray, "get", lambda found, timeout=0: found)
    monkeypatch.setattr(depots.ray, "kill", lambda actor: None)
    monkeypatch.setattr(site.Site, "options", lambda self, name, node: {"node": node})
    monkeypatch.setattr(depots, "alive", lambda: [Node(name, name, 1) for name in machines])
    return machines


def test_a_machine_that_joined_later_is_asked_too(cluster: dict[str, type[Depot]], tmp_path: Path) -> None:
    run = site.Site(spec_in(tmp_path))
    found = depots.Depots(run)
    found.open(depots.alive())
    cluster |= {"late": Depot, "late and far": FarDepot}
    folders = {name: run.spec_on(name).folder for name in cluster}
    assert folders["near"] == folders["late"] == tmp_path
    assert len({tmp_path, folders["far"], folders["late and far"]}) == 3
    (folders["late and far"] / "host-9.journal").write_bytes(b"written there")
    found.finish()
    assert (tmp_path / "host-9.journal").read_bytes() == b"written there"
    assert not folders["late and far"].exists()


def test_a_ray_of_the_run_s_own_has_one_folder(tmp_path: Path) -> None:
    assert site.Site(spec_in(tmp_path)).spec_on("here").folder == tmp_path
