"""Timing: where the workers' time went lately, from what their hosts append to their journals."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

from distbelief.troubles import Spent
from ps.journal import WorkerTimed
from ps.wire.files import SUFFIX, JournalTail

KEPT_LEASES = 20  # per worker, the newest: what "lately" means
MOST_AT_ONCE = 500  # records of one host that a look reads; of a run that is faster, the newest
PARTS = ("lease", "turn", "decode", "compute", "exchange")


class Timing:
    """Follows the journals of a run's worker hosts.

    Args:
        folder: That they lie in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tails: dict[Path, JournalTail] = {}
        self._lately: dict[int, tuple[str, deque[WorkerTimed]]] = {}

    def look(self) -> dict[int, Spent]:
        """Mean seconds per lease of every worker that finished one by now."""
        for path in sorted(self._folder.glob(f"host-*{SUFFIX}")):
            tail = self._tails.setdefault(path, JournalTail(path, WorkerTimed))
            for record in tail.read(MOST_AT_ONCE):
                assert isinstance(record, WorkerTimed)
                host = path.name.removesuffix(SUFFIX)
                kept = self._lately.get(record.worker)
                if kept is None or kept[0] != host:  # a worker's place may change
                    kept = self._lately[record.worker] = host, deque(maxlen=KEPT_LEASES)
                kept[1].append(record)
        return {worker: _spent(host, lately) for worker, (host, lately) in sorted(self._lately.items())}


def _spent(host: str, lately: deque[WorkerTimed]) -> Spent:
    means = [sum(getattr(record, f"{part}_seconds") for record in lately) / len(lately) for part in PARTS]
    return Spent(host, len(lately), *means)


def means(workers: Mapping[int, Spent]) -> dict[str, float]:
    """Seconds per lease by what they went into, the mean of all workers; empty before the first lease."""
    return {part: sum(getattr(s, part) for s in workers.values()) / len(workers) for part in PARTS} if workers else {}
