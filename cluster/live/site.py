"""Site: what every actor of one run is started with; whom the run lost, and what a person should know."""

from __future__ import annotations

import logging
import time  # noqa: TID251 -- the live clock
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.head import Head, HeadLost
from cluster.spec import RunSpec
from ps.errors import RunFailed

log = logging.getLogger("distbelief.live")

START_SECONDS = 120.0
CALL_SECONDS = 20.0
STOP_SECONDS = 20.0
LOSSES_SECONDS, MOST_LOSSES = 60.0, 8  # a run whose processes are lost more often than that is given up


class Site:
    """Where one run is, as all its parts see it.

    Attributes:
        spec: The run.
        folders: Where each machine's processes write, by the machine's id; none of a Ray of the run's own.
        newcomer: Finds that out for one more machine.
        notes: What a person was not told yet, a line each.
        head: Of the cluster that it is on; None: it has a Ray of its own.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.folders: dict[str, Path] = {}
        self.newcomer: Callable[[str], None] = lambda node: None
        self.notes: list[str] = []
        self.head: Head | None = None
        self._names = count()
        self._losses: list[tuple[float, str]] = []

    @property
    def local(self) -> bool:
        return self.spec.cluster.address == "local"

    @property
    def apart(self) -> bool:
        """Whether some machine writes into a folder of its own, which is brought here as long as it only grows."""
        return any(folder != self.spec.folder for folder in self.folders.values())

    def spec_on(self, node: str) -> RunSpec:
        """The run as processes on this machine see it."""
        if node not in self.folders:
            self.newcomer(node)
        return replace(self.spec, folder=self.folders.get(node, self.spec.folder))

    def options(self, name: str, node: str, gpus: float = 0.0) -> dict[str, Any]:
        """How Ray is to start an actor on this machine, and with how much of a GPU."""
        number = next(self._names)  # a name is free again some time after its actor is gone
        token = self.spec.token[:8]
        return {
            "num_cpus": 0,
            "num_gpus": gpus,
            "name": f"distbelief-{self.spec.run}-{token}-{number}-{name}",
            "max_concurrency": 4,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }

    def consult(self, how: Callable[[Head], None]) -> None:
        """Look after the cluster's head. Raises HeadLost, or RunFailed if without it nothing can be taken up."""
        if self.head is not None:
            try:
                how(self.head)
            except HeadLost as lost:
                if self.apart:
                    raise RunFailed(
                        f"{lost}, and the run directory is not shared; train anew, in one that is"
                    ) from lost
                raise

    def lost(self, what: str, many: int = 1, then: str = "brought back") -> None:
        """A process is gone, one of so many of its kind; what is done then.

        Raises:
            RunFailed: That happened too often.
            HeadLost: It is gone since the whole cluster is.
        """
        self.consult(Head.needed)
        now, kind = time.monotonic(), what.split()[0]
        self._losses = [(at, of) for at, of in self._losses if now - at < LOSSES_SECONDS] + [(now, kind)]
        if (losses := sum(of == kind for _, of in self._losses)) > MOST_LOSSES * many:
            raise RunFailed(
                f"{what}: lost {losses} times within {LOSSES_SECONDS:.0f} s: their processes were killed "
                "(out of memory?)"
            )
        log.warning("%s lost: %s", what, then)
        self.notes.append(f"{what} lost: {then}")
