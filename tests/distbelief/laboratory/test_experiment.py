"""Experiment: from a file or options to cells, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distbelief import cli
from distbelief.laboratory.experiment import AXES, Experiment, Grid, find, parse, quick, shipped
from ps.errors import BadInput

FILE = """
[experiment]
title = "Two by two"
about = "A test."
minutes = 1.5
target_error = 0.2

[run]
epochs = 2

[clusters.lame]
compute = "constant"
slow_workers = 2
slow_factor = 3

[grid]
workers = [4, 8]
consistency = ["async", "softsync:2"]
seed = [0, 1]
cluster = ["lame"]
"""


def test_a_file_is_a_configuration_and_a_grid() -> None:
    found = parse("two", FILE, "two.toml")
    assert (found.name, found.title, found.minutes, found.target_error) == ("two", "Two by two", 1.5, 0.2)
    cells = found.cells()
    assert [(c.workers, c.consistency, c.seed) for c in cells] == [
        (4, "async", 0), (4, "async", 1), (4, "softsync:2", 0), (4, "softsync:2", 1),
        (8, "async", 0), (8, "async", 1), (8, "softsync:2", 0), (8, "softsync:2", 1),
    ]  # fmt: skip
    config = cells[-1].config
    assert (config.consistency.kind, config.consistency.split, config.run.epochs) == ("softsync", 2, 2)
    assert (config.simulate.compute, config.simulate.slow_workers, config.simulate.slow_factor) == ("constant", 2, 3.0)
    assert {cell.cluster for cell in cells} == {"lame"}


def test_without_a_cluster_cells_have_that_of_the_settings() -> None:
    (cell,) = Experiment("e", "e", settings={"simulate.compute": "pareto"}).cells()
    assert (cell.cluster, cell.config.simulate.compute) == ("as-set", "pareto")


def test_several_grids_are_put_together_and_no_cell_comes_twice() -> None:
    text = "[[grid]]\nworkers = [1, 2]\n[[grid]]\nworkers = [2, 3]\nrate = [0.5]\n[[grid]]\nworkers = [1]\n"
    cells = parse("g", text, "g").cells()
    assert [(cell.workers, cell.rate == 0.5) for cell in cells] == [(1, False), (2, False), (2, True), (3, True)]


def test_every_setting_is_in_a_cell_s_name() -> None:
    plain = Experiment("e", "e").cells()[0]
    assert plain.name == Experiment("other", "title").cells()[0].name
    names = {plain.name}
    for settings in ({"run.epochs": 3}, {"model.clip_norm": 1.0}, {"simulate.sigma": 0.3}, {"cluster.shards": 3}):
        names.add(Experiment("e", "e", settings=settings).cells()[0].name)
    assert len(names) == 5
    assert all(name.replace("-", "").replace(".", "").replace("_", "").isalnum() for name in names)


def test_a_cell_s_name_is_one_of_a_directory() -> None:
    text = "[clusters.'a/b: c']\ncompute = 'constant'\n[grid]\ncorrection = ['none']\ncluster = ['a/b: c']\n"
    (cell,) = parse("e", text, "e").cells()
    assert cell.cluster == "a/b: c"
    assert re.fullmatch(r"w[0-9]+-async-none-a_b__c-m[0-9.]+-r[0-9.]+-s0-[0-9a-f]{8}", cell.name)


def test_an_experiment_is_a_file_that_says_the_same() -> None:
    axes: Grid = {"workers": (1, 2), "rate": (0.5,), "consistency": ("async", "softsync:1")}
    changed = parse("two", FILE, "two.toml").narrowed(axes, {"data.root": Path("there"), "run.seed": "3"}, 0.25)
    again = parse("two", changed.to_toml(), "again.toml")
    assert again.to_toml() == changed.to_toml()
    assert [cell.name for cell in again.cells()] == [cell.name for cell in changed.cells()]
    assert (again.title, again.minutes, again.target_error) == ("Two by two", 1.5, 0.25)


def test_without_rate_and_momentum_cells_have_the_policy_s() -> None:
    settings = {"run.preset": "paper", "one_worker.rate": 0.01, "one_worker.momentum": 0.9}
    one, many = Experiment("e", "e", settings=settings, grids=({"workers": (1, 10)},)).cells()
    assert (one.rate, one.momentum) == (0.01, 0.9)
    assert many.momentum == 0.0
    assert many.rate == pytest.approx(0.1)
    assert Experiment("e", "e", settings={"rule.rule": "adamw"}).cells()[0].momentum == 0.0


def test_options_beat_the_file_axis_by_axis() -> None:
    found = parse("two", FILE, "two.toml").narrowed({"seed": (7,)}, {"run.epochs": 5}, None)
    assert {(cell.seed, cell.config.run.epochs) for cell in found.cells()} == {(7, 5)}
    assert len(found.cells()) == 4
    assert found.target_error == 0.2
    assert quick().narrowed({}, {}, 0.1).target_error == 0.1


def test_a_recorded_run_gives_the_times() -> None:
    fit: dict[str, object] = {
        "simulate.compute": "empirical", "simulate.compute_seconds": 0.5, "simulate.source": "/runs/a",
        "simulate.turns": 2, "simulate.latency_seconds": 0.25, "simulate.service_seconds": 0.125,
        "simulate.slow_workers": 0,
    }  # fmt: skip
    clusters = ("even", "one-slow", "heavy-tail", "round-robin")
    cells = quick().measured(fit).narrowed({"workers": (8,), "cluster": clusters}, {}, None).cells()
    even, one_slow, heavy_tail, round_robin = (cell.config.simulate for cell in cells)
    assert (even.compute, even.source, even.slow_workers, even.turns) == ("empirical", "/runs/a", 0, 0)
    assert (one_slow.compute, one_slow.slow_workers, one_slow.slow_factor) == ("empirical", 1, 5.0)
    assert (heavy_tail.compute, heavy_tail.compute_seconds, heavy_tail.latency_seconds) == ("pareto", 0.5, 0.25)
    assert (round_robin.compute, round_robin.latency_seconds, round_robin.service_seconds) == ("constant", 0.0, 0.125)


def test_numbers_of_modes() -> None:
    grid = {
        "consistency": ("bounded:3",), "correction": ("staleness-rate:0.5", "discard:99", "dc-asgd:0.1", "none"),
        "workers": (8,),
    }  # fmt: skip
    cells = Experiment("e", "e", grids=(grid,)).cells()
    assert [cell.config.correction.kind for cell in cells] == ["staleness-rate", "discard", "dc-asgd", "none"]
    first, second, third, _ = (cell.config.correction for cell in cells)
    assert (first.power, second.limit, third.strength) == (0.5, 99, 0.1)
    assert cells[0].config.consistency.bound == 3
    ramp = Experiment(
        "e", "e", settings={"run.preset": "fashion-mnist"}, grids=({"consistency": ("async:3", "async")},)
    )
    assert [cell.config.consistency.begin for cell in ramp.cells()] == [3, 0]


def test_a_cell_is_called_by_what_the_policy_chose() -> None:
    (cell,) = Experiment("e", "e", settings={"run.preset": "fashion-mnist", "cluster.workers": 32}).cells()
    assert (cell.consistency, cell.correction, cell.config.correction.kind) == ("async:4", "auto", "dana")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid", "is not TOML"),
        ("[grid]\nworkes = [1]", r"got the axis workes, expected one of workers, .* \(did you mean \"workers\"\?\)"),
        ("[grid]\nworkers = 3", r"got workers = 3 in \[grid\], expected a list of values"),
        ("[grid]\nworkers = []", "expected a list of values"),
        ("grid = 3", r"expected \[grid\], or \[\[grid\]\] several times"),
        ("[experiment]\ntitel = 'x'", r"got titel = 'x' in \[experiment\], expected title, about"),
        ("[experiment]\ntitle = 3", r"got title = 3 in \[experiment\]"),
        ("[clusters]\nlame = 3", r"expected \[clusters\.NAME\]"),
        ("run = 3", r"expected a \[run\] section"),
        ("[run]\nepoch = 3", r"run\.epoch: got an unknown key"),
        ("[experiment]\ntarget_error = 7", "target error: got 7.0, expected a fraction: 0.05 for 5 %"),
        ("[grid]\ncluster = ['evn']", r"cluster: got 'evn', expected one of even, .*did you mean \"even\""),
        ("[grid]\nconsistency = ['sync:3']", "got 'sync:3', expected a kind, or one of async:NUMBER, bounded:NUMBER"),
        ("[grid]\ncorrection = ['discard:x']", "got 'discard:x', expected a kind, or one of staleness-rate:NUMBER"),
        ("[grid]\nconsistency = ['backup:9']\nworkers = [4]", r"consistency\.backups: got 9"),
        ("[grid]\ncluster = ['even']\n[clusters.even]\nfast = 1", r"simulate\.fast: got an unknown key"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse("e", text, "e.toml").cells()


def test_an_experiment_is_a_file_or_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(FILE)
    assert find(str(tmp_path / "mine.toml")).name == "mine"
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(BadInput, match="cannot read"):
        find(str(tmp_path / "bad.toml"))
    with pytest.raises(BadInput, match=r"expected a TOML file or one of .*did you mean \"stragglers\""):
        find("straglers")


def test_shipped_experiments_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    known = shipped()
    assert set(known) == {"auto", "staleness-error", "implicit-momentum", "stability-limits", "stragglers"}
    for name, experiment in known.items():
        data = {cell.config.data.name for cell in experiment.cells()}
        assert experiment.about
        if name == "auto":  # what the README says of the default policy: longer, and of data that are not shipped
            assert "needs --data-root" in experiment.about
            continue
        assert 0 < experiment.minutes <= 5
        assert data == {"digits"}  # nothing to download
    assert cli.run(["staleness", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(known)
    assert all("cells, about" in line for line in lines)


def test_axes_are_those_that_a_cell_has() -> None:
    cell = quick().cells()[0]
    assert all(hasattr(cell, axis) for axis in AXES)
