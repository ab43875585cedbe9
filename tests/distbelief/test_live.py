"""Live runs as a user starts them, Ray and all: what they leave on disk, and that they leave nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time  # noqa: TID251 -- processes are waited for
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import psutil
import pytest

from distbelief.card import read_card
from distbelief.replay import replay
from distbelief.summary import Account
from distbelief.verify import verify
from ps.leases import LeasePlan
from tests.journals import both_sides_of_conservation
from workers.datasets import DataSettings, load
from workers.images import Traits

pytestmark = pytest.mark.slow

COMMAND = [str(Path(sys.executable).with_name("distbelief")), "launch"]
GONE_SECONDS = 10.0  # after any end nothing may be left
LONG = ["--epochs", "200"]


def descendants(process: psutil.Process) -> set[psutil.Process]:
    return {process, *process.children(recursive=True)}


def gone(family: set[psutil.Process]) -> bool:
    """Whether none of them runs. A dead one that its new parent has not waited for yet is gone all the same."""
    for member in family:
        with suppress(psutil.NoSuchProcess):
            if member.is_running() and member.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def temporaries(cwd: Path) -> set[Path]:
    """What a launch in this directory may leave behind: its own temporary files, and anybody's shared memory (but for
    semaphores of Python's multiprocessing, which a run has none of, and whatever else runs on this machine may).
    """
    own = temporary(cwd)
    memory = {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.mp-")}
    return (set(own.iterdir()) if own.exists() else set()) | memory


def temporary(cwd: Path) -> Path:
    """A directory for the temporary files of this launch alone: short, since sockets lie below it."""
    return Path("/tmp") / f"t-{blake2b(str(cwd).encode(), digest_size=4).hexdigest()}"


@contextmanager
def launched(cwd: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A launch in a directory of its own; whatever happens in the test, nothing of it survives."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    temporary(cwd).mkdir()
    environment["TMPDIR"] = str(temporary(cwd))
    process = subprocess.Popen(
        [*COMMAND, "--run", "run", *options],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        with suppress(OSError):  # not empty: a test that looks there says so
            temporary(cwd).rmdir()


def training(cwd: Path, updates: int = 1) -> bool:
    """Whether that many updates were applied, from the journals."""
    return (cwd / "run" / "connection.json").exists() and bool(
        Account.of(cwd / "run" / "journal").staleness.total() >= updates
    )


def summary_of(cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cwd / "run" / "summary.json").read_text())
    return found


def assert_exactly_once(cwd: Path, summary: dict[str, Any], plan: LeasePlan) -> None:
    account = Account.of(cwd / "run" / "journal")
    assert len(account.applied) == summary["shards"]
    assert account.everywhere(summary["shards"], plan.leases) == list(range(plan.leases))
    assert account.staleness.total() == plan.leases * summary["shards"]  # each lease once on each shard, and no more


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    """In a folder whose own `workers`, `cluster`, `ps` and `ray` packages must not get in the way."""
    for name in ("workers", "cluster", "ps", "distbelief"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is the user\\'s own folder')")
    before = temporaries(tmp_path)
    with launched(tmp_path, "--workers", "32", "--epochs", "4", "--batch-size", "16") as process:
        assert eventually(lambda: training(tmp_path), 60), "no update"
        family = descendants(psutil.Process(process.pid))
        assert len(family) > 5
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Warning" not in err
    folder = tmp_path / "run"
    files = {"config.toml", "started", "metrics.jsonl", "latest.safetensors", "average.safetensors", "summary.json"}
    assert {entry.name for entry in folder.iterdir()} == files | {"journal", "snapshots", "logs", "tensorboard"}
    summary = summary_of(tmp_path)
    assert summary["stopped_by"] == "completed"
    assert summary["updates"] == 360
    assert summary["samples"] == 4 * 1437
    assert 25 < summary["staleness"]["mean"] < 32
    assert 0 < summary["first_update_seconds"] < summary["seconds"]
    assert summary["evaluation"]["average"]["examples"] == 360
    *_, last = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert (last["kind"], last["samples"]) == ("evaluation", summary["samples"])
    assert last["average_top1_error"] == summary["evaluation"]["average"]["top1_error"]
    assert summary["first_update_seconds"] < last["seconds"] <= summary["seconds"]
    cards = {name: read_card(folder / f"{name}.safetensors") for name in ("average", "latest")}
    assert cards["average"].traits == cards["latest"].traits == Traits.of(load(DataSettings(), "train"))
    assert (cards["average"].averaged_versions > 0, cards["latest"].averaged_versions) == (True, 0)
    assert summary["leases"] | {"granted": 0} == {
        "granted": 0, "applied": 360, "reissued": 0, "duplicates_ignored": 0, "discarded": 0, "outstanding": 0,
    }  # fmt: skip
    assert_exactly_once(tmp_path, summary, LeasePlan(1437, 16, 4, 0))
    for shard in range(summary["shards"]):
        shards_side, workers_side = both_sides_of_conservation(folder / "journal", shard)
        assert shards_side == workers_side > 25 * 360
    assert eventually(lambda: gone(family), GONE_SECONDS)
    assert eventually(lambda: temporaries(tmp_path) <= before, GONE_SECONDS), temporaries(tmp_path) - before


def test_nothing_is_left_after_sigkill(tmp_path: Path) -> None:
    before = temporaries(tmp_path)
    with launched(tmp_path, *LONG) as process:
        assert eventually(lambda: training(tmp_path), 60), "no update"
        family = descendants(psutil.Process(process.pid))
        process.kill()
        process.wait(timeout=10)
        assert eventually(lambda: gone(family), GONE_SECONDS)
    assert eventually(lambda: temporaries(tmp_path) <= before, GONE_SECONDS), temporaries(tmp_path) - before
    assert not (tmp_path / "run" / "summary.json").exists()
    assert Account.of(tmp_path / "run" / "journal").staleness.total() > 0  # what was applied is on record


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """To the whole process group, as a terminal's Ctrl-C is."""
    with launched(tmp_path, *LONG) as process:
        assert eventually(lambda: training(tmp_path, 50), 60), "no update"
        family = descendants(psutil.Process(process.pid))
        alike = [p.pid for p in family if os.getpgid(p.pid) == process.pid]
        assert alike == [process.pid], "it needs the others to end in order"
        began = time.monotonic()
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
        took = time.monotonic() - began
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert took < 15, f"{took:.1f} s"
    summary = summary_of(tmp_path)
    assert summary["stopped_by"] == "signal"
    assert summary["updates"] >= 25
    assert (tmp_path / "run" / "average.safetensors").exists()
    assert eventually(lambda: gone(family), GONE_SECONDS)


