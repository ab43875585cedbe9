"""Open pulls: what the weights were when each worker that still computes pulled them.

Some corrections compare a gradient's own weights with those of now. A push names the version that it read; its weights
are kept here from the pull until the worker's next one. Workers that read the same version share one copy, so there are
at most as many as workers with a gradient in flight.

A retry of an exchange pulls again, and whose answer the worker took is not known: the versions of one exchange are kept
together. A worker that is not heard of while every other one was heard SILENT_ROUNDS times is taken for lost.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ps.states import PulledState

if TYPE_CHECKING:
    from torch import Tensor

SILENT_ROUNDS = 64  # a worker so many times slower than the average is refused once and pulls again


def silent(heard: Mapping[int, int], version: int) -> list[int]:
    """Workers to be taken for lost: not heard since `version` minus SILENT_ROUNDS updates for each worker.

    Args:
        heard: Worker to the version at which it was last heard of.
    """
    limit = SILENT_ROUNDS * len(heard)
    return [worker for worker, last in heard.items() if version - last > limit]


@dataclass(slots=True)
class _Pulled:
    """One worker's newest exchange and the versions that it read (several after a retry). Invariant: never empty."""

    number: int
    versions: list[int]


class OpenPulls:
    """The weights of open pulls. Invariant: a version is kept if and only if some worker's newest exchange read it."""

    def __init__(self) -> None:
        self._weights: dict[int, Tensor] = {}
        self._readers: dict[int, int] = {}  # version -> workers that read it
        self._workers: dict[int, _Pulled] = {}

    def __len__(self) -> int:
        """Vectors kept."""
        return len(self._weights)

    def keep(self, worker: int, number: int, version: int, w_N: Tensor) -> None:
        """Remember that exchange `number` of this worker pulled these weights; its earlier ones are forgotten."""
        pulled = self._workers.get(worker)
        if pulled is not None and (number < pulled.number or (number == pulled.number and version in pulled.versions)):
            return
        if version not in self._weights:
            self._weights[version] = w_N.clone()
        self._readers[version] = self._readers.get(version, 0) + 1
        if pulled is not None and number == pulled.number:
            pulled.versions.append(version)
            return
        self._forget(worker)
        self._workers[worker] = _Pulled(number, [version])
        if version % len(self._workers) == 0:  # now and then: it looks at every worker
            for lost in silent({worker: each.versions[-1] for worker, each in self._workers.items()}, version):
                self._forget(lost)

    def find(self, worker: int, version: int) -> Tensor | None:
        """The weights that this worker's newest exchange read at this version, or None."""
        pulled = self._workers.get(worker)
        return self._weights[version] if pulled is not None and version in pulled.versions else None

    def state(self) -> tuple[tuple[PulledState, ...], dict[int, Tensor]]:
        """The open pulls, and the weights that they read; those never change, so they are not copied."""
        pulls = [PulledState(worker, each.number, tuple(each.versions)) for worker, each in self._workers.items()]
        return tuple(pulls), dict(self._weights)

    def recall(self, pulls: Iterable[PulledState], weights: Mapping[int, Tensor]) -> None:
        """Keep what `state` wrote down, and nothing else."""
        self._weights = dict(weights)
        self._workers = {each.worker: _Pulled(each.number, list(each.versions)) for each in pulls}
        self._readers = Counter(version for each in self._workers.values() for version in each.versions)

    def _forget(self, worker: int) -> None:
        pulled = self._workers.pop(worker, None)
        for version in pulled.versions if pulled is not None else ():
            self._readers[version] -= 1
            if not self._readers[version]:
                del self._readers[version], self._weights[version]
