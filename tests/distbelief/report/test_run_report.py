"""Report of a run: the page is whole by itself, and its numbers are those of summary.json and of the journals."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distbelief import cli, rundir
from distbelief.config import Config
from distbelief.progress import number, percent
from distbelief.report.axes import share
from distbelief.report.history import Finished, History
from distbelief.report.run import run_page
from distbelief.report.subject import Subject
from distbelief.simulate import simulate
from ps.journal import LeaseFinished, LeaseReturned, PushHandled, ShardOpened
from ps.messages import Outcome, Reading
from ps.wire.files import JournalWriter
from tests.pages import Page

SMALL = {"run.epochs": 2, "run.batch_size": 64, "cluster.workers": 4, "cluster.shards": 2}  # 46 updates


def simulated(folder: Path, **values: object) -> Path:
    chosen = {name.replace("__", "."): value for name, value in values.items()}
    simulate(Config.of({**SMALL, "run.folder": str(folder), **chosen}))
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("learned") / "run")


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def test_the_page_has_the_numbers_of_the_summary(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(learned)]) == 0
    assert capsys.readouterr().out == f"report  {learned / 'report.html'}\n"
    text, summary = (learned / "report.html").read_text(), summary_of(learned)
    page = Page(text)
    assert page.tiles() == {
        "top-1 error, average": percent(summary["evaluation"]["average"]["top1_error"]),
        "top-1 error, latest": percent(summary["evaluation"]["latest"]["top1_error"]),
        "training loss, last epoch": number(summary["train_loss"], 4),
        "updates": "46",
        "mean staleness": number(summary["staleness"]["mean"], 2),
        "staleness, 95 % at most": str(summary["staleness"]["p95"]),
        "images per second": number(summary["images_per_second"]),
        "virtual time": f"{summary['seconds']:.1f}s",
    }
    assert json.loads(page.texts["pre"][-1]) == summary
    for digest in (summary["journal_sha256"], summary["evaluation"]["average"]["sha256"], summary["data_fingerprint"]):
        assert digest in page.texts["td"]
    assert f"distbelief replay {learned}" in page.texts["pre"][-2]
    assert "completed: every lease was applied exactly once" in text


def test_histograms_add_up_to_all_gradients(learned: Path) -> None:
    history, summary = History.read(learned / "journal"), summary_of(learned)
    both = summary["staleness"]["histogram"]
    for parts in (history.by_shard, history.by_worker):
        found = {str(k): sum(counts[k] for counts in parts.values()) for k in map(int, both)}
        assert found == both
    assert set(history.by_shard) == {"shard-0", "shard-1"}
    assert set(history.by_worker) == set(history.timed) == {0, 1, 2, 3}


def test_the_course_counts_every_example_once(learned: Path) -> None:
    history = History.read(learned / "journal")
    course = history.course(0.0, 10)
    assert course[-1].samples == summary_of(learned)["samples"]
    assert [each.samples for each in course] == sorted(each.samples for each in course)
    losses = [each.loss for each in history.finished]
    assert min(losses) <= min(each.loss for each in course) <= max(each.loss for each in course) <= max(losses)


def test_a_course_is_of_means_over_examples() -> None:
    history = History()
    assert history.course(0.0, 5) == []
    history.finished += [Finished(10.0, 1, 4.0, 1), Finished(10.5, 3, 2.0, 0), Finished(12.0, 4, math.nan, 0)]
    first, last = history.course(10.0, 2)
    assert (first.seconds, first.samples, first.loss, first.error, first.images_per_second) == (0.5, 4, 2.5, 0.25, 4.0)
    assert (last.seconds, last.samples, last.images_per_second) == (1.5, 8, 4.0)
    assert math.isnan(last.loss)


def test_rounds_have_their_staleness_by_worker(tmp_path: Path) -> None:
    run = simulated(tmp_path / "run", consistency__kind="softsync", consistency__split=2, run__epochs=1)
    history = History.read(run / "journal")
    counted = sum(sum(counts.values()) for counts in history.by_worker.values())
    assert counted == sum(summary_of(run)["staleness"]["histogram"].values()) == 2 * 23
    Page(run_page(Subject.read(run)))


def test_a_live_run_begins_when_it_was_asked_for(learned: Path, tmp_path: Path) -> None:
    """So do the seconds in metrics.jsonl. The summary's clock says which kind of run it is."""
    run = tmp_path / "run"
    shutil.copytree(learned, run)
    (run / "summary.json").write_text(json.dumps({**summary_of(learned), "clock": "live"}))
    rundir.write_started(run, 1764064800.0)
    subject = Subject.read(run)
    assert not subject.simulated
    assert subject.began == 1764064800.0
    assert "2025-11-25 10:00:00 UTC" in Page(run_page(subject)).texts["td"]


