"""Status: against real servers in this process, and against what a run leaves on disk."""

from __future__ import annotations

import json
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.logs import logging_to
from distbelief import cli, rundir
from distbelief.status import mean, newest, percentile, status_command
from ps import kernel
from ps.averager import Averager, AverageSettings
from ps.errors import BadInput
from ps.layout import Segment
from ps.leases import LeasePlan
from ps.ledger import Ending, Ledger, LedgerSettings
from ps.messages import AVERAGER, LEDGER, Address, Exchange, Finished, NextLease, Push, Reading, Role, Sample, Stop
from ps.rules import Sgd
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.standby import Replica
from ps.wire.actor import Machine
from ps.wire.files import JournalWriter
from ps.wire.server import Gate, MachineServer

TOKEN = "a token of this test"
PLAN = LeasePlan(examples=100, batch_size=10, epochs=2, seed=0)
SUMMARY: dict[str, Any] = {
    "updates": 1_234, "samples": 12_340, "epochs": 3.5, "seconds": 83.2, "stopped_by": "target", "message": "",
    "evaluation": {"average": {"top1_error": 0.0278}, "latest": {"top1_error": 0.03}},
}  # fmt: skip

Serve = Callable[[Address, Machine], str]


def run_folder(folder: Path, **files: object) -> Path:
    """A run directory with these JSON files (bytes as they are)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / rundir.CONFIG).touch()
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / f"{name}.json").write_bytes(data)
    return folder


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve a machine; return where it listens."""
    servers: list[MachineServer] = []

    def start(address: Address, machine: Machine) -> str:
        journal = JournalWriter(tmp_path / "journals" / f"{address}.journal", "run", str(address))
        servers.append(MachineServer(machine, Gate(TOKEN, {}), journal, lambda: 0.0))
        return servers[-1].start("127.0.0.1")

    yield start
    for server in servers:
        server.stop()


def ledger_after_three_leases() -> Ledger:
    """Of 20 leases 5 granted to two workers, 3 finished: 30 of 200 samples."""
    ledger = Ledger(PLAN, 2, LedgerSettings(), 2)
    ledger.handle(0.0, NextLease(0, 1, None))
    ledger.handle(0.0, NextLease(1, 1, None))
    for lease, worker, number in ((0, 0, 2), (1, 1, 2), (2, 0, 3)):
        ledger.handle(0.0, NextLease(worker, number, Finished(lease, 0, 0.5, 2, 1)))
    return ledger


def shard_after(index: int, updates: int) -> Shard:
    """A shard whose updates all come from one pull, with one push twice: staleness 0, 1, 2, ..."""
    segments = (Segment(0, 16, 1.0, 1.0),)
    schedule = ScheduleSettings(rate=0.02).build(PLAN.examples, PLAN.samples)
    shard = Shard(index, 2, torch.zeros(16), segments, Sgd(), 0.0, schedule, 0)
    for lease in [*range(updates), 0]:
        push = Push(lease, 0, 10, (Reading(0, 0), Reading(0, 0)), torch.ones(16))
        shard.handle(0.0, Exchange(0, lease, index, push, None))
    return shard


def averager_at(versions: tuple[int, int]) -> Averager:
    averager = Averager((16, 16), AverageSettings(), PLAN.leases)
    for shard, version in enumerate(versions):
        averager.handle(0.0, Sample(shard, 0, version, torch.zeros(16)))
    return averager


def connect(folder: Path, targets: dict[Address, str], token: str = TOKEN) -> None:
    rundir.write_connection(folder, token, targets, {"pid": 4321, "workers": 3, "total_samples": PLAN.samples})


@pytest.fixture
def running(tmp_path: Path, serve: Serve) -> Path:
    """A run that goes on: a ledger, two shards and an averager."""
    folder = run_folder(tmp_path / "run")
    machines: dict[Address, Machine] = {
        LEDGER: ledger_after_three_leases(),
        Address(Role.SHARD, 0): shard_after(0, 3),
        Address(Role.SHARD, 1): shard_after(1, 4),
        AVERAGER: averager_at((2, 4)),
    }
    connect(folder, {address: serve(address, machine) for address, machine in machines.items()})
    return folder


# --- a run that goes on -----------------------------------------------------------------------------------------------


