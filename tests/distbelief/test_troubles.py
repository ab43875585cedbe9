"""Troubles: each is found in measurements that show it, none in those of a healthy run, and each is told once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from distbelief.timing import KEPT_LEASES, PARTS, Timing, means
from distbelief.troubles import PATIENCE, Measured, Spent, Troubles, findings
from ps.journal import WorkerExchanged, WorkerTimed
from ps.messages import Outcome, Reading
from ps.wire.files import JournalTail, JournalWriter

USUAL = Spent("host-0", leases=10, lease=0.01, turn=0.2, decode=0.0, compute=0.1, exchange=0.02)


def healthy(workers: int = 8) -> Measured:
    spent = {id: replace(USUAL, host=f"host-{id % 4}", compute=0.1 + 0.01 * (id % 3)) for id in range(workers)}
    return Measured(spent, (1000, 1003), staleness=7.1, expected_staleness=7.0)


def told(measured: Measured) -> dict[str, str]:
    return dict(findings(measured))


def but(measured: Measured, *workers: int, **changed: object) -> Measured:
    """The same, with some workers' measurements changed; all if none is named."""
    chosen = workers or tuple(measured.workers)
    return replace(
        measured,
        workers={i: replace(s, **changed) if i in chosen else s for i, s in measured.workers.items()},  # type: ignore[arg-type]
    )


# --- each by its signs ------------------------------------------------------------------------------------------------


def test_a_healthy_run() -> None:
    assert told(healthy()) == {}
    assert told(Measured({}, (0, 0), math.nan, 7.0)) == {}
    assert told(Measured({0: USUAL}, (5,), 0.0, 0.0)) == {}


def test_a_straggler() -> None:
    found = told(but(healthy(), 5, compute=0.55))
    assert list(found) == ["straggler 5"]
    assert found["straggler 5"].startswith(
        "worker 5 on host-1 is a straggler: 0.55 s per gradient, the others 0.11 s (median); its machine is slower"
    )
    assert told(but(healthy(), 5, compute=0.55, leases=2)) == {}  # its first leases may be slow


def test_a_hot_link() -> None:
    found = told(but(healthy(), 1, 5, exchange=0.3))
    assert list(found) == ["link host-1"]
    assert found["link host-1"].startswith("host-1 takes 0.3 s per exchange, the others 0.02 s (median): its network")


def test_a_network_that_sets_the_pace() -> None:
    assert list(told(but(healthy(), exchange=0.4))) == ["network"]


def test_decoding_slower_than_compute() -> None:
    found = told(but(healthy(), decode=0.3, compute=0.1))
    assert list(found) == ["decoding"]
    assert found["decoding"].startswith(
        "gradients wait 75% of their time for images: decoding is slower than computing"
    )


def test_a_starved_shard() -> None:
    found = told(replace(healthy(), versions=(1000, 990, 999)))
    assert list(found) == ["shard 1"]
    assert found["shard 1"].startswith("shard 1 is starved: 10 updates behind the others")
    assert told(replace(healthy(), versions=(1000, 990, 999), rounds=True)) == {}
    assert told(replace(healthy(), versions=(1000, 990, 999), updates_per_second=500.0)) == {}  # one asked later


def test_staleness_beyond_what_was_planned() -> None:
    found = told(replace(healthy(), staleness=12.0))
    assert list(found) == ["staleness"]
    assert "gradients are 12 updates late on average, rate and momentum were chosen for 7" in found["staleness"]
    assert told(replace(healthy(), staleness=12.0, rounds=True)) == {}


def test_nothing_is_said_of_moments() -> None:
    tiny = but(healthy(), decode=0.0, compute=0.0001, exchange=0.0002)
    assert told(but(tiny, 3, compute=0.004)) == {}


# --- told once, when it lasts -----------------------------------------------------------------------------------------


def test_a_trouble_is_told_once_and_only_if_it_lasts() -> None:
    troubles, slow = Troubles(), but(healthy(), 5, compute=0.55)
    looks = [slow] * (PATIENCE - 1) + [healthy()] + [slow] * (PATIENCE + 5)
    lines = [troubles.look(measured) for measured in looks]
    assert [index for index, found in enumerate(lines) if found] == [2 * PATIENCE - 1]
    assert lines[2 * PATIENCE - 1][0].startswith("warning: worker 5 on host-1 is a straggler")


# --- where the measurements come from ---------------------------------------------------------------------------------


def timed(worker: int, lease: int, compute: float) -> WorkerTimed:
    return WorkerTimed(1.0, worker, lease, 0.25, 0.5, 0.125, compute, 0.0625)


def test_timing_follows_the_hosts_journals(tmp_path: Path) -> None:
    timing = Timing(tmp_path)
    assert (timing.look(), means({})) == ({}, {})
    writers = [JournalWriter(tmp_path / f"host-{host}.journal", "run", f"host-{host}") for host in range(2)]
    exchanged = WorkerExchanged(1.0, 0, 1, 0, 0, Outcome.APPLIED, Reading(1, 1))
    writers[0].write([timed(0, 0, 1.0), exchanged, timed(0, 1, 3.0)])
    writers[1].write([timed(1, 2, 5.0)])
    assert timing.look() == {
        0: Spent("host-0", 2, 0.25, 0.5, 0.125, 2.0, 0.0625), 1: Spent("host-1", 1, 0.25, 0.5, 0.125, 5.0, 0.0625),
    }  # fmt: skip
    writers[1].write([timed(0, 3, 7.0), *(timed(1, lease, 9.0) for lease in range(KEPT_LEASES))])
    found = timing.look()
    assert (found[0].host, found[0].compute) == ("host-1", 7.0)  # it moved
    assert (found[1].leases, found[1].compute) == (KEPT_LEASES, 9.0)  # what was before is forgotten
    assert means(found)["compute"] == 8.0
    assert tuple(means(found)) == PARTS
    for writer in writers:
        writer.close()


def test_a_tail_waits_for_the_rest_of_a_record_and_reads_the_newest(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "whole", "run", "host-0")
    writer.write([timed(0, lease, 1.0) for lease in range(10)])
    writer.close()
    data = (tmp_path / "whole").read_bytes()
    growing = tmp_path / "growing"
    growing.touch()
    tail = JournalTail(growing, WorkerTimed)
    found: list[int] = []
    for stop in range(0, len(data) + 1, 7):
        growing.write_bytes(data[:stop])
        found += [record.lease for record in tail.read(100) if isinstance(record, WorkerTimed)]
    growing.write_bytes(data)
    found += [record.lease for record in tail.read(100) if isinstance(record, WorkerTimed)]
    assert found == list(range(10))
    newest = JournalTail(growing, WorkerTimed).read(3)
    assert [record.lease for record in newest if isinstance(record, WorkerTimed)] == [7, 8, 9]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_time_is_a_field(part: str) -> None:
    assert f"{part}_seconds" in WorkerTimed.__struct_fields__
    assert part in Spent.__dataclass_fields__
