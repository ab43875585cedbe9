"""Machines: the pieces of a run, built from its specification, whatever clock will drive them.

Live, simulated and replayed runs build shard, ledger, averager, worker program and gradient here and nowhere else, so
they cannot differ in how.

Shape suffix: N = parameters of the model, or of one shard.
"""

from __future__ import annotations

import time  # noqa: TID251 -- how long decoding took, for whoever looks after the host
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from ps.averager import Averager
from ps.ledger import Ledger
from ps.shard import Shard
from workers.program import Gradient, Program

if TYPE_CHECKING:
    from torch import Tensor

    from cluster.spec import RunSpec
    from ps.messages import Lease
    from workers.batches import Batch, Batches
    from workers.device import Function
    from workers.images import Dataset


class Computation(Protocol):
    """What a compute turn comes with: a model of its own."""

    def __call__(self, lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        """The gradient, written to gradient_N, and the seconds that went into waiting for the batch."""


class LeaseComputation:
    """A lease's batch, then its gradient: what a compute turn does.

    A lease of which no example can be read has the gradient 0: it is applied like any other, so that it is done, and
    counts for no loss.
    """

    def __init__(self, batch: Callable[[Lease], Batch], function: Function) -> None:
        self._batch = batch
        self._function = function

    def __call__(self, lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        began = time.monotonic()
        batch = self._batch(lease)
        waited_seconds = time.monotonic() - began
        if not len(batch.labels_B):
            gradient_N.zero_()
            return Gradient(0.0, 0, batch.skipped, True, gradient_N), waited_seconds
        losses = self._function.compute(weights_N, lease, batch.images_BCHW, batch.labels_B, gradient_N)
        gradient = Gradient(losses.main, losses.errors, batch.skipped, losses.finite, gradient_N, losses.auxiliary)
        return gradient, waited_seconds


def build_shard(spec: RunSpec, index: int, weights_N: Tensor | None) -> Shard:
    """One shard with these initial weights, which it owns from here on; None: one that holds no parameter, and counts
    all the same.
    """
    held_N = torch.empty(0) if weights_N is None else weights_N
    return Shard(
        index,
        spec.layout.shards,
        held_N,
        () if weights_N is None else spec.layout.segments(index),
        spec.rule.build(),
        spec.rule.weight_decay,
        spec.program.shard_schedule(spec.schedule).build(spec.plan.examples, spec.plan.samples),
        0 if weights_N is None else spec.average.every,
        spec.correction.build(spec.rule, spec.cluster.workers, held_N.numel(), spec.program.pulls),
        spec.consistency.staging(spec.cluster.workers),
    )


def build_ledger(spec: RunSpec) -> Ledger:
    """The ledger, before the first lease."""
    return Ledger(spec.plan, spec.layout.shards, spec.ledger, spec.cluster.workers, spec.consistency, spec.resting)


def build_averager(spec: RunSpec) -> Averager:
    """The averager, before the first sample."""
    return Averager(spec.elements, spec.average, spec.updates)


def build_program(spec: RunSpec, bounds: tuple[slice, ...]) -> Callable[[int, tuple[Tensor, ...]], Program]:
    """What makes one worker's program; see ProgramSettings.build. `bounds`: of each shard in its weights."""
    schedule = spec.schedule.build(spec.plan.examples, spec.plan.samples)
    return spec.program.build(bounds, spec.plan, schedule, spec.cluster.workers)


def build_batches(spec: RunSpec, dataset: Dataset, report: Callable[[str], None] = lambda _: None) -> Batches:
    """The batches of the run's leases.

    Args:
        dataset: The run's training set.
        report: Told of every example that cannot be read.
    """
    from workers.batches import Batches
    from workers.datasets import augmentation_of

    augmentation = augmentation_of(dataset)
    return Batches(dataset, spec.plan.by_batch, augmentation, spec.data.bad_images, report)


def build_computation(
    spec: RunSpec, dataset: Dataset, batch: Callable[[Lease], Batch], device: torch.device | None = None
) -> LeaseComputation:
    """What computes a lease's gradient, with a model of its own.

    Args:
        dataset: The run's training set.
        batch: Gives the batch of a lease: `build_batches(...).batch`, or what reads it ahead.
        device: Where to compute; None for the CPU.
    """
    from workers.device import CPU, OnDevice
    from workers.gradient import GradientFunction
    from workers.images import Traits
    from workers.models import loss_of, network

    device = device or CPU
    model, loss = network(spec.model, Traits.of(dataset)).to(device), loss_of(spec.model)
    function = GradientFunction(model, spec.layout, spec.plan.seed, spec.model.precision, spec.model.clip_norm, loss)
    return LeaseComputation(batch, function if device == CPU else OnDevice(function, device, spec.layout.size))


def no_gradient(lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
    """What computes for machines that hold no parameter: nothing."""
    return Gradient(0.0, 0, 0, True, gradient_N), 0.0
