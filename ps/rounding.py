"""Rounding: what a vector is worth after it has travelled between hosts in fewer bits.

    weights     to the nearest value of the wire's type: a worker computes at what it got
    gradients   up or down at random, up the likelier the nearer it is, so that the mean is the gradient itself:

        |x|  ->  floor(|x| / q + u) * q      u uniform in [0, 1), q the distance of the two neighbours of x

The random numbers come from the lease, so a worker keeps no error from one gradient to the next, and a gradient that is
computed again is rounded to the same bits. One draw of NOISE numbers serves every stretch of that many elements.
float16 cannot hold more than 65504; what is larger becomes that.

Source: Gupta et al. 2015, section 3 (stochastic rounding). Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ps.messages import Wire
from ps.streams import numpy_stream

try:
    from ps import _kernel
except ImportError:  # not compiled, or not for this processor
    _kernel = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

NOISE = 1 << 16
DTYPES = {Wire.FLOAT32: torch.float32, Wire.BFLOAT16: torch.bfloat16, Wire.FLOAT16: torch.float16}

_DROPPED_BITS = {Wire.BFLOAT16: 16, Wire.FLOAT16: 13}  # of a float32's 23, where float16 has its full 10
_SMALLEST_NORMAL = 2.0**-14  # of float16; below, its values are _SPACING apart
_SPACING = 2.0**-24
_LARGEST = 65504.0


def nearest(vector_N: Tensor, wire: Wire) -> Tensor:
    """Weights as they travel; the vector itself if nothing is rounded."""
    return (vector_N.clamp(-_LARGEST, _LARGEST) if wire is Wire.FLOAT16 else vector_N).to(DTYPES[wire])


def stochastic(gradient_N: Tensor, wire: Wire, seed: int, lease: int, shard: int) -> Tensor:
    """A gradient as it travels; the vector itself if nothing is rounded.

    Args:
        gradient_N: float32, finite, of this shard and lease; only read.
        seed: The run's root seed.
    """
    return gradient_N if wire is Wire.FLOAT32 else Stochastic(wire, seed, lease, shard)(gradient_N)


class Stochastic:
    """Rounds the gradient of this shard and lease, in pieces that each begin at a multiple of NOISE, as `stochastic`
    does the whole.
    """

    def __init__(self, wire: Wire, seed: int, lease: int, shard: int) -> None:
        self._wire = wire
        self._dropped = _DROPPED_BITS[wire]
        stream = numpy_stream(seed, f"lease/{lease}/round/{shard}")
        words = stream.bit_generator.random_raw(NOISE // 4).view("uint16")
        self._noise = torch.from_numpy((words >> (16 - self._dropped)).astype("int32"))
        self._space = torch.empty_like(self._noise)

    def __call__(self, piece: Tensor) -> Tensor:
        rounded = torch.empty(piece.shape, dtype=DTYPES[self._wire])
        if self._wire is Wire.BFLOAT16 and _kernel is not None:
            addresses = piece.data_ptr(), self._noise.data_ptr(), NOISE, rounded.data_ptr()
            _kernel.bfloat16(*addresses, len(piece))
            return rounded
        for start in range(0, len(piece), NOISE):
            rounded[start : start + NOISE] = self._block(piece[start : start + NOISE])
        return rounded

    def _block(self, block: Tensor) -> Tensor:
        """What these elements become, in memory that the next block will take."""
        up, space = self._noise[: len(block)], self._space[: len(block)]
        values = torch.add(block.view(torch.int32), up, out=space).bitwise_and_(-1 << self._dropped).view(torch.float32)
        if self._wire is Wire.FLOAT16:
            steps = block.abs().div_(_SPACING).add_(up, alpha=2.0**-self._dropped).floor_()
            small = steps.mul_(_SPACING).copysign_(block)
            values = torch.where(block.abs() < _SMALLEST_NORMAL, small, values).clamp_(-_LARGEST, _LARGEST)
        return values
