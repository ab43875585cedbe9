"""The bench of live runs: its images are a data set that a run takes, and what it prints has the agreed keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from distbelief import cli
from distbelief.bench import live
from workers.datasets import DataSettings, load
from workers.models import MODELS


@pytest.mark.parametrize(("name", "side"), [("small", 32), ("large", 224)])
def test_its_images_are_a_data_set(name: str, side: int) -> None:
    train, test = (load(DataSettings(f"distbelief.bench.live:{name}"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (live.EXAMPLES, live.TESTED)
    assert train.image_shape == (3, side, side)
    assert len(train.classes) == live.CLASSES


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_run_s_images_are_of_the_size_that_the_bare_loop_has(model: str) -> None:
    images = load(DataSettings(f"distbelief.bench.live:{live.DATA[live.side_of(model)]}"), "test")
    assert images.image_shape == (live.CHANNELS, live.side_of(model), live.side_of(model))


@pytest.mark.parametrize("model", ["inception-mini", "inception-small"])
def test_json_has_the_agreed_keys(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched: list[list[str]] = []

    def launch(options: Sequence[str]) -> tuple[dict[str, Any], int]:
        launched.append(list(options))
        return {"images_per_second": 5.0, "updates": 9}, 0

    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "launched", launch)
    typed = f"bench live --model {model} --workers 4 --batch-size 1 --seconds 9 --pairs 1 --json"
    assert cli.run(typed.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["workers"], found["batch_size"], found["pairs"]) == (model, 4, 1, 1)
    assert found["images_per_second"] == 5.0
    assert found["ratio"] == pytest.approx(5.0 / found["spread"]["bare"]["rate"]["median"], rel=1e-3)
    assert "cluster.threads=1" in launched[0]
    assert launched[0][:4] == ["--data", "distbelief.bench.live:small", "--model", model]


def test_a_run_without_an_update_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "launched", lambda options: ({"images_per_second": 0.0, "updates": 0}, 0))
    assert cli.run(["bench", "live", "--model", "inception-mini", "--pairs", "1"]) == 1
