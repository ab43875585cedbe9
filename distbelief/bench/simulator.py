"""Bench: the simulator, in updates per second of real time.

without gradients   as many workers as asked for, journals written; nothing but the machines, the programs, the model
gradient_share      of the time of a run that learns (inception-mini on digits, in the preset's batches): what its
                    gradients take of it
"""

from __future__ import annotations

import tempfile
import time  # noqa: TID251 -- measuring is what this is for
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.table import Table

from cluster.copies import Copies
from cluster.machines import Computation, build_batches, build_computation
from cluster.model import ClusterModel
from cluster.pieces import Pieces, with_gradients, without_gradients
from cluster.simulated import Simulation
from cluster.spec import RunSpec
from cluster.vectors import SharedVectors
from distbelief.bench.harness import Spread, bar, tell
from distbelief.config import Config
from distbelief.draft import Draft, draft
from distbelief.simulate import Journals, journals_of
from ps.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from ps.messages import Lease
    from workers.program import Gradient

UPDATES_PER_WORKER = 20
LEAST_UPDATES = 100_000
GRADIENT_WORKERS, GRADIENT_EPOCHS = 32, 4
MEMORY_BYTES = 1 << 28


def simulator_command(workers: int, shards: int, pairs: int, as_json: bool) -> int:
    """`distbelief bench simulator`: prints a table, or one JSON object. Returns the exit code; raises BadInput."""
    require(pairs >= 1, "--pairs", pairs, "at least 1")
    drafted = _drafted(workers, shards)
    torch.set_num_threads(drafted.spec.cluster.threads)
    rates, shares = [], []
    with bar(f"simulating {workers:,} workers") as progress:
        for done in range(pairs):
            rates.append(updates_per_second(drafted.spec))
            shares.append(gradient_share(shards))
            progress(done + 1, pairs)
    rate, share = Spread.of(rates), Spread.of(shares)
    table = Table(title=f"simulator, {workers:,} workers, {shards} shards", title_justify="left", box=None)
    for head in ("", "median", "from", "to"):
        table.add_column(head, justify="left" if not head else "right")
    table.add_row("updates/s without gradients", *(f"{v:,.0f}" for v in (rate.median, rate.lowest, rate.highest)))
    table.add_row("time inside the gradient", *(f"{v:.1%}" for v in (share.median, share.lowest, share.highest)))
    facts = {"workers": workers, "shards": shards, "rounds": pairs}
    spreads = {"updates_per_second_spread": rate.as_json(), "gradient_share_spread": share.as_json()}
    tell({**facts, "updates_per_second": rate.median, "gradient_share": share.median, **spreads}, table, as_json)
    return 0


def _drafted(workers: int, shards: int) -> Draft:
    return draft(Config.of({"cluster.workers": workers, "cluster.shards": shards}))


def updates_per_second(spec: RunSpec) -> float:
    """Updates per second of a run without gradients, its start and its journals included."""
    updates = max(LEAST_UPDATES, UPDATES_PER_WORKER * spec.cluster.workers)
    spec = replace(spec, plan=replace(spec.plan, examples=updates, batch_size=1, epochs=1))
    seconds = _simulated(spec, lambda journals: without_gradients(spec, journals))
    return updates / seconds


def gradient_share(shards: int) -> float:
    """Share of the time of a run with gradients that is spent inside them, batches included."""
    drafted = _drafted(GRADIENT_WORKERS, shards)
    dataset, spec = drafted.dataset, replace(drafted.spec, plan=replace(drafted.spec.plan, epochs=GRADIENT_EPOCHS))
    timed = _Timed(build_computation(spec, dataset, build_batches(spec, dataset).batch))
    copies = Copies(MEMORY_BYTES, spec.layout.size)
    vectors = SharedVectors(spec.bounds, timed, copies)
    try:
        seconds = _simulated(spec, lambda journals: with_gradients(spec, drafted.weights_N, vectors, journals))
    finally:
        copies.close()
    return timed.seconds / seconds


class _Timed:
    """A computation, and the seconds that were spent in it."""

    def __init__(self, computation: Computation) -> None:
        self._computation = computation
        self.seconds = 0.0

    def __call__(self, lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        began = time.perf_counter()
        found = self._computation(lease, weights_N, gradient_N)
        self.seconds += time.perf_counter() - began
        return found


def _simulated(spec: RunSpec, pieces: Callable[[Journals], Pieces]) -> float:
    """Seconds that a simulated run takes, with its journals in a folder that is removed."""
    model = ClusterModel(Config().simulate, spec.plan.seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with journals_of(replace(spec, folder=Path(folder))) as journals:
            Simulation(pieces(journals), model, spec.cluster.workers).run()
        return time.perf_counter() - began
