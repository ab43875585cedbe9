"""Vectors: where the weights and gradients of a simulated cluster's many workers are.

    own      every worker has buffers of its own, as on a live cluster; for programs that change their weights
    shared   a worker has the versions that it pulled, each kept once for all who pulled it, and on disk beyond a limit
             of memory; for programs that only read their weights

Shape suffix: N = parameters of the model, or of one shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from msgspec.structs import replace
from torch import Tensor

from cluster.copies import Copies

if TYPE_CHECKING:
    from cluster.machines import Computation
    from ps.messages import Exchange, Lease, Reading
    from workers.program import Gradient


class Vectors(Protocol):
    """What a simulated driver asks of the place where vectors are."""

    def enter(self, worker: int) -> Tensor:
        """What a new worker's program gets for its weights."""

    def arriving(self, exchange: Exchange) -> Exchange:
        """An exchange as its shard gets it, with the gradient and with room for the weights."""

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        """The shard filled the weights of this exchange, with what it holds at this version."""

    def compute(self, worker: int, lease: Lease) -> Gradient:
        """The gradient of this lease at the worker's weights."""

    def leave(self, worker: int) -> None:
        """A worker is gone. What it sent is still on its way."""


class OwnVectors:
    """Buffers of every worker's own.

    Args:
        elements: N; 0 for a simulation without gradients.
        computation: Computes every worker's gradients.
    """

    def __init__(self, elements: int, computation: Computation) -> None:
        self._elements = elements
        self._computation = computation
        self._of: dict[int, tuple[Tensor, Tensor]] = {}

    def enter(self, worker: int) -> Tensor:
        weights_N, _ = self._of[worker] = torch.empty(self._elements), torch.empty(self._elements)
        return weights_N

    def arriving(self, exchange: Exchange) -> Exchange:
        return exchange

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        pass

    def compute(self, worker: int, lease: Lease) -> Gradient:
        return self._computation(lease, *self._of[worker])[0]

    def leave(self, worker: int) -> None:
        del self._of[worker]


class SharedVectors:
    """Every pulled version kept once.

    Args:
        bounds: Each shard's slice of the flat vector.
        computation: Computes every worker's gradients.
        copies: Where versions and gradients are kept.
    """

    def __init__(self, bounds: Sequence[slice], computation: Computation, copies: Copies) -> None:
        self._bounds = bounds
        self._computation = computation
        self._copies = copies
        self._of: dict[int, dict[int, Reading]] = {}  # per worker, what it read, by shard
        size = bounds[-1].stop
        self._stand_in_N = torch.empty(1).expand(size)  # the right shape, and no memory
        self._weights_N, self._gradient_N = torch.empty(size), torch.empty(size)
        self._parts = [(self._weights_N[bound], self._gradient_N[bound]) for bound in bounds]

    def enter(self, worker: int) -> Tensor:
        self._of[worker] = {}
        return self._stand_in_N

    def arriving(self, exchange: Exchange) -> Exchange:
        weights_N, _ = self._parts[exchange.shard]
        push = exchange.push
        if push is not None:
            key = "gradient", exchange.worker
            self._copies.load(key, self._gradient_N)
            self._copies.release(key)
            push = replace(push, gradient_N=self._gradient_N[self._bounds[exchange.shard]])
        return replace(exchange, push=push, weights_N=None if exchange.weights_N is None else weights_N)

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        if (read := self._of.get(exchange.worker)) is None or exchange.weights_N is None:
            return
        shard = exchange.shard
        self._copies.keep((shard, reading), exchange.weights_N)
        if shard in read:
            self._copies.release((shard, read[shard]))
        read[shard] = reading

    def compute(self, worker: int, lease: Lease) -> Gradient:
        for shard, reading in self._of[worker].items():
            self._copies.load((shard, reading), self._parts[shard][0])
        gradient, _ = self._computation(lease, self._weights_N, self._gradient_N)
        if gradient.finite:  # else no shard will see it
            self._copies.keep(("gradient", worker), self._gradient_N, len(self._bounds))
        return gradient

    def leave(self, worker: int) -> None:
        for key in self._of.pop(worker).items():
            self._copies.release(key)
