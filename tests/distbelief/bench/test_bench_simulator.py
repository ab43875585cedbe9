"""Bench of the simulator: the keys of its answer, and what they mean."""

from __future__ import annotations

import json

import pytest

from distbelief import cli
from distbelief.bench import simulator


def test_the_answer_has_its_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(simulator, "LEAST_UPDATES", 300)
    typed = "bench simulator --workers 10 --shards 2 --pairs 2 --json"
    assert cli.run(typed.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["workers"], found["shards"], found["rounds"]) == (10, 2, 2)
    assert found["updates_per_second"] > 0
    assert 0 < found["gradient_share"] < 1
    spread = found["updates_per_second_spread"]
    assert spread["min"] <= spread["median"] <= spread["max"]


def test_no_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "simulator", "--pairs", "0"]) == 2
    assert "--pairs: got 0, expected at least 1" in capsys.readouterr().err
