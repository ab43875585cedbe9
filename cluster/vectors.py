"""Vectors: where the weights and gradients of a simulated cluster's many workers are.

    own      every worker has buffers of its own, as on a live cluster; for programs that change their weights
    shared   a worker has the versions that it pulled, each kept once for all who pulled it, and on disk beyond a limit
             of memory; for programs that only read their weights
    none     vectors of no elements, the same for all: nothing is learned

Shape suffix: N = parameters of the model, or of one shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from msgspec.structs import replace
from torch import Tensor

from cluster.copies import Copies
from workers.program import Gradient

if TYPE_CHECKING:
    from cluster.machines import Computation
    from cluster.spec import RunSpec
    from ps.messages import Exchange, Lease, Reading


class Vectors(Protocol):
    """What a simulated driver asks of the place where vectors are."""

    def enter(self, worker: int) -> tuple[Tensor, ...]:
        """The buffers that a new worker's program gets for its weights."""

    def arriving(self, exchange: Exchange) -> Exchange:
        """An exchange as its shard gets it, with the gradient and with room for the weights."""

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        """The shard filled the weights of the exchange that arrived last, with what it holds at this version."""

    def compute(self, worker: int, lease: Lease, weights_N: Tensor) -> Gradient:
        """The gradient of this lease at the weights in this buffer of the worker's."""

    def leave(self, worker: int) -> None:
        """A worker is gone. What it sent is still on its way."""


def shareable(spec: RunSpec) -> bool:
    """Whether a simulation of this run may share them: its programs only read their weights, and every message is
    handled once, as it was sent.
    """
    return not (spec.program.steps_in_place or spec.faults or spec.cluster.replicas)


class OwnVectors:
    """Buffers of every worker's own.

    Args:
        elements: N.
        computation: Computes every worker's gradients.
        pulls: Buffers that a worker has for its weights.
    """

    def __init__(self, elements: int, computation: Computation, pulls: int = 1) -> None:
        self._elements = elements
        self._computation = computation
        self._pulls = pulls
        self._gradients: dict[int, Tensor] = {}

    def enter(self, worker: int) -> tuple[Tensor, ...]:
        self._gradients[worker] = torch.empty(self._elements)
        return tuple(torch.empty(self._elements) for _ in range(self._pulls))

    def arriving(self, exchange: Exchange) -> Exchange:
        return exchange

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        pass

    def compute(self, worker: int, lease: Lease, weights_N: Tensor) -> Gradient:
        return self._computation(lease, weights_N, self._gradients[worker])[0]

    def leave(self, worker: int) -> None:
        del self._gradients[worker]


class NoVectors:
    """Vectors of no elements. `pulls`: as of OwnVectors."""

    def __init__(self, pulls: int = 1) -> None:
        empty_N = torch.empty(0)
        self._buffers = (empty_N,) * pulls
        self._gradient = Gradient(0.0, 0, 0, True, empty_N)

    def enter(self, worker: int) -> tuple[Tensor, ...]:
        return self._buffers

    def arriving(self, exchange: Exchange) -> Exchange:
        return exchange

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        pass

    def compute(self, worker: int, lease: Lease, weights_N: Tensor) -> Gradient:
        return self._gradient

    def leave(self, worker: int) -> None:
        pass


class SharedVectors:
    """Every pulled version kept once.

    Args:
        bounds: Each shard's slice of the flat vector.
        computation: Computes every worker's gradients.
        copies: Where versions and gradients are kept.
        pulls: Buffers that a worker has for its weights.
    """

    def __init__(self, bounds: Sequence[slice], computation: Computation, copies: Copies, pulls: int = 1) -> None:
        self._bounds = bounds
        self._computation = computation
        self._copies = copies
        self._of: dict[int, dict[tuple[int, int], Reading]] = {}  # per worker, what it read, by buffer and shard
        self._filling = 0  # the buffer that the last exchange to arrive is to fill
        size = bounds[-1].stop
        self._stand_ins = tuple(torch.empty(1).expand(size) for _ in range(pulls))  # the right shape, and no memory
        self._weights_N, self._gradient_N = torch.empty(size), torch.empty(size)
        self._parts = [(self._weights_N[bound], self._gradient_N[bound]) for bound in bounds]

    def enter(self, worker: int) -> tuple[Tensor, ...]:
        self._of[worker] = {}
        return self._stand_ins

    def arriving(self, exchange: Exchange) -> Exchange:
        weights_N, _ = self._parts[exchange.shard]
        if exchange.weights_N is not None:
            self._filling = buffer_of(exchange.weights_N)
        push = exchange.push
        if push is not None:
            key = "gradient", exchange.worker
            gradient_N = self._copies.view(key, self._gradient_N)
            self._copies.release(key)
            push = replace(push, gradient_N=gradient_N[self._bounds[exchange.shard]])
        return replace(exchange, push=push, weights_N=None if exchange.weights_N is None else weights_N)

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        if (read := self._of.get(exchange.worker)) is None or exchange.weights_N is None:
            return
        shard, place = exchange.shard, (self._filling, exchange.shard)
        self._copies.keep((shard, reading), exchange.weights_N)
        if place in read:
            self._copies.release((shard, read[place]))
        read[place] = reading

    def compute(self, worker: int, lease: Lease, weights_N: Tensor) -> Gradient:
        used = buffer_of(weights_N)
        for (buffer, shard), reading in self._of[worker].items():
            if buffer == used:
                self._copies.load((shard, reading), self._parts[shard][0])
        gradient, _ = self._computation(lease, self._weights_N, self._gradient_N)
        if gradient.finite:  # else no shard will see it
            self._copies.keep(("gradient", worker), self._gradient_N, len(self._bounds))
        return gradient

    def leave(self, worker: int) -> None:
        for (_, shard), reading in self._of.pop(worker).items():
            self._copies.release((shard, reading))


def buffer_of(weights_N: Tensor) -> int:
    """Names a buffer of a worker's, given it or a part of it."""
    return weights_N.untyped_storage().data_ptr()
