"""Lease plan: how a run's epochs are cut into leases. Pure arithmetic; the ledger and every worker share it.

Lease ids count leases through all epochs: id = epoch * leases per epoch + lease. A lease is one batch, or several
consecutive ones where a worker takes several steps with it. An epoch's last batch is short when the batch size does not
divide the number of examples, and is weighted by its size, so that every example of every epoch counts the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ps.messages import Lease
from ps.streams import permutation


@dataclass(frozen=True)
class LeasePlan:
    """The whole run's leases, before any is granted.

    Attributes:
        examples: Examples in the training set.
        batch_size: Examples per batch (an epoch's last one may have fewer).
        epochs: Passes over the training set.
        seed: Root of the order of the examples, and of what the leases draw.
        batches: Batches per lease (an epoch's last lease may have fewer).
    """

    examples: int
    batch_size: int
    epochs: int
    seed: int
    batches: int = 1

    @property
    def by_batch(self) -> LeasePlan:
        """The same examples in leases of one batch: every batch has an id, and with it its random numbers."""
        return replace(self, batches=1)

    @cached_property
    def leases_per_epoch(self) -> int:
        return -(-self.examples // (self.batch_size * self.batches))

    @cached_property
    def leases(self) -> int:
        """Leases in the run; ids are 0 .. leases - 1."""
        return self.leases_per_epoch * self.epochs

    @property
    def samples(self) -> int:
        """Examples applied in a whole run, counted once per epoch."""
        return self.examples * self.epochs

    def count(self, id: int) -> int:
        """Examples in the lease with this id."""
        size = self.batch_size * self.batches
        return min(size, self.examples - id % self.leases_per_epoch * size)

    def lease(self, id: int, attempt: int, deadline: float) -> Lease:
        """The lease with this id."""
        epoch, place = divmod(id, self.leases_per_epoch)
        size = self.batch_size * self.batches
        first = place * size
        count = min(size, self.examples - first)
        return Lease(id, attempt, epoch, first, count, count / size, deadline)

    def parts(self, lease: Lease) -> tuple[Lease, ...]:
        """The lease's batches, each as a lease of one batch: under its id in `by_batch`."""
        if self.batches == 1:
            return (lease,)
        single = self.by_batch
        first = lease.epoch * single.leases_per_epoch + lease.first // self.batch_size
        stop = first - (-lease.count // self.batch_size)
        return tuple(single.lease(id, lease.attempt, lease.deadline) for id in range(first, stop))

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The epoch's permutation of example indices, shape (examples,).

        Costly for large sets: callers keep the current epoch's.
        """
        return permutation(self.seed, f"epoch/{epoch}/order", self.examples)
