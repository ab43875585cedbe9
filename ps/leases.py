"""Lease plan: how a run's epochs are cut into leases. Pure arithmetic; the ledger and every worker share it.

Lease ids count batches through all epochs: id = epoch * batches per epoch + batch. An epoch's last batch is short
when the batch size does not divide the number of examples, and is weighted by its size, so that every example of
every epoch counts the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps.messages import Lease
from ps.streams import permutation


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """The whole run's leases, before any is granted.

    Attributes:
        examples: Examples in the training set.
        batch_size: Examples per lease (an epoch's last one may have fewer).
        epochs: Passes over the training set.
        seed: Root of the order of the examples, and of what the leases draw.
    """

    examples: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def leases_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    @property
    def leases(self) -> int:
        """Leases in the run; ids are 0 .. leases - 1."""
        return self.leases_per_epoch * self.epochs

    @property
    def samples(self) -> int:
        """Examples applied in a whole run, counted once per epoch."""
        return self.examples * self.epochs

    def lease(self, id: int, attempt: int, deadline: float) -> Lease:
        """The lease with this id."""
        epoch, batch = divmod(id, self.leases_per_epoch)
        first = batch * self.batch_size
        count = min(self.batch_size, self.examples - first)
        return Lease(id, attempt, epoch, first, count, count / self.batch_size, deadline)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The epoch's permutation of example indices, shape (examples,).

        Costly for large sets: callers keep the current epoch's.
        """
        return permutation(self.seed, f"epoch/{epoch}/order", self.examples)
