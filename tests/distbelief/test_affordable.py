"""Affordable: a momentum per worker where there is memory for it, and none where there is not."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import serving
from distbelief import memory
from distbelief.affordable import affordable
from distbelief.config import Config
from distbelief.draft import draft
from distbelief.launcher import prepare
from distbelief.simulate import simulate

SHORT: dict[str, object] = {"rule.rule": "momentum", "cluster.workers": 16, "run.preset": "digits"}


def test_what_fits_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.of(SHORT)
    drafted = draft(config)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert affordable(config, drafted, lambda spec: 1000) == (config, drafted)


def test_what_does_not_fit_is_run_with_one_momentum_and_what_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.of({**SHORT, "schedule.rate": 0.125})
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 << 29)
    found, drafted = affordable(config, draft(config), lambda spec: spec.cluster.workers << 28)
    assert config.correction.kind == "dana"
    without = Config.of({**SHORT, "schedule.rate": 0.125, "correction.kind": "none"})
    assert found == without
    assert found.rule.momentum < config.rule.momentum
    assert (drafted.spec.correction, drafted.spec.schedule, drafted.spec.rule) == (
        without.correction, without.schedule, without.rule,
    )  # fmt: skip
    assert drafted.notes[-1] == (
        "a momentum for each of 16 workers would need about 4.0 GiB, 1.5 GiB are free: "
        "the run has one for all, as with --correction none"
    )


@pytest.mark.parametrize("named", [{"correction.kind": "dana"}, {"correction.kind": "none"}, {"rule.rule": "sgd"}])
def test_what_a_person_chose_is_left_to_them(named: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.of({**SHORT, **named})
    drafted = draft(config)
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    assert affordable(config, drafted, lambda spec: 1) == (config, drafted)


def test_a_momentum_that_was_chosen_stays() -> None:
    config = Config.of({**SHORT, "rule.momentum": 0.8})
    without = config.without_vectors_per_worker()
    assert (without.correction.kind, without.rule.momentum) == ("none", 0.8)
    assert without == Config.of({**SHORT, "rule.momentum": 0.8, "correction.kind": "none"})


def test_a_simulated_run_that_is_short_of_memory_says_so_and_writes_down_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {**SHORT, "run.batch_size": 512, "run.epochs": 1, "model.name": "inception-mini"}
    config = Config.of({**few, "run.folder": str(tmp_path / "run")})
    needed = memory.simulated_bytes(draft(config).spec)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed // 2)
    summary = simulate(config)
    assert (summary["correction"], summary["stopped_by"]) == ("none", "completed")
    assert "note: a momentum for each of 16 workers would need" in capsys.readouterr().err
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert (written["correction"]["kind"], "automatic" in written) == ("none", False)


def test_a_simulated_run_takes_a_vector_per_worker_more_with_a_momentum_each() -> None:
    spec = draft(Config.of(SHORT)).spec
    vector_bytes = spec.layout.size * memory.FLOAT_BYTES
    without = replace(spec, correction=replace(spec.correction, kind="none"))
    assert memory.simulated_bytes(spec) - memory.simulated_bytes(without) == (16 + 1) * vector_bytes


def test_versions_beyond_their_share_are_on_disk_and_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(draft(Config.of(SHORT)).spec, cluster=replace(draft(Config.of(SHORT)).spec.cluster, workers=10_000))
    spec = replace(spec, correction=replace(spec.correction, kind="none"))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 30)
    most = memory.simulated_bytes(spec)
    more = memory.simulated_bytes(replace(spec, cluster=replace(spec.cluster, workers=20_000)))
    assert more == most < 2 << 30


def test_a_live_run_is_told_likewise_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.of({**SHORT, "run.folder": str(tmp_path / "run")})
    spec = draft(config).spec
    needed = memory.needed_bytes(spec, serving.default_turns(spec))
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    found, prepared = prepare(config)
    assert (found.correction.kind, prepared.spec.correction.kind, prepared.facts["correction"]) == ("none",) * 3
    assert prepared.notes[-1].startswith("a momentum for each of 16 workers would need about ")
