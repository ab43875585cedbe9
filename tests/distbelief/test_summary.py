"""Summary: every key of the contract, from journals written here, against values reckoned by hand."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from distbelief.rundir import JOURNAL, SUMMARY
from distbelief.summary import Account, Outcomes, summarise
from ps.errors import JournalDamaged
from ps.journal import (
    LeaseDiscarded,
    LeaseFailed,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    LedgerStopped,
    PullHandled,
    PushHandled,
    Record,
    RoundApplied,
    SampleAveraged,
    SampleSent,
    SampleSkipped,
    ShardOpened,
    WorkerTimed,
)
from ps.leases import LeasePlan
from ps.messages import Outcome, Reading
from ps.wire.files import JournalWriter
from workers.evaluation import Evaluation

PLAN = LeasePlan(examples=25, batch_size=10, epochs=2, seed=3)  # leases of 10, 10, 5, 10, 10, 5 examples
FACTS: dict[str, Any] = {"workers": 3, "shards": 2, "model": "inception-mini", "parameters": 32, "seed": 3}
AVERAGE = Evaluation(top1_error=0.25, top5_error=0.125, loss=0.75, examples=8, skipped=1)
LATEST = Evaluation(top1_error=0.5, top5_error=0.0, loss=1.5, examples=8)
BOTH = {"average": (AVERAGE, "aa"), "latest": (LATEST, "bb")}

Journals = Mapping[str, Iterable[Record]]


def opened(shard: int) -> ShardOpened:
    return ShardOpened(100.0, shard, 2, 1, 0, 0, 16)


def pushed(now: float, lease: int, staleness: int, outcome: Outcome = Outcome.APPLIED) -> PushHandled:
    read = (Reading(1, 0), Reading(1, 0))
    return PushHandled(now, 0, 1, lease, 0, PLAN.lease(lease, 0, 0.0).count, read, outcome, 0.1, staleness, 1, False)


def granted(lease: int, attempt: int = 0) -> LeaseGranted:
    return LeaseGranted(101.0, 0, 1, lease, attempt, 400.0)


def finished(lease: int, loss: float, skipped: int = 0) -> LeaseFinished:
    return LeaseFinished(103.0, 0, lease, 0, PLAN.lease(lease, 0, 0.0).count, loss, 1, skipped)


def twice(now: float, lease: int) -> PushHandled:
    return pushed(now, lease, -1, Outcome.DUPLICATE)


# Leases 0 to 3 are on both shards, 4 on shard 0 alone and 5 is granted only. Lease 1 was granted again, and pushed
# twice at shard 0. Updates happen (at the later shard) at 102, 103.5, 104 and 106.
RUN: dict[str, list[Record]] = {
    "shard-0": [
        opened(0), PullHandled(100.5, 0, 1, 0), pushed(101.5, 0, 0), pushed(103.0, 1, 1), SampleSent(103.0, 2),
        twice(103.2, 1), pushed(104.0, 2, 2), pushed(105.0, 3, 2), SampleSkipped(105.0, 4), pushed(109.0, 4, 7),
    ],
    "shard-1": [
        opened(1), pushed(102.0, 0, 0), pushed(103.5, 1, 1), pushed(103.9, 2, 2), pushed(106.0, 3, 3),
        SampleSkipped(106.0, 4),
    ],
    "ledger": [
        *map(granted, range(4)), LeaseFailed(102.5, 0, 1, 0, True, "lost"), LeaseReturned(102.5, 1, 0),
        granted(1, 1), granted(4), granted(5), finished(0, 4.0), finished(2, 3.0, skipped=2), finished(1, 2.0),
        finished(3, math.nan), LedgerStopped(110.0, "signal"),
    ],
    "host-0": [
        WorkerTimed(103.0, 0, 0, 0.5, 0.25, 0.125, 2.0, 1.0, 0.25),
        WorkerTimed(104.0, 1, 1, 0.5, 0.25, 0.0, 1.0, 1.0),
    ],
    "averager": [SampleAveraged(103.5, 0, 1, 2, True), SampleAveraged(103.6, 0, 1, 2, False)],
}  # fmt: skip


def write(folder: Path, journals: Journals) -> None:
    for actor, records in journals.items():
        journal = JournalWriter(folder / JOURNAL / f"{actor}.journal", "run", actor)
        journal.write(records)
        journal.close()


def summary(folder: Path, journals: Journals, **outcomes: Any) -> dict[str, Any]:
    """The summary of these journals as it stands on disk, read as strictly as JSON is."""
    write(folder, journals)
    given = {"started": 98.5, "ended": 111.25, "stopped_by": "signal", "message": "", "evaluations": BOTH} | outcomes
    returned = summarise(folder, PLAN, FACTS, Outcomes(**given))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read: dict[str, Any] = json.loads((folder / SUMMARY).read_text(), parse_constant=refuse)
    assert read == returned
    return read


def test_every_key_by_hand(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    found = summary(tmp_path, RUN)
    for actor in ("averager", "host-0", "ledger", "shard-0", "shard-1"):
        data = (tmp_path / JOURNAL / f"{actor}.journal").read_bytes()
        digest.update(f"{actor}.journal\0{len(data)}\0".encode() + data)
    assert found == {
        **FACTS,
        "updates": 4,
        "samples": 35,
        "epochs": 1.4,
        "seconds": 12.75,
        "first_update_seconds": 3.5,
        "images_per_second": 6.25,
        "staleness": {
            "mean": 2.0, "p50": 2, "p95": 7, "max": 7, "histogram": {"0": 2, "1": 2, "2": 3, "3": 1, "7": 1},
        },
        "leases": {
            "granted": 7, "applied": 4, "reissued": 1, "duplicates_ignored": 1, "discarded": 0, "outstanding": 2,
        },
        "conservation": {"holds": None, "staleness_and_ages": None, "others_open": None},
        "skipped_examples": 2,
        "skipped_average_versions": 2,
        "faults": {},
        "train_loss": 3.0,
        "worker_seconds": {
            "compute": 3.0, "decode": 0.125, "exchange": 2.0, "hidden": 0.25, "lease": 1.0, "turn": 0.5,
        },
        "evaluation": {
            "average": {
                "top1_error": 0.25, "top5_error": 0.125, "loss": 0.75, "examples": 8, "skipped": 1, "sha256": "aa",
            },
            "latest": {
                "top1_error": 0.5, "top5_error": 0.0, "loss": 1.5, "examples": 8, "skipped": 0, "sha256": "bb",
            },
        },
        "journal_sha256": digest.hexdigest(),
        "replayable": True,
        "stopped_by": "signal",
        "message": "",
    }  # fmt: skip


def test_the_same_journals_give_the_same_bytes_and_one_record_more_gives_others(tmp_path: Path) -> None:
    more = {**RUN, "ledger": [*RUN["ledger"], granted(5, 1)]}
    for name, journals in (("a", RUN), ("b", RUN), ("c", more)):
        summary(tmp_path / name, journals)
    a, b, c = ((tmp_path / name / SUMMARY).read_bytes() for name in "abc")
    assert a == b
    assert json.loads(a)["journal_sha256"] != json.loads(c)["journal_sha256"]


# --- what counts as an update -----------------------------------------------------------------------------------------


def test_a_lease_on_one_shard_only_is_no_update(tmp_path: Path) -> None:
    journals: Journals = {
        "shard-0": [opened(0), pushed(101.0, 0, 0), pushed(102.0, 1, 1)],
        "shard-1": [opened(1), pushed(108.0, 2, 0)],
        "ledger": [granted(0), granted(1), granted(2)],
    }
    found = summary(tmp_path, journals)
    assert (found["updates"], found["samples"], found["leases"]["outstanding"]) == (0, 0, 3)
    assert (found["first_update_seconds"], found["images_per_second"]) == (None, 0.0)
    assert found["staleness"]["histogram"] == {"0": 2, "1": 1}  # over all (lease, shard) pairs


def test_a_shard_without_any_application_means_no_update(tmp_path: Path) -> None:
    found = summary(tmp_path, {"shard-0": [opened(0), pushed(101.0, 0, 0)], "shard-1": [opened(1)]})
    assert (found["updates"], found["replayable"]) == (0, True)


def test_without_a_shard_s_journal_a_run_is_not_replayable(tmp_path: Path) -> None:
    found = summary(tmp_path, {"shard-0": [opened(0), pushed(101.0, 0, 0)]})
    assert (found["updates"], found["replayable"]) == (0, False)


def test_one_update_has_a_time_but_no_speed(tmp_path: Path) -> None:
    found = summary(tmp_path, {f"shard-{i}": [opened(i), pushed(101.0 + i, 2, 0)] for i in range(2)})
    assert (found["updates"], found["samples"], found["epochs"]) == (1, 5, 0.2)
    assert (found["first_update_seconds"], found["images_per_second"]) == (3.5, 0.0)


def test_nothing_at_all(tmp_path: Path) -> None:
    found = summary(tmp_path, {"shard-0": [opened(0)], "shard-1": [opened(1)], "ledger": []}, stopped_by="time")
    assert found["staleness"] == {"mean": 0.0, "p50": 0, "p95": 0, "max": 0, "histogram": {}}
    assert set(found["leases"].values()) == {0}
    assert (found["updates"], found["epochs"], found["train_loss"]) == (0, 0.0, None)
    assert (found["stopped_by"], found["replayable"], found["worker_seconds"]) == ("time", True, {})


# --- leases -----------------------------------------------------------------------------------------------------------


def test_duplicates_count_per_shard_and_grants_per_attempt(tmp_path: Path) -> None:
    journals: Journals = {
        "shard-0": [opened(0), pushed(101.0, 0, 0), twice(102.0, 0), twice(103.0, 0)],
        "shard-1": [opened(1), pushed(101.0, 0, 0), twice(102.0, 0)],
        "ledger": [granted(0), granted(0, 1), granted(0, 2)],
    }
    leases = summary(tmp_path, journals)["leases"]
    assert leases == {
        "granted": 3, "applied": 1, "reissued": 2, "duplicates_ignored": 3, "discarded": 0, "outstanding": 0,
    }  # fmt: skip


def test_a_discarded_gradient_counts_once_whatever_the_shards_say(tmp_path: Path) -> None:
    late = pushed(102.0, 0, 9, Outcome.DISCARDED)
    journals: Journals = {
        "shard-0": [opened(0), late, pushed(103.0, 0, 0)],
        "shard-1": [opened(1), late, pushed(103.0, 0, 0)],
        "ledger": [granted(0), LeaseDiscarded(102.0, 0, 0, 0), granted(0, 1)],
    }
    found = summary(tmp_path, journals)
    assert (found["leases"]["discarded"], found["leases"]["duplicates_ignored"]) == (1, 0)
    assert (found["staleness"]["histogram"], found["updates"]) == ({"0": 2}, 1)


def test_a_round_counts_each_of_its_leases(tmp_path: Path) -> None:
    staged = pushed(101.0, 0, -1, Outcome.STAGED)
    whole = RoundApplied(102.0, (0, 1), (0, 2), 20, 2, False, 0.1, 1)
    journals: Journals = {
        "shard-0": [opened(0), staged, whole],
        "shard-1": [opened(1), staged, whole],
        "ledger": [granted(0), granted(1)],
    }
    found = summary(tmp_path, journals)
    assert (found["updates"], found["leases"]["outstanding"]) == (2, 0)
    assert found["staleness"]["histogram"] == {"0": 2, "2": 2}


def test_a_grant_that_the_ledger_s_journal_lost_makes_nothing_negative(tmp_path: Path) -> None:
    journals: Journals = {f"shard-{i}": [opened(i), pushed(101.0, 0, 0)] for i in range(2)}
    found = summary(tmp_path, {**journals, "ledger": [granted(1)]})
    assert (found["leases"]["applied"], found["leases"]["outstanding"]) == (1, 1)


# --- staleness and loss -----------------------------------------------------------------------------------------------


def test_staleness_percentiles(tmp_path: Path) -> None:
    plan = LeasePlan(examples=100, batch_size=1, epochs=1, seed=0)
    write(tmp_path, {"shard-0": [opened(0), *(pushed(101.0 + lease, lease % 6, lease) for lease in range(100))]})
    found = summarise(tmp_path, plan, {**FACTS, "shards": 1}, Outcomes(0.0, 1.0, "completed", "", BOTH))["staleness"]
    assert {key: found[key] for key in ("mean", "p50", "p95", "max")} == {
        "mean": 49.5, "p50": 49, "p95": 94, "max": 99,
    }  # fmt: skip
    assert found["histogram"] == {str(value): 1 for value in range(100)}


def test_the_loss_is_that_of_the_last_epoch_s_worth_of_leases_weighted_by_their_size(tmp_path: Path) -> None:
    losses = [finished(0, 100.0), finished(1, 6.0), finished(2, 3.0), finished(3, math.nan), finished(4, 1.5)]
    found = summary(tmp_path, {"shard-0": [opened(0)], "ledger": losses})
    assert found["train_loss"] == (6.0 * 10 + 3.0 * 5 + 1.5 * 10) / 25


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_what_was_not_evaluated_is_null(tmp_path: Path) -> None:
    found = summary(tmp_path, RUN, evaluations={"average": (None, "aa"), "latest": (LATEST, "bb")})
    assert found["evaluation"]["average"] == {
        "top1_error": None, "top5_error": None, "loss": None, "examples": 0, "skipped": 0, "sha256": "aa",
    }  # fmt: skip


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_the_loss_of_diverged_weights_is_null(loss: float, tmp_path: Path) -> None:
    evaluations = {"average": (AVERAGE, "aa"), "latest": (Evaluation(0.9, 0.5, loss, 8), "bb")}
    found = summary(tmp_path, RUN, evaluations=evaluations, stopped_by="diverged", message="diverged at update 4")
    assert found["evaluation"]["latest"] == {
        "top1_error": 0.9, "top5_error": 0.5, "loss": None, "examples": 8, "skipped": 0, "sha256": "bb",
    }  # fmt: skip
    assert (found["stopped_by"], found["message"]) == ("diverged", "diverged at update 4")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_journal_leaves_no_summary(tmp_path: Path) -> None:
    write(tmp_path, RUN)
    path = tmp_path / JOURNAL / "shard-0.journal"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalDamaged, match=r"shard-0\.journal"):
        summarise(tmp_path, PLAN, FACTS, Outcomes(0.0, 1.0, "completed", "", BOTH))
    assert not (tmp_path / SUMMARY).exists()


def test_a_resumed_run_was_not_slow_while_it_was_down(tmp_path: Path) -> None:
    """Updates at 102, 103.5, then a resumption at 104.5 that was tried twice, 106 and 109: 2.5 s are not counted."""
    shards = {
        actor: [opened(shard), *(pushed(now, lease, 0) for lease, now in enumerate((102.0, 103.5, 106.0, 109.0)))]
        for shard, actor in enumerate(("shard-0", "shard-1"))
    }
    again = [LedgerOpened(now, 3, 2, 25, 10, 2, 3, resumed=True) for now in (104.5, 105.0)]
    early = LedgerOpened(101.0, 3, 2, 25, 10, 2, 3, resumed=True)  # before the first update: that is not in the time
    found = summary(tmp_path, {**shards, "ledger": [early, *again]})
    assert found["samples"] == 35
    assert found["images_per_second"] == round((10 + 10) / (1.5 + 3.0), 2)  # of leases 1 and 3: 0 and 2 began a stretch


def test_what_comes_with_the_first_update_is_no_speed(tmp_path: Path) -> None:
    """A round of 20 examples at 102, one of 5 at 104."""
    pushes = [replace(pushed(101.0, lease, -1, Outcome.STAGED), version=0) for lease in (0, 1, 2)]
    rounds = [
        RoundApplied(102.0, (0, 1), (0, 0), 20, 2, False, 0.1, 1),
        RoundApplied(104.0, (2,), (0,), 5, 2, False, 0.1, 2),
    ]
    found = summary(tmp_path, {f"shard-{shard}": [opened(shard), *pushes, *rounds] for shard in (0, 1)})
    assert (found["samples"], found["images_per_second"]) == (25, 2.5)


def test_a_lease_that_came_back_after_it_was_finished_counts_once(tmp_path: Path) -> None:
    ledger = [finished(0, 4.0, skipped=3), LeaseReturned(104.0, 0, 0), finished(1, 1.0), finished(0, 2.0, skipped=3)]
    found = summary(tmp_path, {"ledger": ledger})
    assert found["skipped_examples"] == 3
    assert found["train_loss"] == pytest.approx((1.0 * 10 + 2.0 * 7) / 17)


def test_shards_that_were_cut_anew_have_what_those_had_before(tmp_path: Path) -> None:
    """Two shards with leases 0 and 1, then one that applies 2 and comes back once."""
    two = [pushed(102.0, 0, 0), pushed(103.0, 1, 0)]
    cut = ShardOpened(110.0, 0, 1, 0, 2, 20, 32, "", 3, cut=1)
    back = replace(cut, now=112.0, incarnation=1)
    journals = {
        "shard-0": [opened(0), *two, cut, pushed(111.0, 2, 1), back, pushed(113.0, 2, 1), pushed(114.0, 3, 1)],
        "shard-1": [opened(1), *two],
        "ledger": [finished(0, 1.0), finished(1, 1.0), finished(2, 1.0), finished(3, 1.0)],
    }
    write(tmp_path, journals)
    account = Account.of(tmp_path / JOURNAL)
    assert account.applied == {"shard-0": {0, 1, 2, 3}}
    assert account.everywhere(1, PLAN.leases) == [0, 1, 2, 3]
    assert account.staleness == {0: 4, 1: 2}
    assert account.replayable(1)
