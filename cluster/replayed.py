"""Replayed driver: the recorded order of each shard, run again through the same machines and the same gradient.

    shard      its own journal's order; each push's gradient is computed from what the record says that it read
    averager   its own journal's order, per shard
    checked    every record that a machine makes against the recorded one; every gradient's loss against the ledger's

The shards take turns by recorded time where they can. A shard whose next push read a version that another has not
reached waits for it; no clock is needed for that. A version is kept while a gradient is still to be computed from it.

Where the parameters were cut anew, each piece of the recording is a replay of its own, which begins with what the one
before it came to.

After a difference the replay goes on as far as the recorded order makes sense, so that it ends with weights to compare.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from cluster.copies import Copies
from cluster.machines import Computation
from cluster.recording import TAKEN, Attempt, Recording
from cluster.witnesses import CannotGoOn, Difference, Witnesses, unlike
from ps.averager import Averager
from ps.journal import (
    AveragerOpened,
    AveragerSaved,
    PullHandled,
    PushHandled,
    Record,
    RoundApplied,
    SampleAveraged,
    SampleSent,
    ShardOpened,
    ShardSaved,
)
from ps.leases import LeasePlan
from ps.messages import (
    AVERAGER,
    JOURNAL,
    Address,
    CloseRound,
    Exchange,
    Lease,
    Message,
    Outcome,
    Push,
    Read,
    ReadDone,
    Reading,
    Role,
    Sample,
    Wire,
)
from ps.rounding import nearest, stochastic
from ps.samples import WAITING_SAMPLES
from ps.shard import Shard
from ps.states import AveragerState, ShardState, SliceState
from workers.program import Gradient, Steps, alone, one_gradient

READER = Address(Role.WORKER, -1)


@dataclass(frozen=True, slots=True)
class ReplayPieces:
    """What a replay drives: the machines at their beginning, and what computes gradients.

    Attributes:
        bounds: Each shard's slice of the flat vector.
        steps: What a worker does with a lease.
    """

    shards: Sequence[Shard]
    averager: Averager
    plan: LeasePlan
    computation: Computation
    bounds: Sequence[slice]
    steps: Steps = one_gradient


@dataclass(slots=True)
class _Cursor:
    """One shard's place in its journal. Invariant: waiting holds the samples that the averager has not taken."""

    shard: Shard
    records: list[Record]
    weights_N: Tensor  # what the last pull read
    at: int = 0
    averaged: int = 0  # the averager's records on this shard that are done
    waiting: dict[tuple[int, int], Sample] = field(default_factory=dict)  # by incarnation and version
    openings: tuple[int, ...] = ()  # the version at which each incarnation began
    saved: dict[int, ShardState] = field(default_factory=dict)  # snapshots that it comes back from later
    saved_averages: dict[int, SliceState] = field(default_factory=dict)  # likewise its part of the average
    stopped_N: Tensor | None = None  # the weights where `until` is

    @property
    def done(self) -> bool:
        return self.at >= len(self.records)


