"""Updates: how gradients go through a shard's memory.

An update costs memory traffic, hardly any arithmetic: a large model's weights, slots and gradient lie far beyond the
cache. So the vectors are walked through block by block, and what is to be done to a block is done while it is in the
cache: the rule, for each gradient that is due, and after each a copy of the weights for whoever pulls them then. Rules
are element-wise, so block after block or update after update is the same to the last bit. Compiled code does this for
the commonest rules (see ps.kernel), torch for all.

Shape suffix: N = parameters held by this shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct

from ps import kernel
from ps.layout import LINE, Segment
from ps.rules import Rule, Step

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1 << 18  # elements: few calls of a kernel, and a block of each vector is still in the cache for the next one


class Update(Struct, frozen=True):
    """One gradient and how it is to be applied.

    Attributes:
        rate, weight_decay: Before the segments' multipliers.
        number: Which update of the shard this is, from 1.
        gradient_N: float32, contiguous; only read.
        out_N: Gets a copy of what the segments hold afterwards; None for no copy.
    """

    rule: Rule
    rate: float
    weight_decay: float
    number: int
    gradient_N: Tensor
    out_N: Tensor | None = None


class Vectors:
    """A shard's weights and slots, and the updates of them that are decided but not made yet.

    Args:
        segments: `Layout.segments` of this shard.
        weights_N: float32, contiguous; owned from here on.
        slots: How many further vectors the rule keeps; they start at zero.

    Attributes:
        w_N, slots: As they lie in memory, without what is due: `settle` first, to look at them.
    """

    def __init__(self, segments: tuple[Segment, ...], weights_N: Tensor, slots: int) -> None:
        self.w_N = weights_N
        self.slots = tuple(weights_N.new_zeros(weights_N.shape) for _ in range(slots))
        self._segments = segments
        self._due: list[Update] = []
        self._together = False

    def settle(self) -> Vectors:
        """These vectors, with every update made."""
        if self._due:
            apply(self._segments, self.w_N, self.slots, self._due)
            self._due.clear()
        return self

    def update(self, update: Update, slots: tuple[Tensor, ...]) -> None:
        """Make an update of the weights and these slots: now, or within `together`, if the slots are these vectors'
        own, with the others.
        """
        if slots is not self.slots:
            apply(self._segments, self.settle().w_N, slots, (update,))
            return
        self._due.append(update)
        if not self._together:
            self.settle()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it updates wait for each other, until somebody looks; at its end all are made."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            self.settle()


def apply(segments: Sequence[Segment], w_N: Tensor, slots: tuple[Tensor, ...], updates: Sequence[Update]) -> None:
    """Make these updates, in their order: each one's rule on every segment, at the segment's own rate and decay.

    Args:
        segments: `Layout.segments` of this shard.
        w_N, slots: float32, contiguous, the shard's; updated in place.
    """
    compiled = bool(segments) and kernel.serves(w_N, updates)
    for segment in segments:
        steps = [
            Step(each.rate * segment.rate_multiplier, each.weight_decay * segment.decay_multiplier, each.number)
            for each in updates
        ]
        if compiled:
            kernel.apply(slice(segment.start, segment.stop), w_N, slots, updates, steps)
            continue
        for block in _blocks(segment.start, segment.stop):
            w, slots_here = w_N[block], tuple(slot_N[block] for slot_N in slots)
            for update, step in zip(updates, steps, strict=True):
                update.rule.apply(step, w, update.gradient_N[block], slots_here)
                if update.out_N is not None:
                    update.out_N[block].copy_(w)


def _blocks(start: int, stop: int) -> Iterator[slice]:
    """Cut a segment into blocks of whole cache lines and its ragged ends, if any.

    Shards begin at a line, so an element is in a ragged end under every number of shards or under none.
    """
    first = min(-(-start // LINE) * LINE, stop)
    last = max(stop // LINE * LINE, first)
    cuts = (start, *range(first, last, _BLOCK), last, stop)
    return (slice(a, b) for a, b in pairwise(cuts) if a < b)
