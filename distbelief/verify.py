"""Verify: was every example of every epoch applied exactly once on every shard? From the journals alone.

    exactly once   every lease of the plan is on every shard, once                                         exit code 0
    broken         a lease counted twice, or one that was called finished is missing, or records are lost  exit code 1
    ended early    nothing of that kind, but the run stopped before its last lease (signal, time, target)  exit code 3

A run that ended early is judged on what it granted: each granted lease is on every shard once, or is listed as missing.
It did not do what exit code 0 says, every example of every epoch, so it does not get it; and it has a code of its own,
since nothing is wrong with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

import click

from distbelief import rundir
from ps.errors import JournalDamaged, RunFailed
from ps.intervals import IntervalSet
from ps.journal import (
    ExchangeRefused,
    FaultFired,
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
from ps.messages import Outcome
from ps.wire.files import journals, read_journal

EXACTLY_ONCE, BROKEN, ENDED_EARLY = "exactly once", "broken", "ended early"
EXIT_CODES = {EXACTLY_ONCE: 0, BROKEN: 1, ENDED_EARLY: 3}
SHOWN = 5  # problems, and leases in one of them


@dataclass(slots=True)
class ShardCount:
    """What one shard's journal says.

    Attributes:
        applied: Leases on the shard at the end.
        examples: In them, counted once per epoch.
        missing: Leases of the plan that are not on it.
        twice: Applications of a lease that was on it already.
        duplicates_ignored: Pushes of such a lease that changed nothing.
        discarded: Pushes that were not applied for another reason of the run's mode.
        refused: Exchanges refused before the first write.
        undone: Applications that a restore from a snapshot took back.
    """

    shard: int
    applied: int = 0
    examples: int = 0
    missing: int = 0
    twice: int = 0
    duplicates_ignored: int = 0
    discarded: int = 0
    refused: int = 0
    undone: int = 0


@dataclass(slots=True)
class LedgerCount:
    """What the ledger's journal says: grants in all, grants of leases that had been granted before, leases that came
    back, leases called finished; of those that came back, finished ones that a shard had lost.
    """

    granted: int = 0
    granted_again: int = 0
    returned: int = 0
    finished: int = 0
    reopened: int = 0


@dataclass(frozen=True, slots=True)
class Verification:
    """What the journals of a run come to.

    Attributes:
        verdict: EXACTLY_ONCE, BROKEN or ENDED_EARLY.
        stopped_by: One of ledger.Ending, or "" if the ledger never stopped.
        leases: In the plan. `everywhere`: on every shard. `torn`: on some shards, but not on all.
        problems: One line each, for a person.
        faults: Planned ones that fired, by kind.
    """

    verdict: str
    stopped_by: str
    epochs: int
    leases: int
    everywhere: int
    torn: int
    shards: tuple[ShardCount, ...]
    ledger: LedgerCount
    problems: tuple[str, ...]
    faults: dict[str, int] = field(default_factory=dict)


def verify_command(run: Path, as_json: bool) -> int:
    """`distbelief verify`: print the counts and the verdict; return the exit code. Raises BadInput, RunFailed."""
    found = verify(run)
    if as_json:
        click.echo(json.dumps({"exactly_once": found.verdict == EXACTLY_ONCE, **asdict(found)}))
    else:
        click.echo("\n".join(_lines(found)))
    return EXIT_CODES[found.verdict]


def verify(run: Path) -> Verification:
    """Read a run's journals and count.

    Raises:
        BadInput: Not a run directory.
        RunFailed: A journal is missing, or says nothing.
        JournalDamaged: One is damaged before its end.
    """
    folder = run / rundir.JOURNAL
    ledger = _Ledger()
    shards = rundir.config_of(run).cluster.shards
    ledger.read(_journal(folder, "ledger"))
    if ledger.plan is None:
        raise RunFailed(f"{folder / 'ledger.journal'}: got no opening record, expected one: the run never began")
    readers = [_Shard(ledger.plan, shard) for shard in range(shards)]
    for shard, reader in enumerate(readers):
        reader.read(_journal(folder, f"shard-{shard}"))
    return replace(_verdict(ledger, ledger.plan, readers), faults=_faults(folder))


def _faults(folder: Path) -> dict[str, int]:
    """What the journals say of planned faults. One of a worker host that is damaged has no say in the verdict."""
    fired: Counter[str] = Counter()
    for path in journals(folder):
        with suppress(JournalDamaged):
            fired.update(record.do for record in read_journal(path) if isinstance(record, FaultFired))
    return dict(sorted(fired.items()))


def _journal(folder: Path, actor: str) -> Iterable[Record]:
    path = folder / f"{actor}.journal"
    if not path.is_file():
        raise RunFailed(f"{path}: got no such journal, expected one for the ledger and for each shard")
    return read_journal(path)


@dataclass(slots=True)
class _Ledger:
    plan: LeasePlan | None = None
    count: LedgerCount = field(default_factory=LedgerCount)
    finished: IntervalSet = field(default_factory=IntervalSet)
    stopped_by: str = ""

    def read(self, records: Iterable[Record]) -> None:
        for record in records:
            match record:
                case LedgerOpened():
                    if record.resumed:
                        self.stopped_by = ""
                    self.plan = LeasePlan(
                        record.examples, record.batch_size, record.epochs, record.seed, record.batches
                    )
                case LeaseGranted():
                    self.count.granted += 1
                    self.count.granted_again += record.attempt > 0
                case LeaseReturned():
                    self.count.returned += 1
                    if self.finished.discard(record.lease):
                        self.count.reopened += 1
                case LeaseFinished():
                    self.finished.add(record.lease)
                case LedgerStopped():
                    self.stopped_by = record.reason
        self.count.finished = len(self.finished)


@dataclass(slots=True)
class _Shard:
    plan: LeasePlan
    shard: int
    opened: bool = False
    applied: list[tuple[int, ...]] = field(default_factory=list)  # by version: applied[v - 1] made version v
    duplicates: int = 0
    discarded: int = 0
    refused: int = 0
    undone: int = 0
    problems: list[str] = field(default_factory=list)

    def read(self, records: Iterable[Record]) -> None:
        for record in records:
            match record:
                case ShardOpened():
                    self._open(record)
                case PushHandled(outcome=Outcome.APPLIED):
                    self._apply((record.lease,), record.samples, record.version)
                case RoundApplied():
                    self._apply(record.leases, record.samples, record.version)
                case PushHandled(outcome=Outcome.DUPLICATE):
                    self.duplicates += 1
                case PushHandled(outcome=Outcome.DISCARDED):
                    self.discarded += 1
                case ExchangeRefused():
                    self.refused += 1
        if not self.opened:
            self._problem("its journal has no opening record")

    def _problem(self, text: str) -> None:
        self.problems.append(f"shard {self.shard}: {text}")

    def _open(self, record: ShardOpened) -> None:
        self.opened = True
        if record.version > len(self.applied):
            self._problem(f"it opened at version {record.version} after {len(self.applied)}: records are lost")
        self.undone += sum(map(len, self.applied[record.version :]))
        del self.applied[record.version :]

    def _apply(self, leases: tuple[int, ...], samples: int, version: int) -> None:
        """These leases, with so many examples, made this version."""
        self.applied.append(leases)
        if version != len(self.applied):
            self._problem(f"version {version} follows {len(self.applied) - 1}: records are lost or out of order")
        named = _some("lease", list(leases))
        if max(leases) >= self.plan.leases:
            self._problem(f"{named} was applied, the plan has {self.plan.leases}")
        elif samples != (count := sum(self.plan.lease(lease, 0, 0.0).count for lease in leases)):
            self._problem(f"{named} was applied with {samples} examples, it has {count}")

    def held(self) -> set[int]:
        return {lease for lease in self._leases() if lease < self.plan.leases}

    def _leases(self) -> Iterable[int]:
        return chain.from_iterable(self.applied)

    def count(self) -> ShardCount:
        held = self.held()
        examples = sum(self.plan.lease(lease, 0, 0.0).count for lease in held)
        times = Counter(self._leases())
        twice = times.total() - len(times)
        if twice:
            again = sorted(lease for lease, count in times.items() if count > 1)
            self._problem(f"applied more than once: {_some('lease', again)}")
        return ShardCount(
            self.shard, len(held), examples, self.plan.leases - len(held), twice, self.duplicates, self.discarded,
            self.refused, self.undone,
        )  # fmt: skip


def _verdict(ledger: _Ledger, plan: LeasePlan, readers: list[_Shard]) -> Verification:
    counts = tuple(reader.count() for reader in readers)
    problems = [problem for reader in readers for problem in reader.problems]
    sets = [reader.held() for reader in readers]
    everywhere, somewhere = set.intersection(*sets), set.union(*sets)
    for reader, held in zip(readers, sets, strict=True):
        lacking = [lease for lease in _members(ledger.finished) if lease not in held]
        if lacking:
            problems.append(f"shard {reader.shard}: called finished but not on it: {_some('lease', lacking)}")
    whole = len(everywhere) == plan.leases
    if not whole and ledger.stopped_by == "completed":
        problems.append(f"the ledger said completed, but only {len(everywhere)} leases are on every shard")
    verdict = BROKEN if problems else EXACTLY_ONCE if whole else ENDED_EARLY
    return Verification(
        verdict, ledger.stopped_by, plan.epochs, plan.leases, len(everywhere), len(somewhere - everywhere), counts,
        ledger.count, tuple(problems),
    )  # fmt: skip


def _members(leases: IntervalSet) -> Iterable[int]:
    return (lease for interval in leases.intervals() for lease in range(*interval))


def _some(what: str, values: list[int]) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return f"{what} {', '.join(map(str, values[:SHOWN]))}{more}"


# --- for a person -----------------------------------------------------------------------------------------------------


def _lines(found: Verification) -> list[str]:
    lines = [_shard_line(count, found.leases) for count in found.shards]
    ledger = found.ledger
    lines.append(
        f"ledger: {ledger.granted:,} grants, {ledger.granted_again:,} of them again, "
        f"{ledger.returned:,} leases came back, {ledger.reopened:,} of them because a shard had lost them, "
        f"{ledger.finished:,} finished"
    )
    if found.faults:
        lines.append("planned faults that fired: " + ", ".join(f"{n:,} {do}" for do, n in sorted(found.faults.items())))
    lines += found.problems[:SHOWN]
    if len(found.problems) > SHOWN:
        lines.append(f"... and {len(found.problems) - SHOWN:,} more problems; --json has them all")
    return [*lines, _verdict_line(found)]


def _verdict_line(found: Verification) -> str:
    if found.verdict == BROKEN:
        return "BROKEN: examples were lost or counted twice, as said above"
    if found.verdict == EXACTLY_ONCE:
        return (
            f"exactly once: every example of {_number(found.epochs, 'epoch')} was applied once "
            f"on {_number(len(found.shards), 'shard')}"
        )
    why = f"stopped by {found.stopped_by}" if found.stopped_by else "never stopped: killed, or still going on"
    return (
        f"ended early ({why}): {found.everywhere:,} of {found.leases:,} leases are on every shard, each once; "
        f"{found.torn:,} are on some shards only; nothing was counted twice"
    )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shard_line(count: ShardCount, leases: int) -> str:
    return (
        f"shard {count.shard}: {count.applied:,} of {leases:,} leases applied, {count.examples:,} examples, "
        f"{count.missing:,} missing, {count.twice:,} twice, {count.duplicates_ignored:,} duplicates ignored, "
        f"{count.discarded:,} discarded, {count.refused:,} refused, {count.undone:,} undone by a restore"
    )
