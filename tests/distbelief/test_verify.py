"""Verify: journals written here, each with one thing wrong, against the verdict and the counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from distbelief import cli
from distbelief.config import Config
from distbelief.rundir import CONFIG, JOURNAL
from distbelief.verify import verify
from ps.errors import BadInput, JournalDamaged, RunFailed
from ps.journal import (
    ExchangeRefused,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    LedgerStopped,
    PushHandled,
    Record,
    RoundApplied,
    ShardOpened,
)
from ps.leases import LeasePlan
from ps.messages import Outcome, Reading, Refusal
from ps.wire.files import JournalWriter

PLAN = LeasePlan(examples=25, batch_size=10, epochs=2, seed=3)  # leases of 10, 10, 5, 10, 10, 5 examples

Journals = Mapping[str, Iterable[Record]]


def opened(shard: int, version: int = 0) -> ShardOpened:
    return ShardOpened(1.0, shard, 2, 0, version, 0, 16)


def push(lease: int, version: int, outcome: Outcome = Outcome.APPLIED, samples: int | None = None) -> PushHandled:
    count = PLAN.lease(lease, 0, 0.0).count if samples is None else samples
    read = (Reading(0, 0), Reading(0, 0))
    return PushHandled(2.0, 0, 1, lease, 0, count, read, outcome, 0.1, 0, version, True)


def pushes(*leases: int) -> list[Record]:
    return [push(lease, version) for version, lease in enumerate(leases, 1)]


def ledger(granted: Iterable[int], finished: Iterable[int], stopped: str = "") -> list[Record]:
    records: list[Record] = [LedgerOpened(1.0, 3, 2, 25, 10, 2, 3)]
    records += [LeaseGranted(1.0, 0, 1, lease, 0, 300.0) for lease in granted]
    records += [LeaseFinished(2.0, 0, lease, 0, 10, 0.5, 0, 0) for lease in finished]
    return [*records, LedgerStopped(3.0, stopped)] if stopped else records


WHOLE: dict[str, list[Record]] = {
    "ledger": ledger(range(6), range(6), "completed"),
    "shard-0": [opened(0), *pushes(0, 1, 2, 3, 4, 5)],
    "shard-1": [opened(1), *pushes(1, 0, 2, 3, 5, 4)],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory of two shards, without journals."""
    (tmp_path / CONFIG).write_text(Config.of({"cluster.shards": 2}).to_toml())
    return tmp_path


def write(run: Path, journals: Journals) -> Path:
    for actor, records in journals.items():
        writer = JournalWriter(run / JOURNAL / f"{actor}.journal", "run", actor)
        writer.write(records)
        writer.close()
    return run


