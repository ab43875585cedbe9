"""Simulated runs in memory: journals are lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cluster.copies import Copies
from cluster.machines import Computation
from cluster.model import ClusterModel, SimulateSettings
from cluster.pieces import Pieces, with_gradients, without_gradients
from cluster.simulated import Simulation, shard_address
from cluster.spec import ClusterSettings, RunSpec
from cluster.vectors import OwnVectors, SharedVectors, Vectors
from ps.averager import AverageSettings
from ps.finite import all_finite
from ps.journal import PushHandled, Record, WorkerExchanged
from ps.layout import Layout, TensorSpec
from ps.leases import LeasePlan
from ps.ledger import Ledger, LedgerSettings
from ps.messages import AVERAGER, LEDGER, Address, Lease, Outcome, Role
from ps.rules import RuleSettings
from ps.schedule import ScheduleSettings
from ps.streams import torch_stream
from workers.datasets import DataSettings
from workers.models import ModelSettings
from workers.program import Gradient


class Records(list[Record]):
    """A journal in memory."""

    def write(self, records: Iterable[Record]) -> None:
        self.extend(records)


@dataclass(frozen=True, slots=True)
class Ran:
    """A simulated run that has ended. `pulls`: of one worker, open at once."""

    simulation: Simulation
    pieces: Pieces
    journals: dict[Address, Records]
    pulls: int

    def pushes(self, shard: int) -> list[PushHandled]:
        """What this shard applied, in order."""
        records = self.journals[Address(Role.SHARD, shard)]
        return [r for r in records if isinstance(r, PushHandled) and r.outcome is Outcome.APPLIED]

    def exchanges(self) -> list[WorkerExchanged]:
        """The workers' side of every exchange, in order."""
        return [r for r in self.journals[Address(Role.WORKER)] if isinstance(r, WorkerExchanged)]


def specification(
    updates: int,
    workers: int,
    shards: int = 1,
    elements: int = 64,
    seed: int = 0,
    rule: RuleSettings | None = None,
    rate: float = 0.1,
    ledger: LedgerSettings | None = None,
) -> RunSpec:
    """A run of so many updates, one example each, on one tensor."""
    return RunSpec(
        run="simulated",
        folder=Path(),
        token="",
        plan=LeasePlan(updates, 1, 1, seed),
        layout=Layout((TensorSpec("w", (elements,)),), shards),
        model=ModelSettings(),
        data=DataSettings(),
        rule=rule or RuleSettings(rule="sgd"),
        schedule=ScheduleSettings(rate=rate),
        average=AverageSettings(),
        ledger=ledger or LedgerSettings(lease_seconds=1e6),
        cluster=ClusterSettings(workers=workers, shards=shards),
    )


def simulated(
    spec: RunSpec,
    model: SimulateSettings | None = None,
    computation: Computation | None = None,
    weights_N: Tensor | None = None,
    memory_bytes: int | None = None,
    prepare: Callable[[Ledger], None] = lambda _: None,
) -> Ran:
    """Run it: with gradients if there is something that computes them, with shared versions if there is a limit of
    memory for them. `prepare` may look at the ledger before.
    """
    addresses = [*(Address(Role.SHARD, shard) for shard in range(spec.layout.shards)), LEDGER, AVERAGER]
    journals = {address: Records() for address in [*addresses, Address(Role.WORKER)]}
    copies = None
    if computation is None:
        pieces = without_gradients(spec, journals)
    else:
        assert weights_N is not None
        vectors: Vectors = OwnVectors(spec.layout.size, computation, spec.program.pulls)
        if memory_bytes is not None:
            copies = Copies(memory_bytes, spec.layout.size)
            vectors = SharedVectors(spec.bounds, computation, copies, spec.program.pulls)
        pieces = with_gradients(spec, weights_N, vectors, journals)
    prepare(pieces.ledger)
    settings = model or SimulateSettings()
    for address, machine in ((LEDGER, pieces.ledger), *((shard_address(m.index), m) for m in pieces.shards)):
        journals[address].append(machine.opened(0.0))
    simulation = Simulation(pieces, ClusterModel(settings, spec.plan.seed), spec.cluster.workers)
    simulation.run()
    if copies is not None:
        assert len(copies) == 0
        copies.close()
    return Ran(simulation, pieces, journals, spec.program.pulls)


@dataclass(frozen=True, slots=True)
class Quadratic:
    """The loss curvature / 2 * |w|^2 plus noise . w, the noise drawn from the lease."""

    curvature: float = 1.0
    noise: float = 0.0
    seed: int = 0

    def __call__(self, lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        torch.mul(weights_N, self.curvature, out=gradient_N)
        if self.noise:
            stream = torch_stream(self.seed, f"lease/{lease.id}/noise")
            gradient_N.add_(torch.randn(len(gradient_N), generator=stream), alpha=self.noise)
        loss = 0.5 * self.curvature * float(weights_N.square().sum())
        return Gradient(loss, 0, 0, all_finite(gradient_N), gradient_N), 0.0


def constant(seconds: float = 1.0) -> SimulateSettings:
    """Every gradient takes the same time and messages none: workers take turns, round robin."""
    return replace(SimulateSettings(), compute="constant", compute_seconds=seconds, latency_seconds=0.0)


def memoryless(seconds: float = 1.0) -> SimulateSettings:
    """Exponential compute times, and messages that take none."""
    return replace(SimulateSettings(), compute="exponential", compute_seconds=seconds, latency_seconds=0.0)