def test_what_a_shard_lost_and_a_lease_that_came_back_count_once(tmp_path: Path) -> None:
    """Lease 0 is applied and finished; the shard comes back without it, and it is applied and finished again."""
    read = (Reading(0, 0),)
    first = PushHandled(2.0, 1, 0, 0, 0, 8, read, Outcome.APPLIED, 0.1, 0, 1, True)
    again = PushHandled(5.0, 2, 0, 0, 1, 8, read, Outcome.APPLIED, 0.1, 3, 1, True)
    shard = [ShardOpened(1.0, 0, 1, 0, 0, 0, 16), first, ShardOpened(4.0, 0, 1, 1, 0, 0, 16), again]
    ledger = [
        LeaseFinished(2.0, 1, 0, 0, 8, 4.0, 1, 0),
        LeaseReturned(4.0, 0, 0),
        LeaseFinished(5.0, 2, 0, 1, 8, 2.0, 0, 0),
    ]
    for actor, records in (("shard-0", shard), ("ledger", ledger)):
        journal = JournalWriter(tmp_path / f"{actor}.journal", "run", actor)
        journal.write(records)
        journal.close()
    history = History.read(tmp_path)
    assert history.finished == [Finished(5.0, 8, 2.0, 0)]
    assert history.by_shard == {"shard-0": {3: 1}}
    assert history.by_worker == {2: {3: 1}}


def test_a_run_without_gradients_says_that_nothing_was_learned(tmp_path: Path) -> None:
    run = simulated(tmp_path / "run", simulate__gradients="none", cluster__workers=100, run__batch_size=8)
    text = run_page(Subject.read(run))
    Page(text)
    assert "Nothing was learned: no gradient is known." in text
    assert "the weights were not evaluated" not in text  # there are none
    assert ">0-1</text>" in text  # a hundred workers are drawn in pairs


def test_what_went_wrong_stands_at_the_top(learned: Path, tmp_path: Path) -> None:
    subject = Subject.read(learned)
    assert subject.summary is not None
    leases = {**subject.summary["leases"], "reissued": 3, "outstanding": 2}
    changes = {
        "stopped_by": "diverged", "message": "loss is not finite at update 7", "replayable": False, "leases": leases,
        "skipped_examples": 5, "skipped_average_versions": 1,
        "evaluation": {**subject.summary["evaluation"], "average": {"sha256": "ab", "top1_error": None, "loss": None}},
    }  # fmt: skip
    summary = {**subject.summary, **changes}
    text = run_page(replace(subject, summary=summary))
    Page(text)
    for line in (
        "ended by diverged: loss is not finite at update 7",
        "not replayable",
        "3 grants were repeated: their leases were lost",
        "2 leases were granted and not applied",
        "5 examples could not be read",
        "the average missed 1 versions",
        "the weights were not evaluated",
    ):
        assert line in text
    assert "completed:" not in text