def test_a_running_run_as_text(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_command(running, False) == 0
    assert (
        capsys.readouterr().out
        == f"""\
run       {running}
state     running (process 4321)
progress  15.0 %, 30 of 200 samples
workers   2 of 3
leases    3 of 20 finished, 2 outstanding, 5 granted, 0 of them again
loss      0.5000, training error 22.22 %
skipped   3 unreadable examples
vectors   0 exchanges through shared memory, 0 over the network
kernel    {kernel.in_use()}

shard  version  staleness  p95  rate  duplicate  refused  averaged  skipped
    0        3        1.0    2  0.02          1        0         2        0
    1        4        1.5    3  0.02          1        0         4        0
(averaged: newest version in the average; skipped: versions that it missed)
"""
    )


def test_shards_with_standbys_have_a_column_that_says_how_these_are(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run")
    connect(folder, {Address(Role.SHARD, 0): serve(Address(Role.SHARD, 0), Replica(shard_after(0, 3)))})
    assert status_command(folder, False) == 0
    header, row = capsys.readouterr().out.splitlines()[-3:-1]
    assert (header.split()[-1], row.split()[-1]) == ("standby", "none")


def test_a_running_run_as_json(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_command(running, True) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    report = json.loads(shown)
    assert {key: report[key] for key in ("run", "state", "pid", "workers", "total_samples", "progress", "silent")} == {
        "run": str(running), "state": "running", "pid": 4321, "workers": 3, "total_samples": 200, "progress": 0.15,
        "silent": [],
    }  # fmt: skip
    assert report["ledger"] == {
        "leases": 20, "granted": 5, "finished": 3, "reissued": 0, "outstanding": 2, "samples": 30, "skipped": 3,
        "workers": 2, "loss": 0.5, "recent_loss": 0.5, "recent_error": 6 / 27, "recent_auxiliary": [], "ending": "",
        "message": "", "next_worker": 2, "quarantined": [],
    }  # fmt: skip
    assert report["shards"][0] == {
        "shard": 0, "version": 3, "samples": 30, "staleness_mean": 1.0, "staleness_p95": 2, "rate": 0.02,
        "duplicates": 1, "refused": 0, "skipped_samples": 0, "averaged": 2,
        "by_memory": 0, "by_network": 0, "kernel": kernel.in_use(), "standby": "",
    }  # fmt: skip
    assert report["averager"] == {"versions": [2, 4], "counts": [1, 1]}


def test_what_was_not_measured_yet_is_a_dash_and_null(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run")
    shard = Address(Role.SHARD, 0)
    connect(
        folder, {LEDGER: serve(LEDGER, Ledger(PLAN, 1, LedgerSettings(), 1)), shard: serve(shard, shard_after(0, 0))}
    )
    assert status_command(folder, True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ledger"]["loss"] is report["ledger"]["recent_error"] is report["shards"][0]["averaged"] is None
    assert status_command(folder, False) == 0
    assert "loss      -, training error -" in capsys.readouterr().out


def test_a_run_that_grants_no_more_leases_is_ending(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = ledger_after_three_leases()
    ledger.handle(0.0, Stop(Ending.SIGNAL.value))
    folder = run_folder(tmp_path / "run")
    connect(folder, {LEDGER: serve(LEDGER, ledger)})
    assert status_command(folder, False) == 0
    assert "state     ending: signal (process 4321)" in capsys.readouterr().out


def test_actors_that_do_not_answer_are_named_and_the_others_shown(
    running: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = running / rundir.CONNECTION
    content = json.loads(path.read_bytes())
    content["targets"]["ledger"] = content["targets"]["shard-1"] = "127.0.0.1:1"
    path.write_text(json.dumps(content))
    assert status_command(running, False) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2] == "no answer  ledger, shard-1"
    assert [line.split()[0] for line in shown[6:]] == ["shard", "0", "(averaged:"]


# --- a run that does not go on ----------------------------------------------------------------------------------------

ENDED = """\
run            {run}
state          ended (target)
updates        1,234
samples        12,340 in 3.50 epochs
time           1m 23s
average error  2.78 %
"""


def test_an_ended_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", summary=SUMMARY)
    assert status_command(folder, False) == 0
    assert capsys.readouterr().out == ENDED.format(run=folder)
    assert status_command(folder, True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run": str(folder), "state": "ended", "stopped_by": "target", "message": "", "updates": 1_234,
        "samples": 12_340, "epochs": 3.5, "seconds": 83.2, "average_error": 0.0278, "broken": "",
        "warnings": [],
    }  # fmt: skip


def test_an_ended_run_whose_journals_break_a_law_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"holds": False, "staleness_and_ages": 1_234, "others_open": 1_233}
    assert status_command(run_folder(tmp_path / "run", summary={**SUMMARY, "conservation": broken}), False) == 0
    assert "accounting     error: staleness is not conserved: shards count 1,234 updates" in capsys.readouterr().out


def test_an_ended_run_says_why_and_that_it_was_not_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = {"average": {"top1_error": None}}
    summary = {**SUMMARY, "stopped_by": "diverged", "message": "loss is NaN", "evaluation": evaluation}
    assert status_command(run_folder(tmp_path / "run", summary=summary), False) == 0
    shown = capsys.readouterr().out
    assert "state          ended (diverged): loss is NaN\n" in shown
    assert "average error  -\n" in shown


def test_the_summary_speaks_when_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", summary=SUMMARY)
    connect(folder, {LEDGER: "127.0.0.1:1"})
    assert status_command(folder, False) == 0
    assert capsys.readouterr().out == ENDED.format(run=folder)


def test_another_run_s_actor_on_the_same_port_is_no_answer(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run")
    connect(folder, {LEDGER: serve(LEDGER, ledger_after_three_leases())}, token="a token of another run")
    assert status_command(folder, True) == 1
    assert json.loads(capsys.readouterr().out) == {"run": str(folder), "state": "ended without a summary"}


def test_a_run_that_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run")
    assert status_command(folder, False) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"run    {folder}",
        "state  ended without a summary (nobody answers: it was killed, or it is only starting)",
    ]


# --- which run --------------------------------------------------------------------------------------------------------


def test_the_newest_run_is_the_one_started_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, started in (("a", 200), ("b", 300), ("c", 100)):
        folder = run_folder(Path("runs") / name, summary=SUMMARY)
        os.utime(folder / rundir.CONFIG, (started, started))
    os.utime(Path("runs") / "a", (999, 999))  # it ended last
    (Path("runs") / "notes").mkdir()
    (Path("runs") / "notes.txt").touch()
    assert newest(Path("runs")) == Path("runs/b")
    assert status_command(None, False) == 0
    assert capsys.readouterr().out.startswith("run            runs/b\n")


@pytest.mark.parametrize("empty", [True, False])
def test_no_run_at_all(empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if empty:
        Path("runs").mkdir()
    with pytest.raises(BadInput, match=r"^run: got none, expected a run directory under \./runs; name one: distbelief"):
        status_command(None, False)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_not_a_run_directory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(
        BadInput, match=r"^run: got .*/x, expected a run directory \(one with a config\.toml\) or a copy"
    ):
        status_command(path, False)


def test_a_copy_of_the_connection_is_enough_elsewhere(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run")
    connect(folder, {LEDGER: serve(LEDGER, ledger_after_three_leases())})
    copy = tmp_path / "copy.json"
    copy.write_bytes((folder / "connection.json").read_bytes())
    assert status_command(copy, True) == 0
    assert json.loads(capsys.readouterr().out)["ledger"]["finished"] == 3
    copy.write_text("no json")
    with pytest.raises(BadInput, match=r"copy.json: got .*, expected a JSON object; the file is damaged"):
        status_command(copy, True)


def test_what_a_run_warned_of_is_shown(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", summary={**SUMMARY, "warnings": ["worker 3 is a straggler"]})
    assert status_command(folder, False) == 0
    assert "warning        worker 3 is a straggler\n" in capsys.readouterr().out
    with logging_to(folder, "driver"):
        logging.getLogger("distbelief.driver").warning("worker 4 is a straggler")
    connect(folder, {LEDGER: serve(LEDGER, ledger_after_three_leases())})
    assert status_command(folder, False) == 0
    assert "worker 4 is a straggler\n" in capsys.readouterr().out


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["connection", "summary"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1]", b"{}", b'{"updates": "many", "targets": 3}', b"[" * 100_000]
)
def test_a_damaged_file_is_one_line(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run", **{name: content})
    assert cli.run(["status", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"distbelief: error: {folder}/{name}.json: got ")
    assert err.endswith("the file is damaged\n")
    assert err.count("\n") == 1


def test_the_token_is_for_the_user_alone_and_is_not_shown(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stat.S_IMODE((running / rundir.CONNECTION).stat().st_mode) == 0o600
    status_command(running, False)
    status_command(running, True)
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err


# --- histograms -------------------------------------------------------------------------------------------------------


def test_mean_and_percentile_of_a_histogram() -> None:
    histogram = {0: 94, 7: 1, 40: 5}
    assert mean(histogram) == 2.07
    assert [percentile(histogram, share) for share in (0.5, 0.94, 0.95, 0.96, 1.0)] == [0, 0, 7, 40, 40]
    assert math.isnan(mean({}))
    assert math.isnan(percentile({}, 0.95))
