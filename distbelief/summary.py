"""Summary: what a run came to, from its journals. Nothing in it is estimated; what was not measured is null."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distbelief.conservation import Conservation
from distbelief.finite import without_nan
from distbelief.histogram import mean, percentile
from distbelief.rundir import JOURNAL, SUMMARY
from ps.journal import (
    FaultFired,
    LeaseDiscarded,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    PushHandled,
    RoundApplied,
    SampleSkipped,
    ShardOpened,
    WorkerTimed,
)
from ps.leases import LeasePlan
from ps.messages import Outcome
from ps.wire.files import journal_digest, journals, read_journal, write_whole
from workers.evaluation import Evaluation

Measures = Callable[[float], dict[str, Any]]
Piece = tuple[
    str, int
]  # a shard's journal between two times that the parameters were cut anew: actor, how often before


@dataclass(frozen=True, slots=True)
class _Applied:
    """What made one version of a shard: when, of which leases, how stale each was."""

    now: float
    leases: tuple[int, ...]
    staleness: tuple[int, ...]


@dataclass(slots=True)
class Account:
    """What the journals of a run say, added up, without what a shard applied and lost again. Times in seconds, on the
    clock that the journals were written by.
    """

    history: dict[Piece, list[_Applied]] = field(default_factory=dict)  # by version, from `begun` on
    begun: dict[Piece, int] = field(default_factory=dict)
    cuts: Counter[str] = field(default_factory=Counter)  # per shard, the newest
    whole: bool = True  # each shard's journal begins at its beginning, and goes on from what it has
    finished: set[int] = field(default_factory=set)
    duplicates: int = 0
    skipped_versions: int = 0
    grants: int = 0
    reissued: int = 0
    discarded: int = 0
    granted: set[int] = field(default_factory=set)
    resumed: list[float] = field(default_factory=list)  # when the run was taken up again
    losses: list[tuple[float, int]] = field(default_factory=list)
    skipped: dict[int, int] = field(default_factory=dict)  # lease to its unreadable examples
    seconds: Counter[str] = field(default_factory=Counter)
    conservation: Conservation = field(default_factory=Conservation)
    faults: Counter[str] = field(default_factory=Counter)  # planned ones that fired, by kind

    @classmethod
    def of(cls, folder: Path) -> Account:
        """Read a run's journals. Raises JournalDamaged if one is."""
        account = cls()
        for path in journals(folder):  # by name: worker hosts before shards
            shard = int(path.stem.removeprefix("shard-")) if path.stem.startswith("shard-") else -1
            for record in read_journal(path):
                account._add(path.stem, record)
                account.conservation.add(shard, record)
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
                self._applied(actor, _Applied(record.now, (record.lease,), (record.staleness,)))
            case RoundApplied():
                self._applied(actor, _Applied(record.now, record.leases, record.staleness))
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
                self.finished.add(record.lease)
                self.losses.append((record.loss, record.samples - record.skipped))
                self.skipped[record.lease] = record.skipped
            case LeaseReturned():
                self.finished.discard(record.lease)
            case FaultFired():
                self.faults[record.do] += 1
            case WorkerTimed():
                for name in ("lease", "turn", "decode", "compute", "exchange"):
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

    def training_seconds(self, updates: list[float]) -> float:
        """From the first of these updates to the last, without the times in which the run was down."""
        times = sorted(updates)
        down = set()
        for at in self.resumed:
            later = bisect_left(times, at)
            if 0 < later < len(times):
                down.add((times[later - 1], times[later]))
        return times[-1] - times[0] - sum(end - start for start, end in down) if times else 0.0

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
        return self.whole and all(name in held and self.finished <= held[name] for name in names)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is not in the journals: how the run ended, and what its weights are worth.

    Attributes:
        started: When the process began, seconds on the journals' clock.
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
        facts: Workers, shards, model, parameters, seed.
        measures: What else is known, given the mean staleness.
    """
    account = Account.of(folder / JOURNAL)
    done = account.everywhere(facts["shards"], plan.leases)
    samples = sum(plan.count(id) for id in done)
    updated = account.updated
    updates = [updated[id] for id in done]
    training = account.training_seconds(updates)
    summary: dict[str, Any] = {
        **facts,
        "updates": len(done),
        "samples": samples,
        "epochs": samples / plan.examples,
        "seconds": round(outcomes.ended - outcomes.started, 3),
        "first_update_seconds": round(min(updates) - outcomes.started, 3) if updates else None,
        "images_per_second": round(samples / training, 2) if training > 0 else 0.0,
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
        "skipped_examples": sum(account.skipped.values()),
        "skipped_average_versions": account.skipped_versions,
        "faults": dict(sorted(account.faults.items())),
        "train_loss": _last_epoch(account.losses, plan.leases_per_epoch),
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


def _staleness(histogram: Counter[int]) -> dict[str, Any]:
    return {
        "mean": round(mean(histogram), 4) if histogram else 0.0,
        "p50": percentile(histogram, 0.5) if histogram else 0,
        "p95": percentile(histogram, 0.95) if histogram else 0,
        "max": max(histogram, default=0),
        "histogram": {str(value): histogram[value] for value in sorted(histogram)},
    }


def _last_epoch(losses: list[tuple[float, int]], leases_per_epoch: int) -> float | None:
    """Mean main loss per example over the last epoch's worth of leases whose loss is known and which had examples."""
    known = [(loss, count) for loss, count in losses if math.isfinite(loss) and count][-leases_per_epoch:]
    return sum(loss * count for loss, count in known) / sum(count for _, count in known) if known else None


def _evaluation(evaluation: Evaluation | None, sha256: str) -> dict[str, Any]:
    if evaluation is None:
        return {"top1_error": None, "top5_error": None, "loss": None, "examples": 0, "skipped": 0, "sha256": sha256}
    return {**asdict(evaluation), "sha256": sha256}
