"""Simulate: the run directory it leaves, and that everything for live runs works on it."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distbelief import cli
from distbelief.config import Config
from distbelief.fit import fitted
from distbelief.replay import replay
from distbelief.simulate import simulate
from distbelief.verify import verify
from ps.errors import BadInput
from ps.journal import WorkerTimed
from ps.wire.files import journals, read_journal

SMALL = {"run.epochs": 1, "run.batch_size": 64, "cluster.workers": 4, "cluster.shards": 2}  # 23 updates


def simulated(folder: Path, **values: object) -> dict[str, Any]:
    chosen = {name.replace("__", "."): value for name, value in values.items()}
    return simulate(Config.of({**SMALL, "run.folder": str(folder), **chosen}))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four workers, two shards, one epoch of digits, with gradients."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    simulated(folder)
    return folder


def test_it_leaves_what_a_live_run_leaves(learned: Path) -> None:
    assert {path.name for path in learned.iterdir()} == {
        "config.toml", "journal", "snapshots", "metrics.jsonl", "tensorboard", "latest.safetensors",
        "average.safetensors", "summary.json",
    }  # fmt: skip
    names = [path.name for path in journals(learned / "journal")]
    assert names == [f"{actor}.journal" for actor in ("averager", "host-0", "ledger", "shard-0", "shard-1")]
    summary = json.loads((learned / "summary.json").read_text())
    assert (summary["clock"], summary["stopped_by"], summary["replayable"]) == ("simulated", "completed", True)
    assert (summary["updates"], summary["workers"], summary["leases"]["outstanding"]) == (23, 4, 0)
    assert summary["evaluation"]["average"]["examples"] == 360
    kinds = [json.loads(line)["kind"] for line in (learned / "metrics.jsonl").read_text().splitlines()]
    assert {"train", "evaluation"} <= set(kinds)


def test_times_are_virtual(learned: Path) -> None:
    """23 gradients of about 0.1 s by four workers take about 0.6 s of theirs, however long they took of ours."""
    summary = json.loads((learned / "summary.json").read_text())
    assert 0.3 < summary["seconds"] < 1.2
    timed = [r for r in read_journal(learned / "journal" / "host-0.journal") if isinstance(r, WorkerTimed)]
    assert len(timed) == 23
    assert all(0.03 < record.compute_seconds < 0.3 for record in timed)


def test_it_can_be_replayed_verified_and_shown(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(learned).verdict == "identical"
    assert verify(learned).verdict == "exactly once"
    assert cli.run(["status", str(learned)]) == 0
    assert "ended (completed)" in capsys.readouterr().out


def test_the_same_configuration_is_the_same_journal(learned: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    simulate(Config.of({"run.folder": str(again)}, learned / "config.toml"))
    other = simulated(tmp_path / "other", run__seed=1)
    for path in journals(learned / "journal"):
        assert list(read_journal(path)) == list(read_journal(again / "journal" / path.name))
    first = json.loads((learned / "summary.json").read_text())
    assert other["evaluation"]["latest"]["loss"] != first["evaluation"]["latest"]["loss"]


def test_it_is_not_taken_up_as_if_it_were_live(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even one that was killed, or that says it was stopped early."""
    summary = (learned / "summary.json").read_text()
    before = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    try:
        for left in ("", summary.replace('"completed"', '"time"')):
            (learned / "summary.json").write_text(left)
            assert cli.run(["resume", str(learned)]) == 2
            said = capsys.readouterr().err
            assert f"got {learned}, a simulated run; expected a live one: simulate it again with" in said
            assert f"distbelief simulate --config {learned / 'config.toml'}" in said
    finally:
        (learned / "summary.json").write_text(summary)
    assert {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()} == before


