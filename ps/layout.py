"""Layout: a model's named tensors as one flat float32 vector, and that vector cut into contiguous shards.

The flat order is all weights, then all biases, each in the module's order: it depends on the model alone, and since
biases alone may have rates and decays of their own, a shard meets very few segments and its rule runs on each with
plain numbers.

Shards are cut as evenly as whole cache lines allow. So an element's place within its line is the same under every
number of shards, and a loop that treats whole lines apart from ragged ends treats it alike under all of them.

This module moves data and never computes with it; torch is not imported (the ledger's process reads layouts too).

Shape suffix: N = parameters of the whole model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from ps.errors import BadInput, nearest

if TYPE_CHECKING:
    from torch import Tensor

LINE = 16  # float32 elements in a cache line of 64 bytes


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of the model.

    Attributes:
        rate_multiplier: The shard's learning rate is multiplied by it for this tensor.
        decay_multiplier: The weight decay likewise.
    """

    name: str
    shape: tuple[int, ...]
    rate_multiplier: float = 1.0
    decay_multiplier: float = 1.0

    @property
    def size(self) -> int:
        """Elements in the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Segment:
    """Elements start .. stop - 1 of one shard, counted within the shard, that share their multipliers."""

    start: int
    stop: int
    rate_multiplier: float
    decay_multiplier: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor lies in the flat vector, and which part of the vector each shard holds.

    Attributes:
        tensors: In flat order, without gaps.
        shards: Number of shards, 1 .. number of cache lines in the vector.

    Raises:
        BadInput: No tensors, a name twice, or more shards than cache lines.
    """

    tensors: tuple[TensorSpec, ...]
    shards: int

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.tensors]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadInput(f"parameter names: got {twice[0]} more than once, expected distinct names")
        if self.size == 0:
            raise BadInput("model: got no trainable parameter, expected at least one")
        if not 1 <= self.shards <= self._lines:
            raise BadInput(
                f"shards: got {self.shards}, expected 1 to {self._lines} ({self.size} parameters in blocks of {LINE})"
            )

    @classmethod
    def of(
        cls,
        parameters: Iterable[tuple[str, Tensor]],
        shards: int,
        bias_rate_multiplier: float = 1.0,
        bias_decay_multiplier: float = 1.0,
    ) -> Layout:
        """The layout of a module's trainable parameters.

        Args:
            parameters: `module.named_parameters()`, where a tied parameter appears once. Frozen ones are left out.
            shards: Number of shards.
            bias_rate_multiplier: For every bias; a bias is a parameter with at most one dimension.
            bias_decay_multiplier: Likewise.

        Raises:
            BadInput: As for the class.
        """
        weights: list[TensorSpec] = []
        biases: list[TensorSpec] = []
        for name, parameter in parameters:
            if not parameter.requires_grad:
                continue
            shape = tuple(parameter.shape)
            if len(shape) <= 1:
                biases.append(TensorSpec(name, shape, bias_rate_multiplier, bias_decay_multiplier))
            else:
                weights.append(TensorSpec(name, shape))
        return cls((*weights, *biases), shards)

    @property
    def size(self) -> int:
        """Elements in the flat vector."""
        return sum(spec.size for spec in self.tensors)

    def bounds(self, shard: int) -> slice[int, int, None]:
        """The shard's part of the flat vector: `flat_N[layout.bounds(shard)]`.

        Raises:
            IndexError: There is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard: got {shard}, expected 0 to {self.shards - 1}")
        start, stop = (min(self._lines * cut // self.shards * LINE, self.size) for cut in (shard, shard + 1))
        return slice(start, stop)

    def views(self, flat_N: Tensor) -> dict[str, Tensor]:
        """Every tensor as a view of the flat vector, in flat order: writing to either changes both.

        Raises:
            ValueError: The vector has another length.
        """
        if tuple(flat_N.shape) != (self.size,):
            raise ValueError(f"flat vector: got shape {tuple(flat_N.shape)}, expected ({self.size},)")
        return {spec.name: flat_N[start : start + spec.size].view(spec.shape) for spec, start in self._placed()}

    def flatten(self, named: Mapping[str, Tensor], out_N: Tensor) -> None:
        """Copy named tensors to their places in `out_N`; other names (buffers, frozen parameters) are left out.

        Raises:
            BadInput: A tensor is missing or has another shape. Nothing was written.
            ValueError: `out_N` has another length. Nothing was written.
        """
        views = self.views(out_N)
        for name, view in views.items():
            if name not in named:
                raise BadInput(f"parameters: got none named {name}, expected one{nearest(name, named)}")
            if named[name].shape != view.shape:
                raise BadInput(f"{name}: got shape {tuple(named[name].shape)}, expected {tuple(view.shape)}")
        for name, view in views.items():
            view.copy_(named[name].detach())

    def segments(self, shard: int) -> tuple[Segment, ...]:
        """The shard's elements by their multipliers, in order, without gaps; neighbours differ in a multiplier.

        Raises:
            IndexError: There is no such shard.
        """
        bounds = self.bounds(shard)
        segments: list[Segment] = []
        for spec, first in self._placed():
            start = max(first, bounds.start) - bounds.start
            stop = min(first + spec.size, bounds.stop) - bounds.start
            if start >= stop:
                continue
            if segments and _multipliers(segments[-1]) == _multipliers(spec):
                start = segments.pop().start
            segments.append(Segment(start, stop, *_multipliers(spec)))
        return tuple(segments)

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of names, shapes, multipliers, shards; equal means: their vectors mean the same."""
        tensors = [[spec.name, spec.shape, *_multipliers(spec)] for spec in self.tensors]
        return sha256(json.dumps([tensors, self.shards]).encode()).hexdigest()

    @property
    def _lines(self) -> int:
        return -(-self.size // LINE)

    def _placed(self) -> Iterator[tuple[TensorSpec, int]]:
        start = 0
        for spec in self.tensors:
            yield spec, start
            start += spec.size


def _multipliers(part: TensorSpec | Segment) -> tuple[float, float]:
    return float(part.rate_multiplier), float(part.decay_multiplier)
