"""Serving: builds the pieces of a run inside the process they live in. Ray-free: live actors, tests and outside
processes share it.
"""

from __future__ import annotations

import os
import time  # noqa: TID251 -- the live clock
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cluster.host import Computation, Connections, WorkerHost, host_journal
from cluster.spec import RunSpec
from ps.averager import Averager
from ps.ledger import Ledger
from ps.messages import AVERAGER, LEDGER, Address, Lease, Role
from ps.shard import Shard
from ps.wire.files import SUFFIX, JournalWriter
from ps.wire.server import Gate, MachineServer
from workers.program import Gradient, one_gradient

if TYPE_CHECKING:
    from workers.gradient import GradientFunction
    from workers.readahead import ReadAhead

TICK_SECONDS = 1.0


def serve_shard(spec: RunSpec, index: int, weights_N: Tensor) -> MachineServer:
    """One shard, with these initial weights (which it owns from here on), not listening yet."""
    torch.set_num_threads(1)
    shard = Shard(
        index,
        spec.layout.shards,
        weights_N,
        spec.layout.segments(index),
        spec.rule.build(),
        spec.rule.weight_decay,
        spec.schedule.build(spec.plan.examples, spec.plan.samples),
        spec.average.every,
    )
    journal = _journal(spec, Address(Role.SHARD, index))
    journal.write([shard.opened(time.time())])
    return MachineServer(shard, Gate(spec.token, {index: spec.elements[index]}), journal, time.time)


def serve_ledger(spec: RunSpec) -> MachineServer:
    """The ledger, not listening yet."""
    ledger = Ledger(spec.plan, spec.layout.shards, spec.ledger, spec.cluster.workers)
    return MachineServer(ledger, Gate(spec.token, {}), _journal(spec, LEDGER), time.time, TICK_SECONDS)


def serve_averager(spec: RunSpec) -> MachineServer:
    """The averager, not listening yet."""
    torch.set_num_threads(1)
    averager = Averager(spec.elements, spec.average, spec.plan.leases)
    gate = Gate(spec.token, dict(enumerate(spec.elements)))
    return MachineServer(averager, gate, _journal(spec, AVERAGER), time.time)


def worker_host(
    spec: RunSpec, host: int, workers: Sequence[int], turns: int, targets: Mapping[Address, str]
) -> WorkerHost:
    """A worker host with its data set opened and one model per compute turn."""
    from workers.augment import training_augmentation
    from workers.batches import Batches
    from workers.datasets import load
    from workers.gradient import GradientFunction
    from workers.models import build
    from workers.readahead import ReadAhead
    from workers.unreadable import UnreadableList

    torch.set_num_threads(spec.cluster.threads)
    dataset = load(spec.data, "train")
    augmentation = training_augmentation(dataset.name, dataset.image_shape)
    unreadable = UnreadableList(spec.unreadable)
    batches = Batches(dataset, spec.plan, augmentation, spec.data.bad_images, unreadable.add)
    reading = ReadAhead(spec.plan, batches.batch, turns)
    computations: list[Computation] = []
    for _ in range(turns):
        model = build(spec.model.name, len(dataset.classes), *dataset.image_shape[:2])
        function = GradientFunction(model, spec.layout, spec.plan.seed, spec.model.precision, spec.model.clip_norm)
        computations.append(LeaseComputation(reading, function))
    bounds = spec.bounds
    return WorkerHost(
        workers,
        lambda worker, weights_N: one_gradient(worker, bounds, weights_N),
        spec.layout.size,
        computations,
        reading,
        Connections(targets, spec.token),
        host_journal(spec.journal, spec.run, host),
    )


def default_turns(spec: RunSpec) -> int:
    """Gradients computed at once on this machine."""
    return spec.cluster.turns or max(1, len(os.sched_getaffinity(0)) // spec.cluster.threads)


class LeaseComputation:
    """A lease's batch, then its gradient: what a compute turn does.

    A lease of which no example can be read has the gradient 0: it is applied like any other, so that it is done, and
    counts for no loss.
    """

    def __init__(self, reading: ReadAhead, function: GradientFunction) -> None:
        self._reading = reading
        self._function = function

    def __call__(self, lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        began = time.monotonic()
        batch = self._reading.batch(lease)
        waited_seconds = time.monotonic() - began
        if not len(batch.labels_B):
            gradient_N.zero_()
            return Gradient(0.0, 0, batch.skipped, True, gradient_N), waited_seconds
        losses = self._function.compute(weights_N, lease, batch.images_BCHW, batch.labels_B, gradient_N)
        return Gradient(losses.main, losses.errors, batch.skipped, losses.finite, gradient_N), waited_seconds


def _journal(spec: RunSpec, actor: Address) -> JournalWriter:
    return JournalWriter(spec.journal / f"{actor}{SUFFIX}", spec.run, str(actor))
