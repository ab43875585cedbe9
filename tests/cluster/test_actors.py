"""Actors: what a worker host says that cannot begin."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import actors
from ps.errors import BadInput
from tests.cluster.simulation import specification
from workers.datasets import DataSettings


def test_a_host_without_the_data_names_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "adopt", lambda folder, actor: None)
    spec = replace(specification(1, 1), folder=tmp_path, data=DataSettings("imagefolder", str(tmp_path / "none")))
    host = actors.HostActor(spec, 0, range(1))
    with pytest.raises(BadInput, match=rf"^on the machine {platform.node()}: .*none"):
        host.open({})
    assert host.alive() == 0
