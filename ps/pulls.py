"""Open pulls: what the weights were when each worker that still computes pulled them.

Some corrections compare a gradient's own weights with those of now. A push names the version that it read; its weights
are kept here from the pull until the worker's next one, or the one after it, where workers pull ahead. Workers that
read the same version share one copy, so there are at most as many as pulls with a gradient to come.

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
    """A recent exchange of a worker and the versions that it read (several after a retry). Invariant: never empty."""

    number: int
    versions: list[int]


class OpenPulls:
    """The weights of open pulls. Invariant: a version is kept if and only if one of the exchanges kept read it.

    Args:
        pulls: Exchanges kept of each worker, the newest.
    """

    def __init__(self, pulls: int = 1) -> None:
        self._pulls = pulls
        self._weights: dict[int, Tensor] = {}
        self._readers: dict[int, int] = {}  # version -> exchanges that read it
        self._workers: dict[int, list[_Pulled]] = {}  # newest last; never empty

    def __len__(self) -> int:
        """Vectors kept."""
        return len(self._weights)

    def keep(self, worker: int, number: int, version: int, w_N: Tensor) -> None:
        """Remember that exchange `number` of this worker pulled these weights; its oldest one may be forgotten."""
        kept = self._workers.setdefault(worker, [])
        newest = kept[-1] if kept else None
        if newest is not None and (number < newest.number or (number == newest.number and version in newest.versions)):
            return
        if version not in self._weights:
            self._weights[version] = w_N.clone()
        self._readers[version] = self._readers.get(version, 0) + 1
        if newest is not None and number == newest.number:
            newest.versions.append(version)
            return
        if len(kept) == self._pulls:
            self._forget(kept.pop(0))
        kept.append(_Pulled(number, [version]))
        if version % len(self._workers) == 0:  # now and then: it looks at every worker
            for lost in silent({worker: each[-1].versions[-1] for worker, each in self._workers.items()}, version):
                for pulled in self._workers.pop(lost):
                    self._forget(pulled)

    def find(self, worker: int, version: int) -> Tensor | None:
        """The weights that a newest exchange of this worker read at this version, or None."""
        held = any(version in pulled.versions for pulled in self._workers.get(worker, ()))
        return self._weights[version] if held else None

    def state(self) -> tuple[tuple[PulledState, ...], dict[int, Tensor]]:
        """The open pulls, each worker's oldest first, and what they read; it never changes, so it is not copied."""
        pulls = tuple(
            PulledState(worker, each.number, tuple(each.versions))
            for worker, kept in sorted(self._workers.items())
            for each in kept
        )
        return pulls, dict(self._weights)

    def recall(self, pulls: Iterable[PulledState], weights: Mapping[int, Tensor]) -> None:
        """Keep what `state` wrote down, and nothing else."""
        self._weights = dict(weights)
        self._workers = {}
        for each in pulls:
            self._workers.setdefault(each.worker, []).append(_Pulled(each.number, list(each.versions)))
        self._readers = Counter(v for kept in self._workers.values() for each in kept for v in each.versions)

    def _forget(self, pulled: _Pulled) -> None:
        for version in pulled.versions:
            self._readers[version] -= 1
            if not self._readers[version]:
                del self._readers[version], self._weights[version]
