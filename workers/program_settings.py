"""What a user chooses about the worker program: what a worker does with a lease."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ps.errors import nearest, require
from ps.schedule import ScheduleSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ps.leases import LeasePlan
    from ps.schedule import Schedule
    from workers.program import Program, Steps

PROGRAMS = ("gradient", "downpour", "local", "elastic")


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """Which program; workers.local has the equations.

    Attributes:
        kind: One of PROGRAMS: gradient is one gradient per lease.
        push_every: H: batches per lease, each a local step; 1 with gradient.
        fetch_every: downpour only: batches between two pulls, a divisor of push_every; 0 for push_every.
        outer_rate: local only: the shard's rate for what comes of a lease; the schedule's is the local steps'.
        elasticity: elastic only: a; 0 for 0.9 over the number of workers.
        prefetch: Whether a worker pulls the weights for its next lease while it computes (workers.ahead).
    """

    kind: str = "gradient"
    push_every: int = 1
    fetch_every: int = 0
    outer_rate: float = 0.7
    elasticity: float = 0.0
    prefetch: bool = False

    def __post_init__(self) -> None:
        expected = f"one of {', '.join(PROGRAMS)}{nearest(self.kind, PROGRAMS)}"
        require(self.kind in PROGRAMS, "program.kind", self.kind, expected)
        require(self.push_every >= 1, "program.push_every", self.push_every, "at least 1 batch")
        require(self.fetch_every >= 0, "program.fetch_every", self.fetch_every, "0 (as push_every) or more batches")
        require(0 < self.outer_rate < math.inf, "program.outer_rate", self.outer_rate, "a finite number above 0")
        require(0 <= self.elasticity < 1, "program.elasticity", self.elasticity, "0 (0.9 over the workers) to below 1")

    def check(self) -> None:
        """Raise BadInput if the settings do not go together."""
        if self.kind == "gradient":
            expected = f"1 with the program gradient; the others take several ({', '.join(PROGRAMS[1:])})"
            require(self.push_every == 1, "program.push_every", self.push_every, expected)
        divides = self.fetch_every == 0 or self.push_every % self.fetch_every == 0
        expected = f"a divisor of push_every, {self.push_every}"
        require(divides, "program.fetch_every", self.fetch_every, expected)
        expected = "false with the program elastic, or with a fetch_every below push_every: these pull in between"
        require(self.pure or not self.prefetch, "program.prefetch", self.prefetch, expected)

    @property
    def pure(self) -> bool:
        """Whether what is pushed follows from the lease and one pull: then a replay can compute it."""
        return self.kind != "elastic" and self.fetch_every in (0, self.push_every)

    @property
    def steps_in_place(self) -> bool:
        """Whether it changes the weights that it pulled."""
        return self.kind != "gradient"

    @property
    def pulls(self) -> int:
        """Pulls of one worker, at most, of which it has not pushed yet what came of them: each has its own weights."""
        return 1 + self.prefetch

    @property
    def vectors_per_worker(self) -> int:
        """Vectors that a worker has besides those that its pulls fill, at most."""
        return int(self.steps_in_place)

    def staleness(self, mean: int) -> int:
        """Mean staleness in updates, where it would be so much without prefetch."""
        return 2 * mean + 1 if self.prefetch else mean

    def shard_schedule(self, schedule: ScheduleSettings) -> ScheduleSettings:
        """The schedule of the shards' updates, where the run's is that of the local steps."""
        match self.kind:
            case "local":
                return ScheduleSettings(rate=self.outer_rate)
            case "elastic":
                return ScheduleSettings(rate=1.0)
            case _:
                return schedule

    def steps(self, plan: LeasePlan, schedule: Schedule) -> Steps:
        """What a worker does with a lease between pull and push; not for elastic, whose workers have a copy for life.

        Args:
            schedule: Of the local steps.
        """
        from workers.local import Downpour, LocalSgd
        from workers.program import one_gradient

        match self.kind:
            case "downpour":
                return Downpour(plan, schedule, self.fetch_every or self.push_every)
            case "local":
                return LocalSgd(plan, schedule)
            case _:
                return one_gradient

    def build(
        self, bounds: tuple[slice, ...], plan: LeasePlan, schedule: Schedule, workers: int
    ) -> Callable[[int, tuple[Tensor, ...]], Program]:
        """What makes one worker's program, given as many buffers for its weights as it has `pulls`.

        Args:
            bounds: Of each shard in the weights.
            schedule: Of the local steps.
        """
        from workers.ahead import work_ahead
        from workers.local import elastic
        from workers.program import work

        if self.kind == "elastic":
            elasticity = self.elasticity or 0.9 / workers
            return lambda worker, buffers: elastic(worker, bounds, buffers[0], plan, schedule, elasticity)
        steps = self.steps(plan, schedule)
        if self.prefetch:
            return lambda worker, buffers: work_ahead(worker, bounds, (buffers[0], buffers[1]), steps)
        return lambda worker, buffers: work(worker, bounds, buffers[0], steps)
