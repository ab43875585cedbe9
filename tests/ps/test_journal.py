"""Records: what is written down comes back equal, and no two kinds are taken for one another."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest

from ps.journal import (
    Arithmetic,
    AveragerOpened,
    AveragerSaved,
    ExchangeRefused,
    FaultFired,
    LeaseDiscarded,
    LeaseFailed,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    LedgerStopped,
    PairParted,
    PullHandled,
    PushHandled,
    Record,
    RoundApplied,
    RoundOrdered,
    SampleAveraged,
    SampleSent,
    SampleSkipped,
    ShardOpened,
    ShardRejoined,
    ShardSaved,
    WorkerExchanged,
    WorkerLeft,
    WorkerQuarantined,
    WorkerTimed,
)
from ps.messages import Outcome, Reading, Refusal
from ps.wire.files import JournalWriter, read_journal

READ = (Reading(0, 0), Reading(2, 1 << 40))
RECORDS: list[Record] = [
    ShardOpened(0.5, 1, 4, 2, 7, 28, 1000, "ab" * 32, 12),
    ShardOpened(0.5, 1, 4, 2, 7, 28, 1000, "ab" * 32, 0, 3, True, (4, 6)),
    ShardSaved(0.5, 12, 7),
    ShardSaved(0.5, 12, 7, (4, 6)),
    AveragerOpened(0.5, 0),
    AveragerSaved(0.5, 12),
    WorkerLeft(0.5, 3),
    ShardRejoined(0.5, 1, 2, 7),
    PairParted(0.5, 1, 2, 3, leads=True),
    LedgerOpened(0.5, 8, 2, 1437, 32, 3, (1 << 63) - 1),
    LedgerOpened(0.5, 8, 2, 1437, 32, 3, 0, 4, True),
    Arithmetic(0.5, "2.13.0+cpu", "13.0.0", "6.2", "AVX2", 1, "cd" * 32),
    *[PushHandled(1.5, 3, 2, 9, 1, 32, READ, outcome, 0.01, 3, 8, True) for outcome in Outcome],
    PushHandled(0.0, 0, 0, 0, 0, 0, (), Outcome.DUPLICATE, 0.0, -1, 0, False),
    PullHandled(1.5, 3, 2, 8),
    RoundApplied(1.5, (3, 4, 9), (0, 2, 0), 96, 4, True, 0.01, 8),
    LeaseDiscarded(1.5, 3, 9, 1),
    RoundOrdered(1.5, 8, (3, 4, 9), False),
    *[ExchangeRefused(1.5, 3, 2, -1, refusal) for refusal in Refusal],
    SampleSent(1.5, 8),
    SampleSkipped(1.5, 8),
    LeaseGranted(1.5, 3, 2, 9, 1, 61.5),
    LeaseFinished(1.5, -1, 9, 1, 32, 0.25, 3, 1, (0.5, 0.75)),
    LeaseFailed(1.5, 3, 9, 1, False, "loss nan"),
    LeaseReturned(1.5, 9, 1),
    LedgerStopped(1.5, "diverged"),
    SampleAveraged(1.5, 1, 0, 8, True),
    WorkerExchanged(1.5, 3, 2, 1, -1, Outcome.NONE, Reading(0, 0)),
    WorkerTimed(1.5, 3, 9, 0.1, 0.2, 0.3, 0.4, 0.5),
    WorkerQuarantined(1.5, 3, 9),
    FaultFired(1.5, "shard-0", 9, "kill", "Exchange"),
]

NUMBERS = {
    ShardOpened: 2, PushHandled: 3, PullHandled: 4, ExchangeRefused: 5, SampleSent: 6, SampleSkipped: 7,
    LeaseGranted: 8, LeaseFinished: 9, LeaseFailed: 10, LeaseReturned: 11, LedgerStopped: 12, SampleAveraged: 13,
    WorkerExchanged: 14, WorkerTimed: 15, LedgerOpened: 16, Arithmetic: 17, RoundApplied: 18, LeaseDiscarded: 19,
    RoundOrdered: 20, ShardSaved: 21, AveragerOpened: 22, AveragerSaved: 23, WorkerLeft: 24, ShardRejoined: 25,
    PairParted: 26, FaultFired: 40, WorkerQuarantined: 41,
}  # fmt: skip


def through(path: Path, *records: Record) -> list[Record]:
    """These records, written down and read."""
    writer = JournalWriter(path / "shard-0.journal", "run-1", "shard-0")
    writer.write(records)
    writer.close()
    return list(read_journal(path / "shard-0.journal"))


def test_records_come_back_equal(tmp_path: Path) -> None:
    again = through(tmp_path, *RECORDS)
    assert again == RECORDS
    assert [repr(record) for record in again] == [repr(record) for record in RECORDS]  # 1 == True, but reads otherwise


@pytest.mark.parametrize("bits", [0, 7, 8, 15, 16, 31, 32, 62])
def test_numbers_of_every_length_come_back_equal(tmp_path: Path, bits: int) -> None:
    records = [SampleSent(1.5, number) for number in ((1 << bits) - 1, 1 << bits, -(1 << bits))]
    assert through(tmp_path, *records) == records


def test_not_a_number_stays_not_a_number(tmp_path: Path) -> None:
    (again,) = through(tmp_path, LeaseFinished(1.5, -1, 9, 1, 32, math.nan, 0, 0))
    assert isinstance(again, LeaseFinished)
    assert math.isnan(again.loss)


def test_every_kind_has_its_case() -> None:
    assert {type(record) for record in RECORDS} == set(get_args(Record))


def test_kinds_keep_their_numbers() -> None:
    """A journal that is on disk already names its records by them."""
    assert {kind: kind.__struct_config__.tag for kind in get_args(Record)} == NUMBERS


def test_an_event_takes_a_few_dozen_bytes(tmp_path: Path) -> None:
    read, version = (Reading(0, 1 << 20),), (1 << 20) + 9_998
    push = PushHandled(1234.5, 9_999, 200, 1 << 20, 0, 32, read, Outcome.APPLIED, 0.01, 9_998, version, True)
    through(tmp_path, push, push)
    assert (tmp_path / "shard-0.journal").stat().st_size < 200
