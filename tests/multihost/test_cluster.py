"""A cluster of four hosts, from nothing to a run and back: with a slow link, with guests, cut off, without its head,
with a host lost.

The tests run in this order: the last ones take hosts away.
"""

from __future__ import annotations

import json
import re
import subprocess
import time  # noqa: TID251 -- a partition lasts so long
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import distbelief.cli
from ps.journal import PairParted, PullHandled, PushHandled
from ps.wire.files import read_journal
from tests.multihost.conftest import DISTBELIEF, HOSTS, RAY, ROOT, WAIT_SECONDS, Cluster
from tests.multihost.hosts import eventually

pytestmark = [pytest.mark.multihost, pytest.mark.timeout(1200)]

PARTITION_SECONDS = 10.0


def test_plain_ray_up_as_typed_is_enough_for_a_run(fresh: Cluster) -> None:
    """Shards are on hosts of their own, workers on all, and all comes back."""
    done = fresh.beside(RAY, "up", "--yes", str(fresh.file))
    assert done.returncode == 0, done.stdout + done.stderr
    own = fresh.hosts.address
    eventually(lambda: fresh.machines() == [own(i) for i in range(1, HOSTS + 1)], WAIT_SECONDS, "all machines")
    with fresh.launched("whole", "--shards", "2", "--workers", "8", "--epochs", "2") as process:
        fresh.until_updates("whole", 20)
        targets = json.loads((fresh.run("whole") / "connection.json").read_text())["targets"]
        fresh.ended(process)
    addresses = {name: target.rpartition(":")[0] for name, target in targets.items()}
    assert addresses == {"shard-0": own(2), "shard-1": own(3), "ledger": own(1), "averager": own(1)}
    summary = json.loads((fresh.run("whole") / "summary.json").read_text())
    assert summary["stopped_by"] == "completed"
    names = {path.name for path in (fresh.run("whole") / "journal").iterdir()}
    assert {f"host-{host}.journal" for host in range(HOSTS)} | {"shard-0.journal", "shard-1.journal"} <= names
    fresh.verified("whole")
    done = fresh.hosts.run(1, "cd ~ && distbelief replay whole", seconds=WAIT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_is_content_with_a_cluster_that_is_up_and_names_what_is_wrong(cluster: Cluster) -> None:
    done = cluster.command("check")
    assert done.returncode == 0, done.stdout
    assert sum("  ok  " in line for line in done.stdout.splitlines()) == HOSTS
    content = yaml.safe_load(cluster.file.read_text())
    nobody = cluster.hosts.address(99)
    provider = content["provider"]
    cluster.write(content | {"provider": provider | {"worker_ips": [*provider["worker_ips"], nobody]}})
    done = cluster.command("check")
    cluster.write(content)
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{nobody} "))
    assert "FAILED  SSH: cannot log in" in line


def test_a_job_from_a_laptop_needs_the_token_and_brings_its_results_back(cluster: Cluster, tmp_path: Path) -> None:
    training = "cd && distbelief launch --address auto --run job --workers 4 --epochs 2"
    with cluster.dashboard() as address:
        submit = [RAY, "job", "submit", "--address", address, "--", "bash", "-c", training]
        stranger = cluster.beside(*submit, RAY_AUTH_MODE="disabled")
        assert stranger.returncode != 0
        assert not cluster.run("job").exists()
        done = cluster.beside(*submit, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(cluster.token))
    assert done.returncode == 0, done.stdout + done.stderr
    ssh = " ".join(cluster.hosts.ssh(1, "")[4:-1])  # without the namespace, without the host
    done = cluster.beside("rsync", "-a", "-e", ssh, f"root@{cluster.hosts.address(1)}:job", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "job" / "summary.json").read_text())["stopped_by"] == "completed"
    assert distbelief.cli.run(["verify", str(tmp_path / "job")]) == 0


def test_a_slow_link_slows_and_breaks_nothing(cluster: Cluster) -> None:
    with cluster.launched("slow", "--shards", "2", "--workers", "4", "--epochs", "4") as process:
        cluster.until_updates("slow", 20)
        cluster.hosts.limit(2, megabits=100)
        cluster.ended(process)
    cluster.hosts.limit(2, megabits=100_000)
    cluster.verified("slow")


def test_numbers_reach_prometheus_and_guests_come_and_go(cluster: Cluster) -> None:
    with cluster.launched("guests", "--workers", "2", "--batch-size", "64", "--epochs", "1000") as process:
        cluster.until_updates("guests", 20)
        later = {"ray_distbelief_average_top1_error"}  # there is none before an evaluation
        drawn = set(re.findall(r"ray_distbelief_\w+", (ROOT / "distbelief" / "grafana.json").read_text()))
        eventually(lambda: cluster.metrics() >= drawn - later, WAIT_SECONDS, "what the dashboard draws")
        join = json.loads((cluster.run("guests") / "connection.json").read_text())["join"]
        token = str(cluster.run("guests") / "worker.token")
        command = cluster.hosts.client(DISTBELIEF, "worker", "--connect", join, "--token-file", token)
        for first in (2, 3):
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as guest:
                journal = cluster.run("guests") / "journal" / f"host-{first}.journal"
                deadline = time.monotonic() + WAIT_SECONDS
                while not (journal.exists() and journal.stat().st_size > 1000):
                    assert time.monotonic() < deadline
                    assert guest.poll() is None, guest.communicate()
                    time.sleep(0.2)
                if first == 2:
                    guest.kill()
                else:
                    cluster.interrupt("guests")
                    process.communicate(timeout=WAIT_SECONDS)
                    _, told = guest.communicate(timeout=WAIT_SECONDS)
                    assert guest.returncode == 0, told
    cluster.verified("guests", code=3)