def test_what_is_no_run_directory_is_left_as_it_is(tmp_path: Path) -> None:
    assert cli.run(["resume", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_without_gradients_it_takes_the_same_time_and_learns_nothing(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = simulated(tmp_path / "run", simulate__gradients="none")
    summary = json.loads((learned / "summary.json").read_text())
    for key in ("seconds", "updates", "staleness", "leases"):
        assert counted[key] == summary[key]
    assert counted["evaluation"]["average"]["top1_error"] is None
    assert counted["train_loss"] is None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "train_error"}.isdisjoint(key for line in lines for key in line)
    assert not (tmp_path / "run" / "latest.safetensors").exists()
    assert replay(tmp_path / "run").verdict == "identical"
    part = ["replay", str(tmp_path / "run"), "--until", "3"]
    assert cli.run(part) == 0
    assert capsys.readouterr().out == "identical so far: 6 updates on 2 shards\n"
    assert cli.run([*part, "--output", str(tmp_path / "w.safetensors")]) == 2
    assert "was run without weights" in capsys.readouterr().err


def test_it_ends_at_its_target_and_at_its_time(tmp_path: Path) -> None:
    target = simulated(tmp_path / "target", run__target_error=0.95, run__epochs=3, simulate__evaluate_epochs=0.1)
    assert target["stopped_by"] == "target"
    assert target["updates"] < 69
    timed = simulated(tmp_path / "time", run__max_seconds=0.35, simulate__gradients="none")
    assert timed["stopped_by"] == "time"
    assert 0.35 <= timed["seconds"] < 0.7
    assert verify(tmp_path / "time").verdict == "ended early"


def test_when_all_workers_are_lost_it_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = "--workers 2 --epochs 1 --no-gradients --set simulate.life_seconds=0.01"
    assert cli.run(["simulate", "--run", str(tmp_path / "run"), *typed.split()]) == 1
    assert "all workers were lost before the run ended" in capsys.readouterr().err


# --- from a recorded run ---------------------------------------------------------------------------------------------


def test_a_fit_takes_the_times_that_were_measured(tmp_path: Path) -> None:
    simulated(
        tmp_path / "run", simulate__gradients="none", simulate__compute="constant", simulate__slow_workers=2,
        simulate__slow_factor=4.0, simulate__latency_seconds=0.01, simulate__service_seconds=0.001, run__batch_size=4,
    )  # fmt: skip
    found = fitted(tmp_path / "run")
    assert (found["simulate.compute"], found["simulate.turns"]) == ("empirical", 0)
    assert found["simulate.latency_seconds"] == pytest.approx(0.01, rel=0.1)
    again = simulate(Config.of({**found, "run.folder": str(tmp_path / "again")}, tmp_path / "run" / "config.toml"))
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["seconds"] == pytest.approx(first["seconds"], rel=0.05)
    assert again["staleness"]["mean"] == pytest.approx(first["staleness"]["mean"], rel=0.05)
    assert again["staleness"]["histogram"].keys() & first["staleness"]["histogram"].keys()


def test_what_if_there_were_more_workers(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--from", str(learned), "--workers", "16", "--no-gradients", "--run", str(tmp_path / "run")]
    assert cli.run(["simulate", *typed]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["workers"], summary["updates"]) == (16, 23)
    config = Config.of({}, tmp_path / "run" / "config.toml")
    assert (config.simulate.compute, config.simulate.source) == ("empirical", str(learned))
    assert "as measured in" in capsys.readouterr().err


def test_what_a_run_with_prefetch_had_on_its_way_while_it_computed_counts_too(tmp_path: Path) -> None:
    simulated(
        tmp_path / "run", simulate__gradients="none", simulate__latency_seconds=0.01, simulate__service_seconds=0.001,
        run__batch_size=4, program__prefetch=True,
    )  # fmt: skip
    assert fitted(tmp_path / "run")["simulate.latency_seconds"] == pytest.approx(0.01, rel=0.1)


def test_a_run_without_updates_cannot_be_fitted(tmp_path: Path) -> None:
    simulated(tmp_path / "run", simulate__gradients="none", run__max_seconds=0.0001)
    with pytest.raises(BadInput, match="have no compute times; expected a run with updates"):
        fitted(tmp_path / "run")


def test_unreadable_examples_are_named_and_counted(tmp_path: Path) -> None:
    for split, name in product(("train", "val"), ("ant", "cat")):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), (9, 40, 200)).save(folder / "whole.png")
    (tmp_path / "data" / "train" / "cat" / "bad.png").write_bytes(b"no picture")
    photographs = {"run__preset": "imagefolder", "data__name": "imagefolder", "data__root": str(tmp_path / "data")}
    small = {"model__name": "perceptron", "data__image_size": 16, "cluster__workers": 1, "cluster__shards": 1}
    summary = simulated(tmp_path / "run", run__epochs=2, **photographs, **small)
    assert summary["skipped_examples"] == 2  # in each epoch
    (line,) = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert "bad.png" in line


def test_empirical_times_need_a_source(tmp_path: Path) -> None:
    said = r"simulate\.source: got '', expected a run directory whose journal has compute times"
    with pytest.raises(BadInput, match=said):
        simulated(tmp_path / "run", simulate__compute="empirical")
    assert not (tmp_path / "run").exists()


FAULTS = """
[[fault]]
actor = "worker-1"
do = "kill"
event = 7

[[fault]]
actor = "shard"
do = "drop"
when = "after"
every = 5
"""


def planned(folder: Path, text: str) -> str:
    file = folder / "faults.toml"
    file.write_text(text)
    return str(file)


def test_with_planned_faults_every_example_counts_once_and_the_faults_are_named(tmp_path: Path) -> None:
    summary = simulated(tmp_path / "run", cluster__faults=planned(tmp_path, FAULTS), simulate__compute="constant")
    assert (summary["stopped_by"], summary["leases"]["reissued"]) == ("completed", 1)
    assert summary["faults"]["kill"] == 1
    assert summary["faults"]["drop"] > 3
    found = verify(tmp_path / "run")
    assert (found.verdict, found.faults) == ("exactly once", summary["faults"])
    assert replay(tmp_path / "run").verdict == "identical"


def test_whoever_is_killed_in_virtual_time_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    kills = "".join(
        f'[[fault]]\nactor = "{actor}"\ndo = "kill"\nevent = {event}\nwhen = "{when}"\n'
        for actor, event, when in (("shard-0", 15, "after"), ("ledger", 20, "before"), ("averager", 3, "after"))
    )
    values = {"cluster__faults": planned(tmp_path, kills), "snapshot__every_seconds": 0.2, "average__every": 4}
    summary = simulated(tmp_path / "run", **values)
    assert summary["faults"] == {"kill": 3}
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems) == ("exactly once", ())
    assert found.shards[0].undone > 0
    assert replay(tmp_path / "run").verdict == "identical"


