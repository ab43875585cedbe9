"""A cluster of four hosts, from nothing to a run and back: with a slow link, with guests, cut off, with a host lost.

The tests run in this order: the last ones take hosts away.
"""

from __future__ import annotations

import json
import subprocess
import time  # noqa: TID251 -- a partition lasts so long

import pytest
import yaml

from tests.multihost.conftest import DISTBELIEF, HOSTS, WAIT_SECONDS, Cluster

pytestmark = [pytest.mark.multihost, pytest.mark.timeout(1200)]

PARTITION_SECONDS = 10.0


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


def test_shards_are_on_hosts_of_their_own_and_workers_on_all_and_all_comes_back(cluster: Cluster) -> None:
    with cluster.launched("whole", "--shards", "2", "--workers", "8", "--epochs", "4") as process:
        cluster.until_updates("whole", 20)
        targets = json.loads((cluster.run("whole") / "connection.json").read_text())["targets"]
        cluster.ended(process)
    addresses = {name: target.rpartition(":")[0] for name, target in targets.items()}
    own = cluster.hosts.address
    assert addresses == {"shard-0": own(2), "shard-1": own(3), "ledger": own(1), "averager": own(1)}
    summary = json.loads((cluster.run("whole") / "summary.json").read_text())
    assert summary["stopped_by"] == "completed"
    names = {path.name for path in (cluster.run("whole") / "journal").iterdir()}
    assert {f"host-{host}.journal" for host in range(HOSTS)} | {"shard-0.journal", "shard-1.journal"} <= names
    cluster.verified("whole")
    done = cluster.hosts.run(1, "cd ~ && distbelief replay whole", seconds=WAIT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_slow_link_slows_and_breaks_nothing(cluster: Cluster) -> None:
    with cluster.launched("slow", "--shards", "2", "--workers", "4", "--epochs", "4") as process:
        cluster.until_updates("slow", 20)
        cluster.hosts.limit(2, megabits=100)
        cluster.ended(process)
    cluster.hosts.limit(2, megabits=100_000)
    cluster.verified("slow")


def test_a_guest_joins_from_a_machine_beside_and_another_when_it_died(cluster: Cluster) -> None:
    with cluster.launched("guests", "--workers", "2", "--batch-size", "64", "--epochs", "1000") as process:
        cluster.until_updates("guests", 20)
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
    with cluster.launched("cut", "--shards", "1", "--workers", "4", "--epochs", "30") as process:
        cluster.until_updates("cut", 50)
        with cluster.hosts.cut_off(4):
            time.sleep(PARTITION_SECONDS)
        assert process.poll() is None  # it was over neither before nor because of that
        cluster.ended(process)
    cluster.verified("cut")


def test_a_lost_host_costs_time_and_down_names_it(cluster: Cluster) -> None:
    with cluster.launched("lost", "--shards", "1", "--workers", "4", "--epochs", "20") as process:
        cluster.until_updates("lost", 50)
        cluster.hosts.lose(3)
        cluster.ended(process)
    cluster.verified("lost")
    done = cluster.command("down")
    assert done.returncode == 1
    told = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert told.pop(cluster.hosts.address(3)).startswith("FAILED")
    assert set(told.values()) == {"stopped"}
