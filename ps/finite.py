"""Finite check: whether a vector holds NaN or infinity. Worker and shard ask the same question, so they ask it here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def all_finite(vector_N: Tensor) -> bool:
    """Whether every element is finite.

    Reads the vector once and copies nothing. An infinity or a NaN anywhere makes the sum one too; a sum can also
    overflow by itself, so then least and greatest decide, which cannot overflow, and NaN is both.
    """
    if not vector_N.numel() or math.isfinite(vector_N.sum()):
        return True
    least, greatest = vector_N.aminmax()
    return math.isfinite(least) and math.isfinite(greatest)
