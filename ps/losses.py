"""Losses: what finished leases said of their examples, and means over the newest of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

from msgspec import Struct

RECENT_LEASES = 50  # that the live view's loss is the mean of


class Finish(Struct, frozen=True):
    """What a finished lease said: mean losses and number of errors over so many examples."""

    examples: int
    loss: float
    auxiliary: tuple[float, ...]
    errors: int


class Losses:
    """The newest leases' words.

    Args:
        most: Leases that are remembered.
    """

    def __init__(self, most: int) -> None:
        self._finishes: deque[Finish] = deque(maxlen=most)

    def add(self, finish: Finish) -> None:
        self._finishes.append(finish)

    @property
    def mean(self) -> float:
        """Mean main loss per example of all that are remembered; NaN of none."""
        return _mean_loss(self._finishes)

    @property
    def recent_mean(self) -> float:
        """Likewise of the newest."""
        return _mean_loss(self._recent)

    @property
    def recent_error(self) -> float:
        """Share of the newest leases' examples that were classified wrongly; NaN of none."""
        examples = sum(finish.examples for finish in self._recent)
        return sum(finish.errors for finish in self._recent) / examples if examples else math.nan

    @property
    def recent_auxiliary(self) -> tuple[float, ...]:
        """Mean loss per example of each auxiliary head, over the newest; leases without examples say nothing, nor do
        those that say it of another number of heads than the last one.
        """
        told = [finish for finish in self._recent if finish.examples and finish.auxiliary]
        told = [finish for finish in told if len(finish.auxiliary) == len(told[-1].auxiliary)]
        examples = sum(finish.examples for finish in told)
        heads = zip(*([loss * finish.examples for loss in finish.auxiliary] for finish in told), strict=True)
        return tuple(sum(head) / examples for head in heads)

    @property
    def _recent(self) -> list[Finish]:
        return list(self._finishes)[-RECENT_LEASES:]


def _mean_loss(finishes: Collection[Finish]) -> float:
    examples = sum(finish.examples for finish in finishes)
    return sum(finish.loss * finish.examples for finish in finishes) / examples if examples else math.nan