def test_a_lost_worker_host_costs_time_and_nothing_else(tmp_path: Path) -> None:
    with launched(
        tmp_path, "--workers", "8", "--epochs", "6", "--batch-size", "16", "--set", "cluster.turns=2"
    ) as process:
        assert eventually(lambda: training(tmp_path, 100), 60), "no update"
        hosts = [p for p in descendants(psutil.Process(process.pid)) if "HostActor" in " ".join(p.cmdline())]
        assert len(hosts) == 2
        hosts[0].kill()
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    summary = summary_of(tmp_path)
    assert summary["stopped_by"] == "completed"
    assert summary["leases"]["reissued"] >= 1
    assert_exactly_once(tmp_path, summary, LeasePlan(1437, 16, 6, 0))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("workers", "shards", "precision", "killed"),
    [(1, 1, "float32", False), (8, 4, "bfloat16", True), (32, 2, "float32", True), (32, 4, "bfloat16", False)],
)
def test_a_live_run_comes_out_again_bit_for_bit(
    tmp_path: Path, workers: int, shards: int, precision: str, killed: bool
) -> None:
    options = f"--workers {workers} --shards {shards} --precision {precision} --epochs 2 --set cluster.turns=2"
    with launched(tmp_path, *options.split()) as process:
        if killed:
            assert eventually(lambda: training(tmp_path, 40), 120), "no update"
            hosts = [p for p in descendants(psutil.Process(process.pid)) if "HostActor" in " ".join(p.cmdline())]
            hosts[0].kill()
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    summary = summary_of(tmp_path)
    assert summary["replayable"] is True
    assert (summary["leases"]["reissued"] > 0) is killed
    assert verify(tmp_path / "run").verdict == "exactly once"
    found = replay(tmp_path / "run")
    assert (found.verdict, found.differences) == ("identical", [])
    assert found.versions == (360,) * shards


def test_a_lost_shard_is_said_in_one_line_and_comes_back(tmp_path: Path) -> None:
    with launched(tmp_path, "--epochs", "20") as process:
        assert eventually(lambda: training(tmp_path), 60), "no update"
        connection = json.loads((tmp_path / "run" / "connection.json").read_text())
        port = int(connection["targets"]["shard-1"].rsplit(":", 1)[1])
        family = descendants(psutil.Process(process.pid))
        (shard,) = [
            p for p in family if any(c.laddr.port == port and c.status == "LISTEN" for c in p.net_connections())
        ]
        shard.kill()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "note: shard-1 lost: brought back" in err
    assert "Traceback" not in err
    assert verify(tmp_path / "run").verdict == "exactly once"
    assert eventually(lambda: gone(family), GONE_SECONDS)


def test_a_diverged_run_says_so_and_what_to_try(tmp_path: Path) -> None:
    options = ["--workers", "8", "--lr", "1000", "--momentum", "0.9", "--set", "model.clip_norm=0.0", "--epochs", "20"]
    with launched(tmp_path, *options) as process:
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("distbelief: error: diverged at update ")
    assert "try --lr 100 or --momentum 0" in last
    summary = summary_of(tmp_path)
    assert summary["stopped_by"] == "diverged"


def test_the_same_seed_starts_from_the_same_weights_and_a_config_starts_the_same_run(tmp_path: Path) -> None:
    with launched(tmp_path, "--workers", "1", "--shards", "1", "--epochs", "1", "--seed", "3") as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    again = tmp_path / "again"
    again.mkdir()
    config = (tmp_path / "run" / "config.toml").read_text()
    (again / "config.toml").write_text(config)
    with launched(again, "--config", "config.toml") as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    first, second = ((folder / "run" / "latest.safetensors").read_bytes() for folder in (tmp_path, again))
    weights = [data[8 + int.from_bytes(data[:8], "little") :] for data in (first, second)]
    assert weights[0] == weights[1]  # one worker: the order of updates is that of the leases, whatever the clock says
    summaries = [summary_of(folder) for folder in (tmp_path, again)]
    assert summaries[0]["evaluation"]["latest"]["loss"] == summaries[1]["evaluation"]["latest"]["loss"]
