"""Trace: looks at a few parameters of a simulated run's first shard, at every version, and says what they did.

It stands between the driver and the vectors, and changes nothing.

Shape suffixes: N = parameters of the model, T = versions, K = parameters that are looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cluster.vectors import buffer_of
from distbelief.measures import Motion, effective_motion, gap
from ps.streams import torch_stream

if TYPE_CHECKING:
    from torch import Tensor

    from cluster.vectors import Vectors
    from ps.messages import Exchange, Lease, Reading
    from workers.program import Gradient

LOOKED_AT = 256
MOST_VERSIONS = 20_000  # then it has seen enough


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the weights went between a gradient's pull and its application: root mean square over parameters."""

    mean: float
    largest: float


class Trace:
    """Vectors (see cluster.vectors) that are looked at.

    Args:
        vectors: What does the work.
        elements: Parameters of the first shard, which begin the flat vector.
        seed: Root of the choice of those that are looked at.
    """

    def __init__(self, vectors: Vectors, elements: int, seed: int) -> None:
        self._vectors = vectors
        order_N = torch.randperm(elements, generator=torch_stream(seed, "trace"))
        self._chosen_K = order_N[:LOOKED_AT].sort().values
        self._weights: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}
        self._read: dict[tuple[int, int], int] = {}  # worker and buffer to the version it pulled
        self._filling = 0  # the buffer that the last exchange to arrive is to fill
        self._gaps: list[float] = []

    def enter(self, worker: int) -> tuple[Tensor, ...]:
        return self._vectors.enter(worker)

    def arriving(self, exchange: Exchange) -> Exchange:
        if exchange.weights_N is not None:
            self._filling = buffer_of(exchange.weights_N)
        return self._vectors.arriving(exchange)

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        self._vectors.pulled(exchange, reading)
        if exchange.shard != 0 or exchange.weights_N is None:
            return
        self._read[exchange.worker, self._filling] = reading.version
        if reading.version >= MOST_VERSIONS:
            return
        now_K = self._weights[reading.version] = exchange.weights_N[self._chosen_K]
        if exchange.push is not None and (read_K := self._weights.get(exchange.push.read[0].version)) is not None:
            self._gaps.append(gap(now_K, read_K))

    def compute(self, worker: int, lease: Lease, weights_N: Tensor) -> Gradient:
        gradient = self._vectors.compute(worker, lease, weights_N)
        read = self._read.get((worker, buffer_of(weights_N)), MOST_VERSIONS)
        if read < MOST_VERSIONS and gradient.finite:
            self._gradients[read] = gradient.gradient_N[self._chosen_K]
        return gradient

    def leave(self, worker: int) -> None:
        self._vectors.leave(worker)

    def gap(self) -> Gap | None:
        """None before the first update, where the weights went beyond what is finite, and where no push pulls too."""
        if not self._gaps or not math.isfinite(sum(self._gaps)):
            return None
        return Gap(sum(self._gaps) / len(self._gaps), max(self._gaps))

    def motion(self, workers: int) -> Motion | None:
        """What the trajectory is like (see measures.effective_motion), as far as every version was seen."""
        seen = 0
        while seen in self._weights and seen in self._gradients:
            seen += 1
        if not seen:
            return None
        w_TK, g_TK = (torch.stack([of[t] for t in range(seen)]) for of in (self._weights, self._gradients))
        return effective_motion(w_TK, g_TK, workers)
