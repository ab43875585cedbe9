"""Re-partition: what all shards remember, cut anew into another number of shards.

The run is at rest when this is done: every shard has applied the same leases, and so has the same version, and no copy
waits for the averager. Whatever there is one of for each element goes to the shard that holds the element from now on,
to the bit: weights, slots, what the corrections keep, the average. Of the rest:

    a correction's own numbers    mean over the elements (equal ones stay as they are)
    counts, staleness             to the shard that holds the first element of the one that counted
    open pulls                    forgotten: those who pulled are gone, and others will not push what they read
    staged gradients              forgotten likewise: no round has them, so their leases are granted again

Knows no file, no clock. The new shards begin with incarnation 0: what was read from an old one is of no use any more.

Shape suffix: N = parameters held by one shard; M = by one shard afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ps.states import AveragerState, Remembered, ShardState, SliceState, Stretch


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements that go from shard `old` to the new shard in hand: there old_start .. old_stop - 1."""

    old: int
    old_start: int
    old_stop: int

    @property
    def elements(self) -> int:
        return self.old_stop - self.old_start


def repartition(
    states: Sequence[ShardState], averager: AveragerState, old: Sequence[slice], new: Sequence[slice]
) -> tuple[list[ShardState], AveragerState]:
    """The states of the new shards, and of an averager of theirs.

    Args:
        states: Of all shards, in order.
        old, new: Each shard's part of the flat vector, before and afterwards.

    Raises:
        ValueError: The shards have not applied the same leases, or a copy waits for the averager.
    """
    first = states[0]
    for state in states:
        if (state.applied, state.version, state.samples) != (first.applied, first.version, first.samples):
            raise ValueError(
                f"shard {state.shard} is at version {state.version}, shard {first.shard} at {first.version}, or their "
                "leases differ: the run is not at rest"
            )
        if state.waiting:
            raise ValueError(f"shard {state.shard}: versions {sorted(state.waiting)} wait for the averager")
    cuts = [_pieces(old, bound) for bound in new]
    homes = [next(at for at, bound in enumerate(new) if bound.start <= each.start < bound.stop) for each in old]
    made = [
        _shard(index, states, pieces, [state for state, home in zip(states, homes, strict=True) if home == index])
        for index, pieces in enumerate(cuts)
    ]
    return made, AveragerState(tuple(_slice(averager, pieces) for pieces in cuts))


def _pieces(old: Sequence[slice], bound: slice) -> list[_Piece]:
    """Where the elements of a new shard come from, in order."""
    found = []
    for index, each in enumerate(old):
        start, stop = max(each.start, bound.start), min(each.stop, bound.stop)
        if start < stop:
            found.append(_Piece(index, start - each.start, stop - each.start))
    return found


def _joined(pieces: Sequence[_Piece], vector: Callable[[int], Tensor]) -> Tensor:
    """One vector of a new shard, out of those of the old ones."""
    return torch.cat([vector(piece.old)[piece.old_start : piece.old_stop] for piece in pieces])


def _shard(
    index: int, states: Sequence[ShardState], pieces: Sequence[_Piece], counted: Sequence[ShardState]
) -> ShardState:
    """A new shard. `counted`: the old ones whose counts are its from now on."""
    first = states[0]
    staleness: Counter[int] = Counter()
    for state in counted:
        staleness.update(state.staleness)
    return ShardState(
        index,
        (first.version,),
        first.version,
        first.samples,
        first.applied,
        dict(staleness),
        sum(state.duplicates for state in counted),
        sum(state.refused for state in counted),
        sum(state.discarded for state in counted),
        sum(state.skipped_samples for state in counted),
        _joined(pieces, lambda old: states[old].weights_N),
        tuple(_joined(pieces, lambda old, at=at: states[old].slots[at]) for at in range(len(first.slots))),  # type: ignore[misc]
        _remembered([state.remembered for state in states], pieces),
        (),
        {},
    )


def _remembered(all_of: Sequence[Remembered], pieces: Sequence[_Piece]) -> Remembered:
    workers = sorted({worker for piece in pieces for worker in all_of[piece.old].worker_vectors})
    heard: Counter[int] = Counter()
    for piece in pieces:
        heard |= Counter(all_of[piece.old].heard)  # the greater of two

    def of_worker(worker: int, old: int) -> Tensor:
        """Zero where this shard took the worker for lost: as for one that it never heard of."""
        found = all_of[old].worker_vectors.get(worker)
        return torch.zeros_like(all_of[old].vectors[0]) if found is None else found

    return Remembered(
        tuple(_mean(all_of, pieces, at) for at in range(len(all_of[0].numbers))),
        tuple(_joined(pieces, lambda old, at=at: all_of[old].vectors[at]) for at in range(len(all_of[0].vectors))),  # type: ignore[misc]
        {worker: _joined(pieces, lambda old, of=worker: of_worker(of, old)) for worker in workers},  # type: ignore[misc]
        {worker: heard[worker] for worker in workers},
    )


def _mean(all_of: Sequence[Remembered], pieces: Sequence[_Piece], at: int) -> float:
    values = [all_of[piece.old].numbers[at] for piece in pieces]
    if len(set(values)) == 1:
        return values[0]
    total = sum(piece.elements for piece in pieces)
    return sum(value * piece.elements for value, piece in zip(values, pieces, strict=True)) / total


def _slice(averager: AveragerState, pieces: Sequence[_Piece]) -> SliceState:
    """The average of a new shard's part. Old shards may have skipped different versions: each piece keeps its count."""
    stretches: list[Stretch] = []
    stop = 0
    for piece in pieces:
        for stretch in averager.slices[piece.old].stretches:
            start, end = max(stretch.start, piece.old_start), min(stretch.stop, piece.old_stop)
            if start >= end:
                continue
            begin, stop = stop, stop + end - start
            if stretches and stretches[-1].count == stretch.count:
                begin = stretches.pop().start
            stretches.append(Stretch(begin, stop, stretch.count))
    return SliceState(
        _joined(pieces, lambda old: averager.slices[old].a_N),
        max(averager.slices[piece.old].version for piece in pieces),
        tuple(stretches),
    )