def test_what_was_measured_is_told_and_what_is_wrong_stands_at_the_top(learned: Path) -> None:
    subject = Subject.read(learned)
    assert subject.summary is not None
    stability = {
        "rate": 0.1, "momentum": 0.9, "staleness": 3.0, "curvature": 12.5, "limit": 0.0028, "ratio": 35.9,
        "advice": "warning: rate 0.1 x curvature 12.5 is 36 times what is stable",
    }  # fmt: skip
    measured = {
        "stability": stability, "gap": {"mean": 0.002, "largest": 0.01}, "effective_momentum": 0.7499,
        "effective_rate": 0.025, "conservation": {"holds": False, "staleness_and_ages": 1270, "others_open": 1269},
    }  # fmt: skip
    page = Page(run_page(replace(subject, summary={**subject.summary, **measured})))
    for cell in ("12.5", "0.0028 at staleness 3 and momentum 0.9", "35.9: the rate over that one", "0.025"):
        assert cell in page.texts["td"]
    assert "0.7499; of memoryless workers without momentum: 0.7500" in page.texts["td"]
    assert "broken: 1,270 updates at the shards, 1,269 at the workers" in page.texts["td"]
    assert "! rate 0.1 x curvature 12.5 is 36 times what is stable" in page.texts["li"]
    assert any(line.startswith("✕ error: staleness is not conserved") for line in page.texts["li"])


def test_the_last_evaluation_is_drawn_though_it_came_after_training(learned: Path) -> None:
    """A live run evaluates its final weights when its metrics are closed."""
    subject = Subject.read(learned)
    assert subject.summary is not None
    late = replace(subject, metrics=tuple(line for line in subject.metrics if line["kind"] == "train"))
    error = subject.summary["evaluation"]["average"]["top1_error"]
    assert f"test, average: {share(error)} at 2.87k" in Page(run_page(late)).texts["title"]
    assert f"test, average: {share(error)} at 2.87k" in Page(run_page(subject)).texts["title"]


def test_a_run_without_a_summary_is_shown_as_far_as_it_went(learned: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "journal").mkdir(parents=True)
    (run / "config.toml").write_bytes((learned / "config.toml").read_bytes())
    begun = run_page(Subject.read(run))
    assert Page(begun).tiles() == {"updates": "0", "examples": "0", "mean staleness": "-"}
    for path in (learned / "journal").iterdir():
        (run / "journal" / path.name).write_bytes(path.read_bytes())
    (run / "metrics.jsonl").write_text((learned / "metrics.jsonl").read_text() + '{"kind": "tra')
    text = run_page(Subject.read(run))
    assert Page(text).tiles()["updates"] == "46"
    assert "no summary.json: the run goes on, or was killed" in text


def test_another_file_and_what_is_no_run(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(learned), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()
    assert cli.run(["report", str(learned), "--output", str(tmp_path / "no" / "page.html")]) == 2
    assert cli.run(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "name another file" in said
    assert "expected a run directory" in said
    assert cli.run(["report", str(learned), "--output", str(tmp_path)]) == 2
    assert f"got {tmp_path}, a directory; expected a file in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "the file is damaged"), ("[]", "expected a JSON object"), ("{}", "got no parameters, expected one")],
)
def test_a_damaged_summary_is_one_line(
    content: str, said: str, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(learned, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(content)
    assert cli.run(["report", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err


def test_what_a_page_was_made_without_is_said(learned: Path, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    shutil.copytree(learned, run)
    (run / "journal" / "shard-1.journal").unlink()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "tra{"kind": "train"}\n\xff\n[]\n{"kind": "tra')
    page = Page(run_page(Subject.read(run)))
    assert "! no journal of shard-1: what it would say is missing on this page" in page.texts["li"]
    assert "! 3 lines of metrics.jsonl are damaged and left out" in page.texts["li"]
    assert not any("completed:" in line for line in page.texts["li"])
    assert f"distbelief replay '{run}'" in page.texts["pre"][-2]
    shutil.rmtree(run / "journal")
    (run / "summary.json").unlink()
    assert "! no journal of ledger, shard-0, shard-1" in str(Page(run_page(Subject.read(run))).texts["li"])


def test_what_was_warned_of_while_it_ran_stands_at_the_top(learned: Path) -> None:
    subject = Subject.read(learned)
    warned = {"warnings": ["worker 3 is slow", "the data is late"]}
    page = Page(run_page(replace(subject, summary={**(subject.summary or {}), **warned})))
    assert page.texts["li"][:2] == ["! worker 3 is slow", "! the data is late"]
    assert not any("completed:" in line for line in page.texts["li"])
