"""Advisor: what a rate is worth under each rule and correction, and the sentence that a run says at its start."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from distbelief.advisor import Advisor, curvature, measurable, stability
from distbelief.config import Config
from distbelief.draft import draft
from distbelief.progress import PlainView
from distbelief.simulate import simulate

MOMENTUM = {"rule.rule": "momentum", "rule.momentum": 0.9, "schedule.rate": 0.02, "correction.kind": "none"}


def config(**values: object) -> Config:
    chosen = {name.replace("__", "."): value for name, value in values.items()}
    return Config.of({**MOMENTUM, "cluster.workers": 32, **chosen})


def numbers(chosen: Config, staleness: float | None = None) -> tuple[float, float, float]:
    found = stability(chosen, 10.0, staleness)
    return found.rate, found.momentum, found.staleness


def test_what_a_rate_is_worth() -> None:
    assert numbers(config()) == (0.02, 0.9, 31.0)
    assert numbers(config(), staleness=15.5) == (0.02, 0.9, 15.5)
    assert numbers(config(rule__rule="sgd")) == (0.02, 0.0, 31.0)
    assert numbers(config(consistency__kind="sync")) == (0.02, 0.9, 0.0)
    assert numbers(config(correction__kind="staleness-rate")) == pytest.approx((0.02 / 31, 0.9, 31.0))
    adamw = config(rule__rule="adamw", rule__beta1=0.9)
    assert numbers(adamw) == pytest.approx((0.002, 0.9, 31.0))
    assert numbers(config(rule__rule="rmsprop", correction__kind="dana")) == (0.02, 0.9, 31.0)
    assert stability(config(correction__kind="dana"), 10.0).limit > 5 * stability(config(), 10.0).limit


def test_a_warm_up_lets_the_curvature_fall_before_the_rate_is_at_its_highest() -> None:
    assert [stability(config(schedule__warmup_epochs=epochs), 10.0).borne for epochs in (0.0, 0.5)] == [1.0, 2.0]


def test_a_ramp_s_rate_is_for_those_that_begin() -> None:
    ramp = config(consistency__begin=8)
    assert (numbers(ramp)[2], numbers(ramp, staleness=17.6)[2]) == (7.0, 7.0)


@pytest.mark.parametrize(("workers", "rate", "momentum"), [(1, 0.02, 0.9), (2, 0.2 / 9, 8 / 9), (32, 0.0625, 0.0)])
def test_implicit_momentum_is_worth_what_the_correction_makes_of_it(workers: int, rate: float, momentum: float) -> None:
    found = numbers(config(correction__kind="implicit-momentum", cluster__workers=workers))
    assert found == pytest.approx((rate, momentum, workers - 1))


def test_what_the_theory_says_nothing_of_is_not_measured() -> None:
    assert measurable(config())
    assert not measurable(config(rule__rule="adagrad"))
    assert not measurable(config(correction__kind="gap-aware"))
    assert not measurable(config(program__kind="local", rule__rule="nesterov"))


@pytest.mark.parametrize("rule", ["momentum", "adamw", "rmsprop"])
def test_a_network_s_curvature_is_a_number_above_zero_and_the_same_twice(rule: str) -> None:
    chosen = config(rule__rule=rule)
    drafted = draft(chosen)
    found = [curvature(chosen, drafted.spec, drafted.dataset, drafted.weights_N) for _ in range(2)]
    assert found[0] > 0
    assert found[0] == found[1]


def test_a_simulated_run_says_it_at_the_start_and_sums_up_what_it_measured(tmp_path: Path) -> None:
    said = io.StringIO()
    chosen = config(run__folder=str(tmp_path / "run"), run__epochs=1, run__batch_size=16, cluster__workers=8)
    summary = simulate(chosen, PlainView(said))
    assert "times what is stable at a mean staleness of 7 and momentum 0.9; stable: --lr" in said.getvalue()
    stability = summary["stability"]
    assert (stability["rate"], stability["momentum"]) == (0.02, 0.9)
    assert stability["staleness"] == pytest.approx(summary["staleness"]["mean"], abs=1e-3)
    assert stability["ratio"] == pytest.approx(stability["rate"] / stability["limit"])
    assert stability["ratio"] > 1
    assert stability["advice"].startswith("warning: rate 0.02 x curvature")
    assert 0 < summary["gap"]["mean"] <= summary["gap"]["largest"]
    assert summary["conservation"]["holds"] is True


def test_the_advisor_beside_a_live_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setpriority", lambda *_: None)  # the thread's, but tests share its processor
    chosen = config()
    drafted = draft(chosen)
    said: list[str] = []
    advisor = Advisor(chosen, drafted.spec, drafted.dataset, drafted.weights_N, said.append)
    advisor.join()
    verdict = advisor.verdict(staleness=15.5)
    assert verdict is not None
    assert verdict["staleness"] == 15.5
    assert len(said) == 1
    assert said[0].startswith("warning: rate 0.02 x curvature ")
    advisor.close()


def test_an_advisor_that_is_closed_before_it_is_done_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config()
    drafted = draft(chosen)
    gate = threading.Event()
    monkeypatch.setattr(os, "setpriority", lambda *_: gate.wait())
    said: list[str] = []
    advisor = Advisor(chosen, drafted.spec, drafted.dataset, drafted.weights_N, said.append)
    advisor.stop()
    gate.set()
    advisor.close()
    assert (advisor.verdict(31.0), said) == (None, [])