class Replay:
    """One recorded run, run again. Create, `run`, then `read`.

    Args:
        pieces: What is driven.
        recording: What happened.
        copies: Where versions and gradients are kept meanwhile.
    """

    def __init__(self, pieces: ReplayPieces, recording: Recording, copies: Copies) -> None:
        self._pieces = pieces
        self._recording = recording
        self._copies = copies
        self._witnesses = Witnesses(recording, pieces.plan)
        self._cursors = [
            _Cursor(shard, records, torch.empty(shard.elements))
            for shard, records in zip(pieces.shards, recording.shards, strict=True)
        ]
        self._attempts = recording.attempts()
        self._read_by = Counter(
            (shard, reading) for read in self._attempts.values() for shard, reading in enumerate(read)
        )
        self._applied_by = Counter(
            (push.lease, push.attempt) for shard in range(len(pieces.shards)) for push in recording.taken(shard)
        )
        self._wires = {
            (shard, push.lease, push.attempt): push.wire
            for shard in range(len(pieces.shards))
            for push in recording.taken(shard)
        }
        size = pieces.bounds[-1].stop
        self._weights_N, self._gradient_N = torch.empty(size), torch.empty(size)
        self._counted_at = {  # the last place in the averager's records on a shard where it counted this version
            (shard, record.incarnation, record.version): at
            for shard in range(len(pieces.shards))
            for at, record in enumerate(recording.averaged[shard])
            if isinstance(record, SampleAveraged) and record.counted
        }
        self._averager_returns = {  # the snapshots that it comes back from
            record.snapshot
            for shard in range(len(pieces.shards))
            for record in recording.averaged[shard]
            if isinstance(record, AveragerOpened)
        }
        self._samples: dict[tuple[int, Reading], int] = {}  # shard and version to the samples applied by then
        self._until: int | None = None
        self.differences: list[Difference] = []
        self.updates = sum(map(recording.updates, range(len(pieces.shards))))  # over all shards

    def run(self, until: int | None = None, look: Callable[[int], None] = lambda _: None) -> None:
        """Run it to its end, or until every shard has this version.

        Args:
            look: Told now and then how many updates, over all shards, are done.

        Raises:
            CannotGoOn: The recorded order makes no sense; `differences` has what was found before.
        """
        self._until = until
        done = 0
        while cursor := self._next():
            done += self._step(cursor)
            look(done)
        if until is None:
            for cursor in self._cursors:
                while self._take_sample(cursor):
                    pass
                index = cursor.shard.index
                left = self._recording.averaged[index][cursor.averaged :]
                if left and isinstance(left[0], SampleAveraged):
                    what = f"shard {index} at version {left[0].version} was averaged, but never sent it"
                    self._differ("averager", -1, what)

    def read(self, average: bool, out_N: Tensor) -> int:
        """Copy the weights (where `until` is, or the newest) or their average into `out_N`; return how many it
        averages.
        """
        counts = []
        for cursor, bound in zip(self._cursors, self._pieces.bounds, strict=True):
            if not average and cursor.stopped_N is not None:
                out_N[bound].copy_(cursor.stopped_N)
                continue
            machine = self._pieces.averager if average else cursor.shard
            ((_, answer),) = machine.handle(0.0, Read(READER, 0, cursor.shard.index, out_N[bound]))
            assert isinstance(answer, ReadDone)
            counts.append(answer.samples)
        return min(counts, default=1)

    def states(self) -> tuple[list[ShardState], AveragerState]:
        """What all shards and the averager remember."""
        return [cursor.shard.state() for cursor in self._cursors], self._pieces.averager.state()

    def versions(self) -> tuple[int, ...]:
        """Each shard's version."""
        return tuple(cursor.shard.version for cursor in self._cursors)

    # --- whose turn --------------------------------------------------------------------------------------------------

    def _next(self) -> _Cursor | None:
        """The shard whose next record is the earliest of those that can be run; None at the end."""
        wanted = [c for c in self._cursors if not c.done and not self._there(c)]
        if not wanted:
            return None
        helpful = [c for c in self._cursors if not c.done and self._there(c)]
        for cursors in (wanted, helpful):
            for cursor in sorted(cursors, key=lambda c: c.records[c.at].now):
                if self._possible(cursor):
                    return cursor
        cursor = wanted[0]
        push = cursor.records[cursor.at]
        assert isinstance(push, PushHandled)
        missing = next(
            (s, reading) for s, reading in enumerate(push.read) if reading.version > self._cursors[s].shard.version
        )
        what = f"lease {push.lease} read version {missing[1].version} of shard {missing[0]}, whose journal ends before"
        raise CannotGoOn(self._differ(f"shard-{cursor.shard.index}", cursor.at, what))

    def _there(self, cursor: _Cursor) -> bool:
        return self._until is not None and cursor.shard.version >= self._until

    def _possible(self, cursor: _Cursor) -> bool:
        """Whether the versions that its next push read, if it is one, are there."""
        record = cursor.records[cursor.at]
        if not isinstance(record, PushHandled) or record.outcome not in TAKEN:
            return True
        if ("gradient", record.lease, record.attempt) in self._copies:
            return True
        read = self._attempts[record.lease, record.attempt]
        return all((shard, reading) in self._copies for shard, reading in enumerate(read))

    # --- one record --------------------------------------------------------------------------------------------------

    def _step(self, cursor: _Cursor) -> int:
        """Run a shard's next record; return how many updates that was."""
        record = cursor.records[cursor.at]
        applied = 0
        match record:
            case ShardOpened():
                self._open(cursor, record)
            case ShardSaved():
                self._save(cursor, record)
            case PushHandled():
                applied = int(record.outcome is Outcome.APPLIED)
                self._exchange(cursor, record, self._push(cursor, record))
            case PullHandled():
                self._exchange(cursor, record, None)
            case RoundApplied():
                applied = 1
                self._close_round(cursor, record)
            case _:
                cursor.at += 1  # a refusal, which changed nothing, or what decides the bits
        return applied

    def _open(self, cursor: _Cursor, record: ShardOpened) -> None:
        """A shard begins, comes back from what was saved, or goes on as its standby."""
        index = cursor.shard.index
        if record.promoted:
            self._promote(cursor, record)
            return
        if not cursor.openings:
            cursor.saved[record.snapshot] = cursor.shard.state()
        else:
            while self._take_sample(cursor, before=record.incarnation):
                pass
        if (state := cursor.saved.get(record.snapshot)) is None:
            what = f"it came back from snapshot {record.snapshot}, which its journal does not know"
            raise CannotGoOn(self._differ(f"shard-{index}", cursor.at, what))
        cursor.openings = (*cursor.openings, record.version)
        cursor.shard.recall(state, cursor.openings)
        if not self._comes_back_from(cursor, record.snapshot):
            del cursor.saved[record.snapshot]
        self._check(cursor, [cursor.shard.opened(record.now, record.snapshot, record.cut)])
        self._wait_for(cursor)

    def _promote(self, cursor: _Cursor, record: ShardOpened) -> None:
        """A standby goes on with all that the shard had, and sends again what the averager had not got of it."""
        shard = cursor.shard
        while set(shard.saved(record.now, 0).waiting) - set(record.waiting):
            if not self._take_sample(cursor, kept=record.waiting):
                break
        cursor.openings = (*cursor.openings, record.version)
        self._check(cursor, [shard.succeed(record.now, record.cut)])
        self._wait_for(cursor)

    @staticmethod
    def _wait_for(cursor: _Cursor) -> None:
        """What the shard sends the averager again waits."""
        for _, item in cursor.shard.rejoin():
            if isinstance(item, Sample):
                cursor.waiting[item.incarnation, item.version] = item

    @staticmethod
    def _comes_back_from(cursor: _Cursor, snapshot: int) -> bool:
        later = cursor.records[cursor.at + 1 :]
        openings = (other for other in later if isinstance(other, ShardOpened) and not other.promoted)
        return any(opening.snapshot == snapshot for opening in openings)

    def _save(self, cursor: _Cursor, record: ShardSaved) -> None:
        """Keep a shard's state, if it comes back from it later; of the samples those that waited then."""
        if self._comes_back_from(cursor, record.snapshot):
            state = cursor.shard.state()
            waiting = {version: state.waiting[version] for version in record.waiting if version in state.waiting}
            cursor.saved[record.snapshot] = replace(state, waiting=waiting)
        if record.version != cursor.shard.version:
            made = cursor.shard.saved(record.now, record.snapshot)
            self._differ(f"shard-{cursor.shard.index}", cursor.at, unlike(record, made))
        cursor.at += 1

    def _push(self, cursor: _Cursor, record: PushHandled) -> Push:
        index = cursor.shard.index
        gradient_N = torch.zeros(cursor.shard.elements)  # whatever it was, if it was not taken
        if record.outcome in TAKEN:
            attempt = record.lease, record.attempt
            for what in self._witnesses.of_push(index, record, self._attempts[attempt], cursor.shard.incarnation):
                self._differ(f"shard-{index}", cursor.at, what)
            key = ("gradient", *attempt)
            if key not in self._copies:
                self._compute(cursor, attempt)
            self._copies.load(key, self._gradient_N)
            self._copies.release(key)
            part_N = self._gradient_N[self._pieces.bounds[index]]
            seed = self._pieces.plan.seed
            gradient_N.copy_(stochastic(part_N, record.wire, seed, record.lease, index))
        return Push(record.lease, record.attempt, record.samples, record.read, gradient_N)

    def _exchange(self, cursor: _Cursor, record: PushHandled | PullHandled, push: Push | None) -> None:
        pulled = not isinstance(record, PushHandled) or record.pulled
        self._make_room(cursor)
        index = cursor.shard.index
        weights_N = cursor.weights_N if pulled else None
        message = Exchange(record.worker, record.number, index, push, weights_N, record.wire)
        self._check(cursor, self._handle(cursor, record.now, message))
        key = index, Reading(cursor.shard.incarnation, cursor.shard.version)
        self._samples[key] = cursor.shard.samples
        if pulled and (uses := self._read_by.pop(key, 0)):
            self._copies.keep(key, cursor.weights_N, uses)
        self._stop_here(cursor)

    def _close_round(self, cursor: _Cursor, record: RoundApplied) -> None:
        self._make_room(cursor)
        message = CloseRound(0, record.version, record.leases, record.size, record.keep)
        try:
            made = self._handle(cursor, record.now, message)
        except ValueError as error:  # it names a lease that is not there, or is not the next one
            raise CannotGoOn(self._differ(f"shard-{cursor.shard.index}", cursor.at, str(error))) from error
        self._check(cursor, made)
        self._stop_here(cursor)

    def _stop_here(self, cursor: _Cursor) -> None:
        """Keep the weights, if this is where `until` is."""
        if self._until is not None and cursor.shard.version == self._until and cursor.stopped_N is None:
            cursor.stopped_N = torch.empty(cursor.shard.elements)
            cursor.shard.handle(0.0, Read(READER, 0, cursor.shard.index, cursor.stopped_N))

    def _handle(self, cursor: _Cursor, now: float, message: Message) -> list[Record]:
        """The records that this message made; samples for the averager wait."""
        records: list[Record] = []
        for to, item in cursor.shard.handle(now, message):
            if to == JOURNAL:
                records.append(cast("Record", item))
            elif to == AVERAGER and isinstance(item, Sample):
                cursor.waiting[item.incarnation, item.version] = item
        return records

    def _compute(self, cursor: _Cursor, attempt: Attempt) -> None:
        """Compute the gradient of this lease from what it read."""
        read = self._attempts[attempt]
        for shard, reading in enumerate(read):
            part_N = self._weights_N[self._pieces.bounds[shard]]
            self._copies.load((shard, reading), part_N)
            # What a push travelled as, its pull did: a host finds out once which way leads to a shard.
            part_N.copy_(nearest(part_N, self._wires.get((shard, *attempt), Wire.FLOAT32)))
            self._copies.release((shard, reading))
        lease = self._pieces.plan.lease(*attempt, 0.0)
        samples = min(self._samples[at] for at in enumerate(read))
        done = alone(self._pieces.steps, lease, self._weights_N, read, samples, self._gradient)
        self._copies.keep(("gradient", *attempt), done.gradient_N, self._applied_by[attempt])
        tally = done.tally
        gradient = Gradient(tally.means()[0], tally.errors, tally.skipped, tally.finite, done.gradient_N)
        if what := self._witnesses.of_gradient(attempt, gradient):
            self._differ(f"shard-{cursor.shard.index}", cursor.at, what)

    def _gradient(self, lease: Lease, weights_N: Tensor) -> Gradient:
        return self._pieces.computation(lease, weights_N, self._gradient_N)[0]

    # --- the averager ------------------------------------------------------------------------------------------------

    def _make_room(self, cursor: _Cursor) -> None:
        """Before a version is copied for the averager, if it is now: a buffer must be free, as it was. Taking no more
        than that leaves as many waiting where a version was skipped.
        """
        if cursor.at + 1 >= len(cursor.records) or not isinstance(cursor.records[cursor.at + 1], SampleSent):
            return
        while cursor.shard.status().waiting_samples >= WAITING_SAMPLES and self._take_sample(cursor):
            pass

    def _take_sample(self, cursor: _Cursor, before: int | None = None, kept: Collection[int] = ()) -> bool:
        """Let the averager do what its next record on this shard says; return whether there was one.

        Args:
            before: Take in samples of earlier incarnations only.
            kept: Versions of which the shard was lost before it heard that they were taken.
        """
        index = cursor.shard.index
        recorded = self._recording.averaged[index]
        if cursor.averaged >= len(recorded):
            return False
        record = recorded[cursor.averaged]
        if not isinstance(record, SampleAveraged):
            self._averager_forgets(cursor, record)
            return True
        if before is not None and record.incarnation >= before:
            return False
        key = record.incarnation, record.version
        sample = cursor.waiting.get(key)
        if sample is None:
            if record.counted:
                return False
            sample = Sample(index, record.incarnation, record.version, cursor.weights_N)  # sent twice: not looked at
        cursor.averaged += 1
        again = self._counted_at.get((index, *key), -1) >= cursor.averaged
        for to, item in self._pieces.averager.handle(record.now, sample):
            if to == JOURNAL and item != record:
                self._differ("averager", -1, unlike(record, cast("Record", item)))
            elif to != JOURNAL and not again and record.version not in kept:
                # The shard did not hear of one that an averager took in and forgot.
                cursor.waiting.pop(key, None)
                cursor.shard.handle(record.now, cast("Message", item))
        return True

    def _averager_forgets(self, cursor: _Cursor, record: AveragerOpened | AveragerSaved) -> None:
        """Keep the average of this shard's part where it was saved, and go back to it where the averager did."""
        index, averager = cursor.shard.index, self._pieces.averager
        cursor.averaged += 1
        if isinstance(record, AveragerSaved):
            if record.snapshot in self._averager_returns:
                cursor.saved_averages[record.snapshot] = averager.state().slices[index]
            return
        if not cursor.saved_averages:
            cursor.saved_averages[record.snapshot] = averager.state().slices[index]
        if (part := cursor.saved_averages.get(record.snapshot)) is None:
            what = f"it came back from snapshot {record.snapshot}, which its journal does not know"
            self._differ("averager", -1, what)
        else:
            averager.recall_slice(index, part)

    # --- checks ------------------------------------------------------------------------------------------------------

    def _differ(self, actor: str, record: int, what: str) -> Difference:
        difference = Difference(actor, record, what)
        self.differences.append(difference)
        return difference

    def _check(self, cursor: _Cursor, made: list[Record]) -> None:
        """Compare the records that a machine made with those that come next, and go past them."""
        for record in made:
            recorded = cursor.records[cursor.at] if not cursor.done else None
            if record != recorded:
                difference = self._differ(f"shard-{cursor.shard.index}", cursor.at, unlike(recorded, record))
                if type(record) is not type(recorded):
                    raise CannotGoOn(difference)
            cursor.at += 1
