"""Summary: what a run came to, from its journals. Nothing in it is estimated; what was not measured is null."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from distbelief.conservation import Conservation
from distbelief.finite import without_nan
from distbelief.histogram import mean, percentile
from distbelief.interrupts import AT_ONCE
from distbelief.rundir import JOURNAL, SUMMARY
from distbelief.timing import PARTS
from ps.errors import RunFailed
from ps.journal import (
    FaultFired,
    LeaseDiscarded,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    PushHandled,
    Record,
    RoundApplied,
    SampleSkipped,
    ShardOpened,
    WorkerTimed,
)
from ps.leases import LeasePlan
from ps.ledger import Ending
from ps.messages import Outcome
from ps.wire.files import journal_digest, journals, read_journal, write_whole
from workers.evaluation import Evaluation

Measures = Callable[[float], dict[str, Any]]
Look = Callable[[str, Record], None]
Piece = tuple[
    str, int
]  # a shard's journal between two times that the parameters were cut anew: actor, how often before
VIRTUAL_START = 0.0  # when every simulated run begins, and no live one
NOBODY = -1  # in the place of a worker that no record names


@dataclass(frozen=True, slots=True)
class _Applied:
    """What made one version of a shard: when, of which leases, how stale each was, and whose."""

    now: float
    leases: tuple[int, ...]
    staleness: tuple[int, ...]
    workers: tuple[int, ...]


@dataclass(slots=True)
class Account:
    """What the journals of a run say, added up, without what a shard applied and lost again. Times in seconds, on the
    clock that the journals were written by.
    """

    staged: dict[tuple[str, int], int] = field(default_factory=dict)  # actor, lease: whose, until its round
    history: dict[Piece, list[_Applied]] = field(default_factory=dict)  # by version, from `begun` on
    begun: dict[Piece, int] = field(default_factory=dict)
    cuts: Counter[str] = field(default_factory=Counter)  # per shard, the newest
    whole: bool = True  # each shard's journal begins at its beginning, and goes on from what it has
    finished: dict[int, LeaseFinished] = field(default_factory=dict)  # by lease, in the order of the ledger
    duplicates: int = 0
    skipped_versions: int = 0
    grants: int = 0
    reissued: int = 0
    discarded: int = 0
    granted: set[int] = field(default_factory=set)
    resumed: list[float] = field(default_factory=list)  # when the run was taken up again
    seconds: Counter[str] = field(default_factory=Counter)
    conservation: Conservation = field(default_factory=Conservation)
    faults: Counter[str] = field(default_factory=Counter)  # planned ones that fired, by kind

    @classmethod
    def of(cls, folder: Path, look: Look = lambda _actor, _record: None, pulls: int = 1) -> Account:
        """Read a run's journals. Raises JournalDamaged if one is.

        Args:
            look: Told of every record, and whose journal it is from.
            pulls: As of Conservation.
        """
        account = cls(conservation=Conservation(pulls))
        for path in journals(folder):  # by name: worker hosts before shards
            shard = int(path.stem.removeprefix("shard-")) if path.stem.startswith("shard-") else -1
            for record in read_journal(path):
                account._add(path.stem, record)
                account.conservation.add(shard, record)
                look(path.stem, record)
        return account

    def _add(self, actor: str, record: object) -> None:
        match record:
            case ShardOpened():
                piece = actor, record.cut
                self.cuts[actor] = record.cut
                made, begun = self.history.setdefault(piece, []), record.version if record.cut else 0
                begun = self.begun.setdefault(piece, begun)
                self.whole &= record.version <= begun + len(made)
                del made[record.version - begun :]
            case PushHandled(outcome=Outcome.APPLIED):
                made_it = _Applied(record.now, (record.lease,), (record.staleness,), (record.worker,))
                self._applied(actor, made_it)
            case PushHandled(outcome=Outcome.STAGED):
                self.staged[actor, record.lease] = record.worker
            case RoundApplied():
                workers = tuple(self.staged.get((actor, lease), NOBODY) for lease in record.leases)
                self._applied(actor, _Applied(record.now, record.leases, record.staleness, workers))
            case PushHandled(outcome=Outcome.DUPLICATE):
                self.duplicates += 1
            case LeaseDiscarded():
                self.discarded += 1
            case SampleSkipped():
                self.skipped_versions += 1
            case LedgerOpened(resumed=True):
                self.resumed.append(record.now)
            case LeaseGranted():
                self.grants += 1
                self.reissued += record.attempt > 0
                self.granted.add(record.lease)
            case LeaseFinished():
                self.finished[record.lease] = record
            case LeaseReturned():
                self.finished.pop(record.lease, None)
            case FaultFired():
                self.faults[record.do] += 1
            case WorkerTimed():
                for name in (*PARTS, "hidden"):
                    self.seconds[name] += getattr(record, f"{name}_seconds")

    def _applied(self, actor: str, made: _Applied) -> None:
        self.history.setdefault((actor, self.cuts[actor]), []).append(made)

    @property
    def applied(self) -> dict[str, set[int]]:
        """Per shard that there is by now, the leases that are on it."""
        held: dict[str, set[int]] = {}
        for now in sorted({cut for _, cut in self.history}):
            there = set.intersection(*held.values()) if held else set()
            held = {
                actor: there | {lease for each in made for lease in each.leases}
                for (actor, cut), made in self.history.items()
                if cut == now
            }
        return held

    @property
    def staleness(self) -> Counter[int]:
        """Over all pairs of a lease and a shard."""
        return Counter(tau for made in self.history.values() for each in made for tau in each.staleness)

    @property
    def updated(self) -> dict[int, float]:
        """Lease to when it was last applied on a shard."""
        latest: dict[int, float] = {}
        for made in self.history.values():
            for each in made:
                for lease in each.leases:
                    latest[lease] = max(latest.get(lease, -math.inf), each.now)
        return latest

    def speed(self, examples: dict[int, int]) -> float:
        """Examples per second from the first update to the last, without the times in which the run was down: what the
        first update was made of was computed before it, and so at every start.

        Args:
            examples: By lease, of those that count.
        """
        updated = self.updated
        times = sorted(updated[lease] for lease in examples)
        firsts = set(times[:1])
        for at in self.resumed:
            firsts.update(times[(later := bisect_left(times, at)) : later + 1])
        seconds = sum(end - start for start, end in pairwise(times) if end not in firsts)
        counted = sum(count for lease, count in examples.items() if updated[lease] not in firsts)
        return counted / seconds if seconds > 0 else 0.0

    def everywhere(self, shards: int, leases: int) -> list[int]:
        """Leases applied on every shard."""
        held = list(self.applied.values())
        return sorted(set.intersection(*held) & set(range(leases))) if len(held) == shards else []

    def replayable(self, shards: int) -> bool:
        """Whether the journals are enough to run it all again: every shard's, from its beginning, with everything in it
        that the ledger knows to be there.
        """
        held = self.applied
        names = [f"shard-{shard}" for shard in range(shards)]
        return self.whole and all(name in held and self.finished.keys() <= held[name] for name in names)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is not in the journals: how the run ended, and what its weights are worth.

    Attributes:
        started: When the run was first asked for, seconds on the journals' clock.
        ended: Now, likewise.
        stopped_by: One of ledger.Ending.
        evaluations: "average" and "latest" to the evaluation (None: there was no time for it) and the file's sha256.
    """

    started: float
    ended: float
    stopped_by: str
    message: str
    evaluations: dict[str, tuple[Evaluation | None, str]]


