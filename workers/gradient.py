"""Gradient: a pure function of (weights, lease), computed in place.

    loss      L = main + 0.3 * (sum of the auxiliary heads' losses), each a mean over the batch
    gradient  g = d(lease.weight * L) / dw, and with clipping   g <- g * min(1, clip_norm / |g|)

The module's parameters are views of the caller's weights, and their `.grad` views of the caller's gradient, so nothing
is copied on the way from a shard's buffer through the network and back. Dropout, and whatever else draws, draws from
the lease's stream; the attempt takes no part. A module has no memory: its buffers begin every lease with the values
they had at construction.

Source: Szegedy et al. 2014, section 5 (0.3, heads discarded at inference); clipping: Pascanu et al. 2013.
Shape suffixes: N = trainable parameters of the model, B = batch, C, H, W = channels, rows, columns, K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ps.finite import all_finite
from ps.layout import Layout
from ps.messages import Lease
from ps.streams import torch_stream
from workers.inception import Logits
from workers.randomness import drawing_from

AUXILIARY_WEIGHT = 0.3

# Matrix products round differently with their operands' alignment, so the vectors must lie as they lie everywhere.
ALIGNMENT_BYTES = 64

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Losses:
    """What one gradient says about itself.

    Attributes:
        main: Mean loss of the main classifier over the batch, in nats; not weighted by the lease.
        auxiliary: Likewise, of each auxiliary head.
        errors: Examples that the main classifier got wrong.
        finite: Whether the losses and every element of the gradient are finite.
    """

    main: float
    auxiliary: tuple[float, ...]
    errors: int
    finite: bool


class GradientFunction:
    """Computes gradients with one module, for one thread at a time. Any number of instances may compute side by side.

    Args:
        model: Gives `Logits` or a plain (B, K) tensor. It is this object's own from now on: its trainable parameters
            become views of the weights given to each call; its frozen ones keep their values.
        layout: Of the model's trainable parameters.
        seed: The run's root seed.
        precision: "float32" or "bfloat16" (autocast).
        clip_norm: The gradient's largest global norm; 0 for none.
        loss: (B, K) logits in float32 and labels to a mean loss.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        seed: int,
        precision: str = "float32",
        clip_norm: float = 0.0,
        loss: Loss = nn.functional.cross_entropy,
    ) -> None:
        self._model = model.train()
        self._layout = layout
        self._seed = seed
        self._bfloat16 = precision == "bfloat16"
        self._clip_norm = clip_norm
        self._loss = loss
        parameters = dict(model.named_parameters())
        self._parameters = [parameters[spec.name] for spec in layout.tensors]
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        # Flat vector to its views, for as long as the caller keeps the vector.
        self._views: MutableMapping[Tensor, tuple[Tensor, ...]] = WeakTensorKeyDictionary()

    def compute(
        self, weights_N: Tensor, lease: Lease, images_BCHW: Tensor, labels_B: Tensor, gradient_N: Tensor
    ) -> Losses:
        """The lease's gradient.

        Args:
            weights_N: float32; read, never written.
            lease: Names the random numbers and weighs the loss.
            images_BCHW: float32, ready for the network.
            labels_B: int64.
            gradient_N: float32; overwritten with the gradient.

        Raises:
            HiddenRandomness, SeedingRefused: The module draws past its lease (see workers.randomness).
            ValueError: A vector's length does not fit the layout, or its memory is not aligned to 64 bytes.
        """
        self._point_at(weights_N, gradient_N.zero_())
        with self._drawing(f"lease/{lease.id}/dropout", weights_N.device):
            with self._autocast(weights_N.device):
                logits = self._model(images_BCHW)
            if isinstance(logits, Tensor):
                logits = Logits(logits, ())
            main = self._loss(logits.main.float(), labels_B)
            auxiliary = [self._loss(head.float(), labels_B) for head in logits.auxiliary]
            torch.autograd.backward(lease.weight * sum((AUXILIARY_WEIGHT * head for head in auxiliary), main))
        errors = int((logits.main.detach().argmax(dim=1) != labels_B).sum())
        values = torch.stack([loss.detach() for loss in (main, *auxiliary)]).tolist()
        finite = all_finite(gradient_N) and all(map(math.isfinite, values))
        if finite and self._clip_norm > 0.0:
            _clip(gradient_N, self._clip_norm)
        return Losses(values[0], tuple(values[1:]), errors, finite)

    def predict(self, weights_N: Tensor, images_BCHW: Tensor) -> Tensor:
        """Main logits (B, K) in float32, in eval mode and without a graph. The weights are read, never written.

        Raises:
            HiddenRandomness, SeedingRefused, ValueError: As for `compute`.
        """
        self._point_at(weights_N, None)
        self._model.eval()
        try:
            with torch.no_grad(), self._drawing("predict", weights_N.device), self._autocast(weights_N.device):
                logits = self._model(images_BCHW)
        finally:
            self._model.train()
        main: Tensor = logits if isinstance(logits, Tensor) else logits.main
        return main.float()

    def _point_at(self, weights_N: Tensor, gradient_N: Tensor | None) -> None:
        """Make the module's state that of these vectors, without a copy."""
        weights = self._views_of(weights_N)
        gradients = self._views_of(gradient_N) if gradient_N is not None else (None,) * len(weights)
        for parameter, weight, gradient in zip(self._parameters, weights, gradients, strict=True):
            parameter.data = weight
            parameter.grad = gradient
        for buffer, initial in self._buffers:
            buffer.copy_(initial)

    def _views_of(self, flat_N: Tensor) -> tuple[Tensor, ...]:
        views = self._views.get(flat_N)
        if views is None:
            if flat_N.data_ptr() % ALIGNMENT_BYTES:
                offset = flat_N.data_ptr() % ALIGNMENT_BYTES
                raise ValueError(
                    f"flat vector: got memory {offset} bytes past a multiple of {ALIGNMENT_BYTES}, expected 0"
                )
            # Of a second tensor over the same memory, which does not keep the first one, the key, alive.
            views = self._views[flat_N] = tuple(self._layout.views(flat_N.detach()).values())
        return views

    def _drawing(self, stream: str, device: torch.device) -> AbstractContextManager[None]:
        kinds = ("cpu",) if device.type == "cpu" else (device, "cpu")
        return drawing_from(*(torch_stream(self._seed, stream, kind) for kind in kinds))

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        # Without the cache of casts: all threads share it, and one may clear what another counts on.
        return torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False)


def _clip(gradient_N: Tensor, limit: float) -> None:
    """Scale a finite gradient down to the norm `limit`, unless it is below."""
    norm = float(torch.linalg.vector_norm(gradient_N))
    if math.isinf(norm):  # the squares overflowed, not the gradient
        norm = float(torch.linalg.vector_norm(gradient_N, dtype=torch.float64))
    if norm > limit:
        gradient_N.mul_(limit / norm)
