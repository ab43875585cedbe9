"""Laboratory: cells run once, results.csv, and going on where one was ended."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time  # noqa: TID251 -- waits for another process
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from distbelief import cli
from distbelief.laboratory import run as laboratory
from distbelief.laboratory.cells import Job, run_cell, unpack
from distbelief.laboratory.experiment import QUICK, Experiment
from distbelief.laboratory.results import Result
from distbelief.replay import replay
from ps.errors import BadInput
from tests.pages import Page

COLUMNS = [
    "workers", "consistency", "correction", "momentum", "rate", "seed", "staleness_mean", "staleness_p95",
    "staleness_max", "updates", "samples", "virtual_seconds", "final_loss", "top1_error_average", "top1_error_latest",
    "samples_to_target", "virtual_seconds_to_target", "diverged", "effective_momentum", "stability_ratio", "cluster",
    "cell",
]  # fmt: skip
FAST = {**QUICK, "run.epochs": 1, "run.batch_size": 64}  # 23 updates
GRID = Experiment(
    "test", "A test", "About it.", target_error=0.85, settings=FAST,
    grids=({"workers": (1, 4), "rate": (0.002, 0.01), "momentum": (0.9,)},),
)  # fmt: skip


class Here:
    """In place of processes: the cells one after the other in this one. Remembers what was asked of it."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def __call__(self, function: Callable[[Job], bytes], jobs: Sequence[Job]) -> Iterator[bytes]:
        for job in jobs:
            self.jobs.append(job.name)
            yield function(job)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    """GRID, computed once, for those who only look at it."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "in_processes", Here())
        return out, laboratory.run(GRID, out)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    pool = Here()
    monkeypatch.setattr(laboratory, "in_processes", pool)
    return pool


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_cells_may_take_the_times_of_a_recorded_run(
    finished: tuple[Path, list[Result]], here: Here, tmp_path: Path
) -> None:
    recorded = finished[0] / "cells" / rows(finished[0])[2]["cell"]
    typed = "--workers 4 --lr 0.01 --momentum 0.9 --epochs 1 --batch-size 64 --cluster even,one-slow --no-gradients"
    assert cli.run(["staleness", "--from", str(recorded), *typed.split(), "--out", str(tmp_path / "out")]) == 0
    found = [json.loads((tmp_path / "out" / "cells" / name / "summary.json").read_text()) for name in here.jobs]
    again, slow = (summary["seconds"] for summary in found)
    assert again == pytest.approx(json.loads((recorded / "summary.json").read_text())["seconds"], rel=0.2)
    assert slow > again


def test_a_grid_leaves_a_row_and_a_run_for_every_cell(finished: tuple[Path, list[Result]]) -> None:
    out, results = finished
    assert (out / "results.csv").read_text().splitlines()[0].split(",") == COLUMNS
    table = rows(out)
    assert [(row["workers"], row["rate"]) for row in table] == [
        ("1", "0.002"),
        ("1", "0.01"),
        ("4", "0.002"),
        ("4", "0.01"),
    ]
    for row, result in zip(table, results, strict=True):
        summary = json.loads((out / "cells" / row["cell"] / "summary.json").read_text())
        assert summary == result.summary
        assert float(row["staleness_mean"]) == summary["staleness"]["mean"]
        assert float(row["virtual_seconds"]) == summary["seconds"]
        assert float(row["final_loss"]) == summary["train_loss"]
        assert float(row["top1_error_average"]) == summary["evaluation"]["average"]["top1_error"]
        assert float(row["top1_error_latest"]) == summary["evaluation"]["latest"]["top1_error"]
        assert (row["updates"], row["samples"], row["cluster"]) == ("23", "1437", "as-set")
        assert row["diverged"] in ("true", "false")
    assert rows(out)[0]["staleness_max"] == "0"
    assert replay(out / "cells" / table[3]["cell"]).verdict == "identical"


def test_the_target_is_the_first_evaluation_at_or_below_it(finished: tuple[Path, list[Result]]) -> None:
    out, results = finished
    for result in results:
        below = [tested for tested in result.course if tested.error <= 0.85]
        assert result.target == (below[0] if below else None)
    reached = [row for row in rows(out) if row["samples_to_target"]]
    assert reached
    assert all(int(row["samples_to_target"]) <= 1437 for row in reached)


def test_the_page_is_whole_and_has_the_numbers_of_the_table(finished: tuple[Path, list[Result]]) -> None:
    out, results = finished
    text = (out / "report.html").read_text()
    page = Page(text)
    least = min(result.error for result in results)
    assert page.tiles()["cells"] == "4"
    assert page.tiles()["least error, mean over seeds"] == f"{100 * least:.2f} %"
    for result in results:
        assert result.cell.name in page.texts["th"]
        mark = " ×" if result.diverged else ""
        assert f"{100 * result.error:.1f}{mark}" in page.texts["text"]  # in the heat map
    assert "Error by rate" in page.texts["figcaption"]


def test_a_finished_cell_is_not_run_again(
    here: Here, finished: tuple[Path, list[Result]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, results = finished
    names = [result.cell.name for result in results]
    shutil.copytree(first / "cells", tmp_path / "cells")
    laboratory.run(GRID, tmp_path)
    assert here.jobs == []
    assert "4 of 4 cells are finished already" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "cells" / names[2])
    (tmp_path / "cells" / ".unfinished-abc" / "x").mkdir(parents=True)
    laboratory.run(GRID, tmp_path)
    assert here.jobs == [names[2]]
    assert (tmp_path / "results.csv").read_bytes() == (first / "results.csv").read_bytes()
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == sorted(names)


@pytest.mark.usefixtures("here")
def test_a_cell_that_diverges_is_a_row_like_any_other(tmp_path: Path) -> None:
    settings = {**FAST, "rule.rule": "sgd"}
    far = replace(GRID, settings=settings, grids=({"workers": (2,), "rate": (0.01, 1e6)},))
    _, wild = laboratory.run(far, tmp_path)
    assert (wild.summary["stopped_by"], wild.summary["gap"]) == ("diverged", None)
    assert len(rows(tmp_path)) == 2
    assert (rows(tmp_path)[1]["rate"], rows(tmp_path)[1]["diverged"]) == ("1000000.0", "true")
    assert "yes" in Page((tmp_path / "report.html").read_text()).texts["td"]


def test_results_are_there_while_cells_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def two(function: Callable[[Job], bytes], jobs: Sequence[Job]) -> Iterator[bytes]:
        yield function(jobs[0])
        yield function(jobs[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(laboratory, "in_processes", two)
    with pytest.raises(KeyboardInterrupt):
        laboratory.run(GRID.narrowed({}, {"simulate.gradients": "none"}, None), tmp_path)
    assert [(row["diverged"], row["final_loss"]) for row in rows(tmp_path)] == [("false", "")] * 2
    assert not (tmp_path / "report.html").exists()


def test_a_cell_of_another_machine_comes_as_an_archive(tmp_path: Path) -> None:
    cell = GRID.narrowed({}, {"simulate.gradients": "none"}, None).cells()[0]
    (tmp_path / "here").mkdir()
    assert run_cell(Job(cell.name, cell.config, str(tmp_path / "here"))) == b""
    unpack(run_cell(Job(cell.name, cell.config, "")), tmp_path)
    there, near = tmp_path / cell.name, tmp_path / "here" / cell.name
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in near.iterdir())
    assert (there / "config.toml").read_bytes() == (near / "config.toml").read_bytes()


def test_two_laboratories_cannot_share_a_directory(here: Here, tmp_path: Path) -> None:
    with laboratory._held(tmp_path), pytest.raises(BadInput, match="another laboratory is at work"):
        laboratory.run(GRID, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        laboratory.run(GRID, tmp_path / "file")


def test_the_command_line(here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = "--workers 1,16 --correction none,staleness-rate --momentum 0.9 --lr 0.01 --seed 3 --cluster memoryless"
    more = "--epochs 1 --batch-size 64 --target-error 0.2 --no-gradients --set run.ensemble_member=1"
    assert cli.run(["staleness", *typed.split(), *more.split(), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    report = f"report   {tmp_path}/report.html, its figures as SVG in {tmp_path}/figures"
    assert out == f"cells    4, 0 of them diverged\nresults  {tmp_path}/results.csv\n{report}\n"
    assert any((tmp_path / "figures").glob("*.svg"))
    table = rows(tmp_path)
    assert {(row["seed"], row["cluster"], row["momentum"], row["rate"]) for row in table} == {
        ("3", "memoryless", "0.9", "0.01")
    }
    assert {row["top1_error_average"] for row in table} == {""}
    assert "Nothing was learned: there were no gradients." in (tmp_path / "report.html").read_text()
    Page((tmp_path / "report.html").read_text())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--workers x", "--workers: got 'x', expected whole numbers with commas between them"),
        ("--lr ,", "--lr: got ',', expected numbers with commas between them"),
        ("no-such-thing", "experiment: got 'no-such-thing'"),
        ("--consistency synk", "consistency.kind: got 'synk'"),
        ("--set a=1", "a: got an unknown section"),
    ],
)
def test_bad_input_is_one_line(typed: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["staleness", *typed.split(), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cell_that_cannot_be_run_leaves_nothing(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["--preset", "imagefolder", "--data-root", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert cli.run(["staleness", *typed]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert list((tmp_path / "out" / "cells").iterdir()) == []


# --- processes and Ray -----------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-c", "from distbelief.cli import main; main()", "staleness"]
TYPED = "--workers 1,2,3,4,5,6 --epochs 4 --batch-size 8 --momentum 0.9 --lr 0.002"


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_laboratory_leaves_nobody_behind_and_goes_on(tmp_path: Path) -> None:
    command = [*COMMAND, *TYPED.split(), "--out", str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: (tmp_path / "results.csv").exists())
    children = psutil.Process(first.pid).children(recursive=True)
    assert children
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    finished = {path.name: path.stat().st_ino for path in (tmp_path / "cells").glob("w*")}
    assert 1 <= len(finished) < 6
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    table = rows(tmp_path)
    assert [row["workers"] for row in table] == list("123456")
    cells = {path.name: path.stat().st_ino for path in (tmp_path / "cells").iterdir()}
    assert set(cells) == {row["cell"] for row in table}
    assert finished.items() <= cells.items()
    assert (tmp_path / "report.html").exists()


AWAY = """
import sys
from pathlib import Path
from cluster.local import private_ray
from distbelief.laboratory.cells import Job, run_cell, unpack
from distbelief.laboratory.experiment import Experiment
from ps.errors import BadInput
(cell,) = Experiment("e", "e", settings={"run.epochs": 1, "simulate.gradients": "none"}).cells()
(lost,) = Experiment("e", "e", settings={"data.root": "/nowhere", "data.name": "imagefolder"}).cells()
with private_ray() as temporary:
    from cluster.live.connection import connected, tasks
    with connected("local", temporary):
        for archive in tasks(run_cell, [Job("far", cell.config, "")]):
            unpack(archive, Path(sys.argv[1]))
        try:
            list(tasks(run_cell, [Job("lost", lost.config, "")]))
        except BadInput as error:
            print(error)
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cell_of_a_node_that_shares_no_directory_comes_as_an_archive(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AWAY, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert "/nowhere" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["far"]
    assert (tmp_path / "far" / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_cells_as_ray_tasks_are_the_same_cells(here: Here, tmp_path: Path) -> None:
    typed = "--workers 1,4 --epochs 1 --batch-size 64 --momentum 0.9 --lr 0.002"
    command = [*COMMAND, *typed.split(), "--address", "local", "--out", str(tmp_path / "ray")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert cli.run(["staleness", *typed.split(), "--out", str(tmp_path / "here")]) == 0
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")
