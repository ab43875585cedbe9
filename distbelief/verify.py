"""Verify: was every example of every epoch applied exactly once on every shard? From the journals alone.

    exactly once   every lease of the plan is on every shard, once                                         exit code 0
    broken         a lease counted twice, or one that was called finished is missing, or records are lost  exit code 1
                   (so too where a journal lost its end, and with it what was applied)
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
        skipped: Examples of finished leases that could not be read: their leases were applied without them.
        cut: Shards that there were, at first and each time after the parameters were cut anew.
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
    skipped: int = 0
    cut: tuple[int, ...] = ()


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
    rundir.config_of(run)  # that it is a run directory
    ledger.read(_journal(folder, "ledger"))
    if ledger.plan is None:
        raise RunFailed(f"{folder / 'ledger.journal'}: got no opening record, expected one: the run never began")
    readers = [_Shard(ledger.plan, shard) for shard in range(max(ledger.shards))]
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
    """`shards`: how many there were at first, and each time after the parameters had been cut anew."""

    plan: LeasePlan | None = None
    shards: list[int] = field(default_factory=list)
    count: LedgerCount = field(default_factory=LedgerCount)
    finished: IntervalSet = field(default_factory=IntervalSet)
    skipped: Counter[int] = field(default_factory=Counter)  # by lease that is finished
    stopped_by: str = ""

    def read(self, records: Iterable[Record]) -> None:
        for record in records:
            match record:
                case LedgerOpened():
                    if record.resumed:
                        self.stopped_by = ""
                    if record.cut == len(self.shards):
                        self.shards.append(record.shards)
                    self.plan = LeasePlan(
                        record.examples, record.batch_size, record.epochs, record.seed, record.batches
                    )
                case LeaseGranted():
                    self.count.granted += 1
                    self.count.granted_again += record.attempt > 0
                case LeaseReturned():
                    self.count.returned += 1
                    self.skipped.pop(record.lease, None)
                    if self.finished.discard(record.lease):
                        self.count.reopened += 1
                case LeaseFinished():
                    self.finished.add(record.lease)
                    if record.skipped:
                        self.skipped[record.lease] = record.skipped
                case LedgerStopped():
                    self.stopped_by = record.reason
        self.count.finished = len(self.finished)


@dataclass(slots=True)
class _Piece:
    """A shard's journal between two times that the parameters were cut anew.

    Attributes:
        begun: The version that the shard had at its beginning.
        applied: By version: applied[v - 1 - begun] made version v.
    """

    begun: int
    applied: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def version(self) -> int:
        return self.begun + len(self.applied)


@dataclass(slots=True)
class _Shard:
    plan: LeasePlan
    shard: int
    pieces: dict[int, _Piece] = field(default_factory=dict)  # by how often the parameters were cut before
    cut: int | None = None  # the newest piece; None before the first
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

    def problem(self, text: str) -> None:
        self.problems.append(f"shard {self.shard}: {text}")

    def _open(self, record: ShardOpened) -> None:
        self.cut = record.cut
        piece = self.pieces.setdefault(record.cut, _Piece(record.version if record.cut else 0))
        if record.promoted and record.version != piece.version:
            self.problem(f"its standby went on at version {record.version} after {piece.version}: not the same")
        elif record.version > piece.version:
            self.problem(f"it opened at version {record.version} after {piece.version}: records are lost")
        kept = max(0, record.version - piece.begun)
        self.undone += sum(map(len, piece.applied[kept:]))
        del piece.applied[kept:]

    def _apply(self, leases: tuple[int, ...], samples: int, version: int) -> None:
        """These leases, with so many examples, made this version."""
        piece = self.pieces.setdefault(self.cut or 0, _Piece(0))
        piece.applied.append(leases)
        if version != piece.version:
            self.problem(f"version {version} follows {piece.version - 1}: records are lost or out of order")
        named = _some("lease", list(leases))
        if max(leases) >= self.plan.leases:
            self.problem(f"{named} was applied, the plan has {self.plan.leases}")
        elif samples != (count := sum(self.plan.count(lease) for lease in leases)):
            self.problem(f"{named} was applied with {samples} examples, it has {count}")

    def leases(self, cut: int) -> list[int]:
        """What it applied in one of the pieces, and did not lose again."""
        piece = self.pieces.get(cut)
        return [] if piece is None else list(chain.from_iterable(piece.applied))

    def count(self, leases: Counter[int]) -> ShardCount:
        """`leases`: how often each was applied, here or to the shards that this one was cut from."""
        held = [lease for lease in leases if lease < self.plan.leases]
        examples = sum(self.plan.count(lease) for lease in held)
        twice = leases.total() - len(leases)
        if twice:
            again = sorted(lease for lease, count in leases.items() if count > 1)
            self.problem(f"applied more than once: {_some('lease', again)}")
        return ShardCount(
            self.shard, len(held), examples, self.plan.leases - len(held), twice, self.duplicates, self.discarded,
            self.refused, self.undone,
        )  # fmt: skip


def _verdict(ledger: _Ledger, plan: LeasePlan, readers: list[_Shard]) -> Verification:
    for reader in readers[: ledger.shards[0]]:
        if reader.cut is None:
            reader.problem("its journal has no opening record")
    there: Counter[int] = Counter()  # on every shard, when the parameters were cut anew
    for cut, shards in enumerate(ledger.shards[:-1]):
        sets = [Counter(reader.leases(cut)) for reader in readers[:shards]]
        for reader, leases in zip(readers, sets, strict=False):
            if leases.keys() != sets[0].keys():
                reader.problem(
                    f"not at rest when it was cut anew: {_some('lease', sorted(leases.keys() ^ sets[0].keys()))}"
                )
        there += sets[0]
    last = readers[: ledger.shards[-1]]
    all_of = [there + Counter(reader.leases(len(ledger.shards) - 1)) for reader in last]
    counts = tuple(reader.count(leases) for reader, leases in zip(last, all_of, strict=True))
    problems = [problem for reader in readers for problem in reader.problems]
    held = [{lease for lease in leases if lease < plan.leases} for leases in all_of]
    everywhere, somewhere = set.intersection(*held), set.union(*held)
    for reader, on_it in zip(last, held, strict=True):
        lacking = [lease for lease in _members(ledger.finished) if lease not in on_it]
        if lacking:
            problems.append(f"shard {reader.shard}: called finished but not on it: {_some('lease', lacking)}")
    whole = len(everywhere) == plan.leases
    if not whole and ledger.stopped_by == "completed":
        problems.append(f"the ledger said completed, but only {len(everywhere)} leases are on every shard")
    verdict = BROKEN if problems else EXACTLY_ONCE if whole else ENDED_EARLY
    return Verification(
        verdict, ledger.stopped_by, plan.epochs, plan.leases, len(everywhere), len(somewhere - everywhere), counts,
        ledger.count, tuple(problems), skipped=ledger.skipped.total(), cut=tuple(ledger.shards),
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
    if len(found.cut) > 1:
        lines.append(
            f"cut anew at rest, each time with the same leases on all: {' -> '.join(map(str, found.cut))} shards"
        )
    if found.faults:
        lines.append("planned faults that fired: " + ", ".join(f"{n:,} {do}" for do, n in sorted(found.faults.items())))
    lines += found.problems[:SHOWN]
    if len(found.problems) > SHOWN:
        lines.append(f"... and {len(found.problems) - SHOWN:,} more problems; --json has them all")
    return [*lines, _verdict_line(found)]


def _verdict_line(found: Verification) -> str:
    if found.verdict == BROKEN:
        return "BROKEN: examples were lost or counted twice, or a journal's end was lost, as said above"
    skipped = f", but {_number(found.skipped, 'unreadable example')}, skipped" if found.skipped else ""
    if found.verdict == EXACTLY_ONCE:
        return (
            f"exactly once: every example of {_number(found.epochs, 'epoch')} was applied once "
            f"on {_number(len(found.shards), 'shard')}{skipped}"
        )
    why = f"stopped by {found.stopped_by}" if found.stopped_by else "never stopped: killed, or still going on"
    return (
        f"ended early ({why}): {found.everywhere:,} of {found.leases:,} leases are on every shard, each once; "
        f"{found.torn:,} are on some shards only; nothing was counted twice{skipped}"
    )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shard_line(count: ShardCount, leases: int) -> str:
    return (
        f"shard {count.shard}: {count.applied:,} of {leases:,} leases applied, {count.examples:,} examples, "
        f"{count.missing:,} missing, {count.twice:,} twice, {count.duplicates_ignored:,} duplicates ignored, "
        f"{count.discarded:,} discarded, {count.refused:,} refused, {count.undone:,} undone by a restore"
    )
