"""Staging: gradients that wait at a shard until the ledger closes their round.

A shard that stages applies nothing by itself: the ledger names the leases of a round, all shards hold them, and each
sums their gradients in the order of the leases. So what a round comes to does not depend on who was first.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ps.states import Staged

if TYPE_CHECKING:
    from torch import Tensor

    from ps.messages import Push


class Staging:
    """The gradients that wait, by lease: one for each, the first that came.

    Args:
        limit: Greatest staleness that is let in; 0: only gradients of the open round.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, Staged] = {}

    def __contains__(self, lease: int) -> bool:
        return lease in self._held

    def __len__(self) -> int:
        return len(self._held)

    def state(self) -> tuple[Staged, ...]:
        """What waits, copied: a round adds up in the gradients themselves."""
        return tuple(replace(staged, gradient_N=staged.gradient_N.clone()) for staged in self._held.values())

    def recall(self, state: Iterable[Staged]) -> None:
        """Hold what `state` wrote down, and nothing else."""
        self._held = {each.lease: replace(each, gradient_N=each.gradient_N.clone()) for each in state}

    @property
    def leases(self) -> tuple[int, ...]:
        """The leases whose gradients wait."""
        return tuple(self._held)

    def late(self, staleness: int) -> bool:
        """Whether a gradient is too stale to be let in: its round was closed without it."""
        return staleness > self._limit

    def put(self, worker: int, push: Push, read: int) -> None:
        """Keep a copy of this push's gradient."""
        assert push.lease not in self._held
        self._held[push.lease] = Staged(worker, push.lease, push.samples, read, push.gradient_N.clone())

    def take(self, leases: Sequence[int], keep: bool) -> list[Staged]:
        """Hand out the gradients of a round, in the order of their leases.

        Args:
            keep: Whether the others stay for a later round; else they are dropped.

        Raises:
            ValueError: One of the leases is not held. Nothing was changed.
        """
        missing = [lease for lease in leases if lease not in self._held]
        if missing:
            raise ValueError(f"round of leases {list(leases)}: {missing} are not staged here, expected all of them")
        taken = [self._held.pop(lease) for lease in sorted(leases)]
        if not keep:
            self._held.clear()
        return taken


def mean(gradients: Sequence[Tensor], size: int) -> Tensor:
    """Sum of the gradients in their order, over `size`. The first one holds the result.

    A round that is shorter than `size` is weighted by its size, as an epoch's short last batch is: every example counts
    the same.
    """
    total_N = gradients[0]
    for gradient_N in gradients[1:]:
        total_N.add_(gradient_N)
    return total_N if size == 1 else total_N.div_(size)