def summarise(
    folder: Path, plan: LeasePlan, facts: dict[str, Any], outcomes: Outcomes, measures: Measures = lambda _: {}
) -> dict[str, Any]:
    """Add up a run and write its summary.json; return it.

    Args:
        facts: Workers, shards, model, parameters, seed; "gradients": "none" if nothing was learned.
        measures: What else is known, given the mean staleness.
    """
    account = Account.of(folder / JOURNAL, pulls=2 if facts.get("prefetch") else 1)
    done = account.everywhere(facts["shards"], plan.leases)
    examples = {id: plan.count(id) for id in done}
    samples = sum(examples.values())
    updated = account.updated
    learned = facts.get("gradients") != "none"
    first = min((updated[id] for id in done), default=None)
    summary: dict[str, Any] = {
        **facts,
        "updates": len(done),
        "samples": samples,
        "epochs": samples / plan.examples,
        "seconds": round(outcomes.ended - outcomes.started, 3),
        "first_update_seconds": None if first is None else round(first - outcomes.started, 3),
        "images_per_second": round(account.speed(examples), 2),
        "staleness": _staleness(account.staleness),
        "leases": {
            "granted": account.grants,
            "applied": len(done),
            "reissued": account.reissued,
            "duplicates_ignored": account.duplicates,
            "discarded": account.discarded,
            "outstanding": len(account.granted.difference(done)),
        },
        **measures(mean(account.staleness) if account.staleness else 0.0),
        "conservation": account.conservation.verdict(facts.get("program", "gradient") == "gradient"),
        "skipped_examples": sum(each.skipped for each in account.finished.values()),
        "skipped_average_versions": account.skipped_versions,
        "faults": dict(sorted(account.faults.items())),
        "train_loss": _last_epoch(account.finished.values(), plan.leases_per_epoch) if learned else None,
        "worker_seconds": {name: round(seconds, 3) for name, seconds in sorted(account.seconds.items())},
        "evaluation": {name: _evaluation(*found) for name, found in outcomes.evaluations.items()},
        "journal_sha256": journal_digest(folder / JOURNAL),
        "replayable": facts.get("replayable", True) and account.replayable(facts["shards"]),
        "stopped_by": outcomes.stopped_by,
        "message": outcomes.message,
    }
    summary = without_nan(summary)
    write_whole(folder / SUMMARY, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    return summary


def exit_code(summary: Mapping[str, Any]) -> int:
    """Of a command whose run ended like this. Raises RunFailed if it did not end well."""
    if summary["stopped_by"] == Ending.SIGNAL.value:
        return AT_ONCE
    if summary["stopped_by"] in (Ending.DIVERGED.value, Ending.FAILED.value):
        raise RunFailed(str(summary["message"]))
    return 0


def _staleness(histogram: Counter[int]) -> dict[str, Any]:
    return {
        "mean": round(mean(histogram), 4) if histogram else 0.0,
        "p50": percentile(histogram, 0.5) if histogram else 0,
        "p95": percentile(histogram, 0.95) if histogram else 0,
        "max": max(histogram, default=0),
        "histogram": {str(value): histogram[value] for value in sorted(histogram)},
    }


def _last_epoch(finished: Iterable[LeaseFinished], leases_per_epoch: int) -> float | None:
    """Mean main loss per example over the last epoch's worth of leases whose loss is known and which had examples."""
    losses = [(each.loss, each.samples - each.skipped) for each in finished]
    known = [(loss, count) for loss, count in losses if math.isfinite(loss) and count][-leases_per_epoch:]
    return sum(loss * count for loss, count in known) / sum(count for _, count in known) if known else None


def _evaluation(evaluation: Evaluation | None, sha256: str) -> dict[str, Any]:
    if evaluation is None:
        return {"top1_error": None, "top5_error": None, "loss": None, "examples": 0, "skipped": 0, "sha256": sha256}
    return {**asdict(evaluation), "sha256": sha256}
