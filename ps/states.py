"""States: what a shard and the averager remember, as values that can be written down and taken up again.

A state is a copy: nothing that its machine does later changes it. `ps.snapshot` turns one into bytes,
`ps.repartition` cuts those of all shards anew.

Shape suffix: N = parameters held by this shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PulledState:
    """One worker's newest exchange, and the versions that it read."""

    worker: int
    number: int
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a correction remembers between updates; each uses what it needs of this.

    Attributes:
        numbers: Of the shard as a whole.
        vectors: One number per element.
        worker_vectors: Per worker, likewise.
        heard: Per worker, the version at which it was last heard of.
        pulls: Open pulls, in the order in which they are kept.
        pulled: The weights that open pulls read, by version.
    """

    numbers: tuple[float, ...] = ()
    vectors: tuple[Tensor, ...] = ()
    worker_vectors: Mapping[int, Tensor] = field(default_factory=dict)
    heard: Mapping[int, int] = field(default_factory=dict)
    pulls: tuple[PulledState, ...] = ()
    pulled: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Staged:
    """One gradient that waits. `read`: the version that it was computed from; `gradient_N`: this shard's own copy."""

    worker: int
    lease: int
    samples: int
    read: int
    gradient_N: Tensor


@dataclass(frozen=True, slots=True)
class ShardState:
    """A shard at one version.

    Attributes:
        openings: The version at which each incarnation began, up to the one that this state is of.
        applied: Leases, as start, stop, start, stop, ... of ascending intervals.
        staleness: Updates to how many gradients were so stale.
        waiting: Copies that the averager has not taken, by version.
    """

    shard: int
    openings: tuple[int, ...]
    version: int
    samples: int
    applied: tuple[int, ...]
    staleness: Mapping[int, int]
    duplicates: int
    refused: int
    discarded: int
    skipped_samples: int
    weights_N: Tensor
    slots: tuple[Tensor, ...]
    remembered: Remembered
    staged: tuple[Staged, ...]
    waiting: Mapping[int, Tensor]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Elements start .. stop - 1 of one shard, in whose average so many versions are."""

    start: int
    stop: int
    count: int


@dataclass(frozen=True, slots=True)
class SliceState:
    """The average of one shard's part: as averager.Averager keeps it."""

    a_N: Tensor
    version: int
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True, slots=True)
class AveragerState:
    """The averager, shard by shard."""

    slices: tuple[SliceState, ...]


State = ShardState | AveragerState
