"""Purity: whether a user's module, loss and data keep what a run is built on, looked at once before it starts.

A gradient must be a function of (weights, lease) alone, or nothing can be computed again: not a lost lease, not a
replay. So the first leases are computed a few times over, and every way in which the same question got two answers is
explained in one line: statistics that outlive a batch, random numbers from elsewhere, memory of earlier batches, data
that change. What does not show within two batches is not found.

Shape suffixes: N = trainable parameters, B = batch, K = classes.
"""

# ruff: noqa: TID251 -- Python's and numpy's generators are watched here, and never drawn from

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ps.errors import BadInput, DistbeliefError
from ps.layout import Layout
from ps.leases import LeasePlan
from workers.batches import Batch, Batches
from workers.datasets import augmentation_of
from workers.gradient import GradientFunction, Losses
from workers.images import Dataset, Traits
from workers.models import ModelSettings, loss_of, network
from workers.own_data import OwnData

LOOKED_AT = 8  # examples of each end of the data set
DRAW = "draw with torch's functions: inside a worker they all draw from the lease"


def check_data(dataset: OwnData) -> None:
    """Raise BadInput unless the data set gives the same examples whenever it is asked."""
    name, length = dataset.name, len(dataset)
    indices = sorted({*range(min(LOOKED_AT, length)), *range(max(0, length - LOOKED_AT), length)})
    first = [dataset.look(index) for index in indices]
    for index, once in reversed(list(zip(indices, first, strict=True))):
        again = dataset.look(index)
        same = once.image.shape == again.image.shape and np.array_equal(once.image, again.image, equal_nan=True)
        if not same or once.label != again.label:
            raise BadInput(
                f"{name}[{index}]: got another example when asked again, expected the same at every time; random "
                "changes belong in a method augment(image, generator) of the data set, which draws from the lease"
            )
    if len(dataset) != length:
        raise BadInput(f"{name}: got the length {length}, then {len(dataset)}; expected data that do not change")


@dataclass(frozen=True, slots=True)
class Purity:
    """Looks at a user's model on the first leases of a run.

    Args:
        settings: The model's.
        dataset: The training set.
        plan, layout: The run's.
        weights_N: Its initial weights.
    """

    settings: ModelSettings
    dataset: Dataset
    plan: LeasePlan
    layout: Layout
    weights_N: Tensor

    def check(self) -> None:
        """Raise BadInput, in one line, if gradients are no function of weights and lease."""
        plan = self.plan.by_batch
        batches = Batches(self.dataset, plan, augmentation_of(self.dataset))
        leases = [plan.lease(id, 0, 0.0) for id in range(min(2, plan.leases))]
        read = [batches.batch(lease) for lease in leases]
        again = batches.batch(leases[0])
        if not torch.equal(read[0].images_BCHW, again.images_BCHW):
            raise BadInput(
                f"{self.dataset.name}: got other images from augment when asked again, expected draws from the "
                "generator that it is given, and nothing else"
            )
        model = network(self.settings, Traits.of(self.dataset))
        self._outputs(model, read[0])
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        states = _states()
        compute = self._computation(model)
        first = compute(0, leases, read)
        self._drawn(states)
        changed = [name for name, value in model.named_buffers() if not torch.equal(value, buffers[name])]
        if changed:
            raise self._refused(
                f"changes its buffers while it computes ({', '.join(changed[:2])}{', ...' if changed[2:] else ''})",
                "no statistics that outlive a batch, since a worker has no memory: GroupNorm or LayerNorm in the place "
                "of BatchNorm, or BatchNorm with track_running_stats=False",
            )
        if len(leases) > 1:
            compute(1, leases, read)
        if not torch.equal(first, compute(0, leases, read)):
            raise self._refused(
                "gives another gradient after another batch", f"no memory and no draws of its own: {DRAW}"
            )
        other = self._computation(network(self.settings, Traits.of(self.dataset)))
        if not torch.equal(first, other(0, leases, read)):
            raise self._refused(
                "gives another gradient when it is built again",
                "a factory whose buffers and frozen parameters are always the same, from a file or drawn with torch",
            )

    def _outputs(self, model: nn.Module, batch: Batch) -> None:
        """The module's answer to a batch must be logits for it."""
        function = GradientFunction(model, self.layout, 0, self.settings.precision)
        shape = tuple(batch.images_BCHW.shape)
        logits_BK = self._tried(lambda: function.predict(self.weights_N, batch.images_BCHW), shape)
        classes = len(self.dataset.classes)
        if logits_BK.dim() != 2 or logits_BK.shape[0] != shape[0] or logits_BK.shape[1] < classes:
            raise self._refused(
                f"gives {tuple(logits_BK.shape)} for images of shape {shape}",
                f"logits of shape ({shape[0]}, {classes}): a row per image, a column per class",
            )

    def _computation(self, model: nn.Module) -> Callable[[int, Any, list[Batch]], Tensor]:
        """What computes the gradient of the lease with this number."""
        function = GradientFunction(
            model, self.layout, self.plan.seed, self.settings.precision, self.settings.clip_norm, loss_of(self.settings)
        )

        def compute(number: int, leases: Any, read: list[Batch]) -> Tensor:
            gradient_N = torch.empty_like(self.weights_N)
            batch = read[number]

            def once() -> Losses:
                return function.compute(self.weights_N, leases[number], batch.images_BCHW, batch.labels_B, gradient_N)

            if len(batch.labels_B):
                self._tried(once, tuple(batch.images_BCHW.shape))
            return gradient_N

        return compute

    def _tried(self, compute: Callable[[], Any], shape: tuple[int, ...]) -> Any:
        try:
            return compute()
        except DistbeliefError as error:
            raise BadInput(f"model.name: {self.settings.name}: {error}") from error
        except Exception as error:
            text = " ".join(str(error).split())
            raise self._refused(
                f"raised {type(error).__name__} on images of shape {shape} ({text})",
                "logits of shape (images, classes), and a loss that takes them and int64 labels",
            ) from error

    def _drawn(self, before: tuple[Any, Any]) -> None:
        for whose, then, now in zip(("Python's random", "numpy.random"), before, _states(), strict=True):
            if then != now:
                raise self._refused(f"draws from {whose}, which all workers of a process share", DRAW)

    def _refused(self, got: str, expected: str) -> BadInput:
        return BadInput(f"model.name: got {self.settings.name}, which {got}; expected {expected}")


def _states() -> tuple[Any, Any]:
    return random.getstate(), repr(np.random.get_state(legacy=False))