def test_a_whole_run_is_exactly_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, WHOLE)
    assert cli.run(["verify", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "shard 1: 6 of 6 leases applied, 50 examples, 0 missing, 0 twice" in printed
    assert printed.endswith("exactly once: every example of 2 epochs was applied once on 2 shards\n")


def test_examples_that_could_not_be_read_are_counted_and_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lease 4 came back after it was finished: what it skipped counts once."""
    again = [LeaseReturned(2.5, 4, 0), LeaseFinished(2.6, 0, 4, 1, 10, 0.5, 0, 3)]
    skipping = [LeaseFinished(2.0, 0, 4, 0, 10, 0.5, 0, 3), *again, LeaseFinished(2.7, 0, 5, 0, 5, 0.5, 0, 1)]
    records = [*ledger(range(6), range(4)), *skipping, LedgerStopped(3.0, "completed")]
    write(run, WHOLE | {"ledger": records})
    assert cli.run(["verify", str(run)]) == 0
    assert capsys.readouterr().out.endswith("applied once on 2 shards, but 4 unreadable examples, skipped\n")
    assert cli.run(["verify", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 4


def test_what_was_retried_is_counted_and_does_no_harm(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again: list[Record] = [push(4, 6, Outcome.DUPLICATE), ExchangeRefused(2.0, 0, 9, 4, Refusal.FUTURE)]
    regrant: list[Record] = [LeaseReturned(2.0, 4, 0), LeaseGranted(2.0, 1, 2, 4, 1, 300.0)]
    write(run, WHOLE | {"shard-0": [*WHOLE["shard-0"], *again], "ledger": [*WHOLE["ledger"], *regrant]})
    assert cli.run(["verify", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exactly_once"] is True
    assert found["ledger"] == {"granted": 7, "granted_again": 1, "returned": 1, "finished": 5, "reopened": 1}
    first = found["shards"][0]
    assert (first["duplicates_ignored"], first["refused"], first["twice"], first["missing"]) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("journals", "problem"),
    [
        ({"shard-0": [opened(0), *pushes(0, 1, 2, 3, 4, 5, 4)]}, "shard 0: applied more than once: lease 4"),
        ({"shard-0": [opened(0), *pushes(0, 1, 2, 3, 4)]}, "shard 0: called finished but not on it: lease 5"),
        ({"shard-1": [opened(1), *pushes(0, 1, 2)]}, "shard 1: called finished but not on it: lease 3, 4, 5"),
        ({"shard-0": [opened(0), *pushes(0, 1, 2, 3, 4), push(5, 7)]}, "shard 0: version 7 follows 5"),
        ({"shard-0": [opened(0), *pushes(0, 1, 2, 3, 4), push(5, 6, samples=4)]}, "with 4 examples, it has 5"),
        ({"shard-0": [opened(0), *pushes(0, 1, 2, 3, 4, 5), push(6, 7, samples=9)]}, "lease 6 was applied, the plan"),
        ({"shard-0": pushes(0, 1, 2, 3, 4, 5)}, "shard 0: its journal has no opening record"),
        (
            {"shard-0": [opened(0), *pushes(0, 1), opened(0, version=4)]},
            "opened at version 4 after 2",
        ),
        (
            {"ledger": ledger(range(6), range(5), "completed"), "shard-0": [opened(0), *pushes(0, 1, 2, 3, 4)]},
            "the ledger said completed, but only 5 leases are on every shard",
        ),
    ],
)
def test_what_is_lost_or_counted_twice_is_named(run: Path, journals: Journals, problem: str) -> None:
    found = verify(write(run, WHOLE | journals))
    assert found.verdict == "broken"
    assert any(problem in line for line in found.problems), found.problems


def test_rounds_count_each_of_their_leases_and_staged_gradients_count_nothing(run: Path) -> None:
    def rounds(*leases: tuple[int, ...]) -> list[Record]:
        counts = [sum(PLAN.lease(lease, 0, 0.0).count for lease in each) for each in leases]
        applied = zip(leases, counts, range(1, 9), strict=False)
        return [RoundApplied(2.0, each, (0,) * len(each), count, 3, False, 0.1, v) for each, count, v in applied]

    staged, late = push(1, 0, Outcome.STAGED), push(1, 1, Outcome.DISCARDED)
    whole = WHOLE | {
        "shard-0": [opened(0), staged, *rounds((0, 1, 2), (3, 4, 5))],
        "shard-1": [opened(1), staged, late, *rounds((0, 1, 2), (3, 4, 5))],
    }
    found = verify(write(run, whole))
    assert found.verdict == "exactly once", found.problems
    assert [(s.applied, s.examples, s.discarded) for s in found.shards] == [(6, 50, 0), (6, 50, 1)]


def test_a_lease_in_two_rounds_was_applied_twice(run: Path) -> None:
    twice = (
        RoundApplied(2.0, (0, 1), (0, 0), 20, 2, False, 0.1, 1),
        RoundApplied(2.0, (1, 2), (0, 0), 15, 2, False, 0.1, 2),
    )
    found = verify(write(run, WHOLE | {"shard-0": [opened(0), *twice]}))
    assert found.verdict == "broken"
    assert any("applied more than once: lease 1" in line for line in found.problems)


def test_a_run_that_ended_early_is_neither_whole_nor_broken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early: Journals = {
        "ledger": ledger(range(5), range(3), "signal"),
        "shard-0": [opened(0), *pushes(0, 1, 2, 3)],
        "shard-1": [opened(1), *pushes(0, 2, 1)],
    }
    assert cli.run(["verify", str(write(run, early))]) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "ended early (stopped by signal): 3 of 6 leases are on every shard, each once; 1 are on some shards only; "
        "nothing was counted twice"
    )


def test_a_restore_takes_back_what_came_after_its_snapshot(run: Path) -> None:
    restored = [opened(0), *pushes(0, 1, 2, 3), opened(0, version=2), push(3, 3), push(2, 4), push(4, 5), push(5, 6)]
    found = verify(write(run, WHOLE | {"shard-0": restored}))
    assert found.verdict == "exactly once"
    assert found.shards[0].undone == 2


@pytest.mark.parametrize(("version", "verdict"), [(3, "exactly once"), (2, "broken")])
def test_a_standby_goes_on_with_all_that_its_shard_had(run: Path, version: int, verdict: str) -> None:
    first, *rest = WHOLE["shard-0"]
    heir = replace(opened(0, version), incarnation=1, promoted=True)
    write(run, WHOLE | {"shard-0": [first, *rest[:3], heir, *rest[version:]]})
    found = verify(run)
    assert found.verdict == verdict
    if verdict == "broken":
        assert "shard 0: its standby went on at version 2 after 3: not the same" in found.problems


def test_missing_journals_are_one_clear_line(run: Path) -> None:
    write(run, {actor: records for actor, records in WHOLE.items() if actor != "shard-1"})
    with pytest.raises(RunFailed, match=r"shard-1\.journal: got no such journal, expected one"):
        verify(run)


def test_a_ledger_that_never_began_is_one_clear_line(run: Path) -> None:
    with pytest.raises(RunFailed, match="no opening record"):
        verify(write(run, WHOLE | {"ledger": []}))


def test_a_damaged_journal_is_one_clear_line(run: Path) -> None:
    path = write(run, WHOLE) / JOURNAL / "shard-0.journal"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalDamaged, match=r"shard-0\.journal: record at byte \d+ does not match its checksum"):
        verify(run)


def test_a_torn_tail_is_seen_as_what_is_missing(run: Path) -> None:
    path = write(run, WHOLE) / JOURNAL / "shard-1.journal"
    path.write_bytes(path.read_bytes()[:-1])
    assert "shard 1: called finished but not on it: lease 4" in verify(run).problems


def test_no_run_directory_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a run directory"):
        verify(tmp_path)


def test_a_shard_that_came_back_counts_what_it_has_and_what_was_undone(run: Path) -> None:
    shard = [*WHOLE["shard-0"], opened(0, 4), push(5, 5), push(4, 6)]
    lost = [LeaseReturned(4.0, lease, 0) for lease in (4, 5)]
    once_more = [LeaseFinished(5.0, 0, lease, 1, 10, 0.5, 0, 0) for lease in (4, 5)]
    found = verify(write(run, WHOLE | {"shard-0": shard, "ledger": [*WHOLE["ledger"], *lost, *once_more]}))
    assert found.verdict == "exactly once"
    assert (found.shards[0].undone, found.ledger.reopened, found.ledger.finished) == (2, 2, 6)


def test_a_run_that_was_taken_up_did_not_stop_before(run: Path) -> None:
    resumed = LedgerOpened(4.0, 3, 2, 25, 10, 2, 3, resumed=True)
    records = [*ledger(range(3), (), "signal"), resumed]
    stopped: Journals = {"ledger": records, "shard-0": [opened(0)], "shard-1": [opened(1)]}
    assert verify(write(run, stopped)).stopped_by == ""
