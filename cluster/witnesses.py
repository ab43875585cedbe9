"""Witnesses: what a run's journals say about one another and about a replay; every disagreement is one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.recording import Attempt, Recording
from ps.journal import PushHandled, Record
from ps.leases import LeasePlan
from ps.messages import Reading
from workers.program import Gradient


@dataclass(frozen=True, slots=True)
class Difference:
    """Where replay and recording part.

    Attributes:
        actor: Whose journal.
        record: Which of its records, from 0; -1 for none.
        what: One line: what was recorded, what came out.
    """

    actor: str
    record: int
    what: str

    def __str__(self) -> str:
        return f"{self.actor}, record {self.record}: {self.what}" if self.record >= 0 else f"{self.actor}: {self.what}"


class CannotGoOn(Exception):  # noqa: N818 -- not a fault of this program
    """The recorded order makes no sense from here on; the difference says where."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


class Witnesses:
    """Asks the other journals about what one of them says."""

    def __init__(self, recording: Recording, plan: LeasePlan) -> None:
        self._recording = recording
        self._plan = plan

    def of_push(self, shard: int, push: PushHandled, read: tuple[Reading, ...], incarnation: int = 0) -> Iterator[str]:
        """What speaks against a push that this shard, in this incarnation, says it applied. `read`: what another shard
        says it read.
        """
        recording = self._recording
        attempt = push.lease, push.attempt
        named = f"lease {push.lease}, attempt {push.attempt}"
        if (granted := recording.grants.get(attempt)) != push.worker:
            to = "nobody" if granted is None else f"worker {granted}"
            yield f"{named}: recorded from worker {push.worker}, the ledger granted it to {to}"
        if read != push.read:
            yield f"{named}: recorded as read at {_versions(push.read)}, another shard says {_versions(read)}"
        count = self._plan.count(push.lease)
        if push.samples != count:
            yield f"{named}: recorded with {push.samples} examples, it has {count}"
        told = recording.exchanges.get((push.worker, push.number, shard))
        if told and (told.outcome is not push.outcome or told.reading.incarnation != incarnation):
            told = None  # it had to ask again, and what it was told is of that
        if told and (told.lease, told.reading.version) != (push.lease, push.version):
            theirs = f"lease {told.lease} made version {told.reading.version}"
            yield f"{named}: recorded as what made version {push.version}, its worker was told that {theirs}"

    def of_gradient(self, attempt: Attempt, gradient: Gradient) -> str | None:
        """What the ledger heard about this gradient, if it was something else."""
        told = self._recording.finished.get(attempt[0])
        if told is None or told.attempt != attempt[1] or told.worker < 0:
            return None  # its worker was lost before it could say
        same_loss = told.loss == gradient.loss or (math.isnan(told.loss) and math.isnan(gradient.loss))
        if same_loss and (told.errors, told.skipped) == (gradient.errors, gradient.skipped):
            return None
        return (
            f"gradient of lease {attempt[0]}: recorded loss {told.loss!r}, {told.errors} errors, {told.skipped} "
            f"skipped; replayed {gradient.loss!r}, {gradient.errors}, {gradient.skipped}"
        )


def unlike(recorded: Record | None, replayed: Record) -> str:
    """What differs between two records."""
    if type(recorded) is not type(replayed):
        got = "the end of the journal" if recorded is None else str(recorded)
        return f"recorded {got}, replayed {replayed}"
    pairs = [
        f"{name}: recorded {getattr(recorded, name)!r}, replayed {getattr(replayed, name)!r}"
        for name in replayed.__struct_fields__
        if getattr(recorded, name) != getattr(replayed, name)
    ]
    lease = f" of lease {replayed.lease}" if isinstance(replayed, PushHandled) else ""
    return f"{type(replayed).__name__}{lease}: {'; '.join(pairs)}"


def _versions(read: Sequence[Reading]) -> str:
    return "versions " + ", ".join(str(reading.version) for reading in read)
