"""Simulated runs in memory: journals are lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cluster.machines import Computation
from cluster.model import ClusterModel, SimulateSettings
from cluster.pieces import Pieces, with_gradients, without_gradients
from cluster.simulated import Simulation
from cluster.spec import ClusterSettings, RunSpec
from ps.averager import AverageSettings
from ps.journal import PushHandled, Record, WorkerExchanged
from ps.layout import Layout, TensorSpec
from ps.leases import LeasePlan
from ps.ledger import LedgerSettings
from ps.messages import AVERAGER, LEDGER, Address, Outcome, Role
from ps.rules import RuleSettings
from ps.schedule import ScheduleSettings
from workers.datasets import DataSettings
from workers.models import ModelSettings


class Records(list[Record]):
    """A journal in memory."""

    def write(self, records: Iterable[Record]) -> None:
        self.extend(records)


@dataclass(frozen=True, slots=True)
class Ran:
    """A simulated run that has ended."""

    simulation: Simulation
    pieces: Pieces
    journals: dict[Address, Records]

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
) -> Ran:
    """Run it: with gradients if there is something that computes them."""
    addresses = [*(Address(Role.SHARD, shard) for shard in range(spec.layout.shards)), LEDGER, AVERAGER]
    journals = {address: Records() for address in [*addresses, Address(Role.WORKER)]}
    if computation is None:
        pieces = without_gradients(spec, journals)
    else:
        assert weights_N is not None
        pieces = with_gradients(spec, weights_N, computation, journals)
    settings = model or SimulateSettings()
    simulation = Simulation(pieces, ClusterModel(settings, spec.plan.seed), spec.cluster.workers)
    simulation.run()
    return Ran(simulation, pieces, journals)


def constant(seconds: float = 1.0) -> SimulateSettings:
    """Every gradient takes the same time and messages none: workers take turns, round robin."""
    return replace(SimulateSettings(), compute="constant", compute_seconds=seconds, latency_seconds=0.0)


def memoryless(seconds: float = 1.0) -> SimulateSettings:
    """Exponential compute times, and messages that take none."""
    return replace(SimulateSettings(), compute="exponential", compute_seconds=seconds, latency_seconds=0.0)