def test_a_host_that_is_cut_off_for_a_while_costs_time(cluster: Cluster) -> None:
    with cluster.launched("cut", "--shards", "1", "--workers", "4", "--epochs", "20") as process:
        cluster.until_updates("cut", 50)
        with cluster.hosts.cut_off(4):
            time.sleep(PARTITION_SECONDS)
        assert process.poll() is None  # it was over neither before nor because of that
        cluster.ended(process)
    cluster.verified("cut")


def test_a_run_goes_on_when_the_head_of_its_cluster_was_started_again(cluster: Cluster) -> None:
    """Killed with all of Ray on its machine, and started by the command of the cluster file. No Redis."""
    name, own = str(cluster.shared / "headless"), cluster.hosts.address
    often = ["--set", "snapshot.every_seconds=2"]
    with cluster.launched(name, "--shards", "2", "--workers", "4", "--epochs", "12", *often) as process:
        eventually(lambda: any((cluster.run(name) / "snapshots").glob("*")), WAIT_SECONDS, "a snapshot")
        cluster.hosts.run(1, "kill -9 $(pgrep -f 'gcs/gcs_server|raylet/raylet')")
        for command in yaml.safe_load(cluster.file.read_text())["head_start_ray_commands"]:
            started = cluster.hosts.run(1, command)
        assert started.returncode == 0, started.stdout + started.stderr
        out = cluster.ended(process)
    assert f"note: the head of the Ray cluster, {own(1)}:6379, does not answer: the run goes on when it is back" in out
    assert cluster.machines() == [own(i) for i in range(1, HOSTS + 1)]
    cluster.verified(name)


def homes(run: Path, actor: str) -> list[str]:
    """The addresses of the machines that an actor has been on, in order."""
    lines = map(json.loads, (run / "logs" / f"{actor}.jsonl").read_text().splitlines())
    found = (re.match(r"listening at ([\d.]+):", line["message"]) for line in lines)
    return [match[1] for match in found if match]


def test_a_host_with_a_shard_is_lost_and_a_standby_goes_on_with_all_of_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lost one has the second shard and the standby of the first."""
    name, own = str(cluster.shared / "doubled"), cluster.hosts.address
    with cluster.launched(name, "--replicas", "1", "--shards", "2", "--workers", "4", "--epochs", "30") as process:
        cluster.until_updates(name, 200)
        run = cluster.run(name)
        assert [homes(run, f"shard-{shard}") for shard in range(2)] == [[own(2)], [own(3)]]
        assert [homes(run, f"standby-{shard}") for shard in range(2)] == [[own(3)], [own(4)]]
        lost_at = time.time()
        cluster.hosts.lose(3)
        out = cluster.ended(process)
    assert "shard-1 lost: its standby goes on" in out
    assert "standby-0 lost: another is brought up" in out
    cluster.verified(name)
    (first,), (second,) = (homes(run, f"standby-{shard}")[1:] for shard in range(2))
    assert first != own(2), "beside its shard"
    assert second != own(4), "beside its shard, which the first standby leads now"
    parted = [each for each in read_journal(run / "journal" / "ledger.journal") if isinstance(each, PairParted)]
    assert sorted((each.shard, each.leads) for each in parted) == [(0, True), (1, False)]
    pauses = []
    for shard in range(2):
        records = read_journal(run / "journal" / f"shard-{shard}.journal")
        applied = [record.now for record in records if isinstance(record, PushHandled | PullHandled)]
        pauses.append(max(after - before for before, after in pairwise(applied) if after > lost_at))
    assert json.loads((run / "summary.json").read_text())["standbys"] == {"0": True, "1": True}
    with capsys.disabled():
        print(f"\na host was lost: its shard paused for {pauses[1]:.1f} s, the other for {pauses[0]:.1f} s")


def test_a_lost_host_costs_time_and_down_names_it(cluster: Cluster) -> None:
    with cluster.launched("lost", "--shards", "1", "--workers", "4", "--epochs", "10") as process:
        cluster.until_updates("lost", 50)
        cluster.hosts.lose(4)
        cluster.ended(process)
    cluster.verified("lost")
    done = cluster.command("down")
    assert done.returncode == 1
    told = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    for number in (3, 4):
        assert told.pop(cluster.hosts.address(number)).startswith("FAILED")
    assert set(told.values()) == {"stopped"}