@pytest.mark.parametrize("gradients", ["real", "none"])
def test_a_shard_with_a_standby_is_killed_in_virtual_time_and_nothing_of_it_is_lost(
    tmp_path: Path, gradients: str
) -> None:
    file = planned(tmp_path, '[[fault]]\nactor = "shard"\ndo = "kill"\nevent = 12\n')
    values = {"cluster__faults": file, "cluster__replicas": 1, "simulate__gradients": gradients}
    assert simulated(tmp_path / "run", **values)["faults"] == {"kill": 2}
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems) == ("exactly once", ())
    assert [count.undone for count in found.shards] == [0, 0]
    assert replay(tmp_path / "run").verdict == "identical"


@pytest.mark.parametrize("replicas", [0, 1])
def test_with_prefetch_a_run_survives_its_faults_and_comes_out_again(tmp_path: Path, replicas: int) -> None:
    file = planned(tmp_path, FAULTS + '[[fault]]\nactor = "shard-0"\ndo = "kill"\nevent = 12\n')
    values = {"cluster__faults": file, "cluster__replicas": replicas, "snapshot__every_seconds": 0.2}
    summary = simulated(tmp_path / "run", program__prefetch=True, **values)
    assert (summary["stopped_by"], summary["prefetch"], summary["faults"]["kill"]) == ("completed", True, 2)
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems, found.faults) == ("exactly once", (), summary["faults"])
    assert replay(tmp_path / "run").verdict == "identical"


def test_what_a_run_on_gpus_would_do_is_simulated_on_cores(tmp_path: Path) -> None:
    assert simulated(tmp_path / "run", cluster__gpus_per_worker=0.5)["replayable"]
    assert replay(tmp_path / "run").verdict == "identical"


def test_what_cannot_be_simulated_is_refused(tmp_path: Path) -> None:
    file = planned(tmp_path, '[[fault]]\nactor = "host-0"\ndo = "drop"\nevent = 3\n')
    message = "--faults: got 'host-0', expected worker: a simulated worker has a host of its own"
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        simulated(tmp_path / "run", cluster__faults=file)
    assert not (tmp_path / "run").exists()
