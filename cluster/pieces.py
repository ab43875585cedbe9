"""Pieces: what a simulated run consists of, with real vectors or with none.

Without gradients the very same machines and programs run on vectors of no elements: timing, leases and staleness are
what they would be, and nothing is learned.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cluster.machines import build_averager, build_ledger, build_program, build_shard
from cluster.vectors import NoVectors, Vectors
from ps.averager import Averager
from ps.journal import Record
from ps.ledger import Ledger
from ps.messages import Address
from ps.shard import Shard
from workers.program import Program

if TYPE_CHECKING:
    from torch import Tensor

    from cluster.spec import RunSpec

FLOAT_BYTES = 4


class Recorder(Protocol):
    """Where an actor's records go: a journal on disk, or a list."""

    def write(self, records: Iterable[Record]) -> None: ...


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a simulation drives.

    Attributes:
        shards, ledger, averager: The state machines, at their beginning.
        program: Makes one worker's program: (worker, buffers for its weights) -> Program.
        vectors: Where workers' weights and gradients are; computes each gradient at the moment when it is done.
        vector_bytes: Per shard, what a gradient or the weights take on the wire.
        recorders: Per actor; all workers share that of Address(Role.WORKER).
    """

    shards: Sequence[Shard]
    ledger: Ledger
    averager: Averager
    program: Callable[[int, tuple[Tensor, ...]], Program]
    vectors: Vectors
    vector_bytes: Sequence[int]
    recorders: Mapping[Address, Recorder]


def with_gradients(spec: RunSpec, weights_N: Tensor, vectors: Vectors, recorders: Mapping[Address, Recorder]) -> Pieces:
    """The pieces of a run that learns, from these initial weights (copied)."""
    return Pieces(
        [build_shard(spec, shard, weights_N[bound].clone()) for shard, bound in enumerate(spec.bounds)],
        build_ledger(spec),
        build_averager(spec),
        build_program(spec, spec.bounds),
        vectors,
        _vector_bytes(spec),
        recorders,
    )


def without_gradients(spec: RunSpec, recorders: Mapping[Address, Recorder]) -> Pieces:
    """The pieces of a run that takes the same time and learns nothing."""
    return Pieces(
        [build_shard(spec, shard, None) for shard in range(spec.layout.shards)],
        build_ledger(spec),
        build_averager(spec),
        build_program(spec, (slice(0, 0),) * spec.layout.shards),
        NoVectors(spec.program.pulls),
        _vector_bytes(spec),
        recorders,
    )


def _vector_bytes(spec: RunSpec) -> list[int]:
    return [FLOAT_BYTES * elements for elements in spec.elements]
