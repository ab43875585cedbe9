"""Evaluation: error and loss of a model on a data set's test split, one centre crop per image.

Shape suffixes: B = images of a batch, K = classes, N = parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from workers.batches import evaluation_batches
from workers.datasets import Dataset, DataSettings, load
from workers.gradient import GradientFunction
from workers.models import ModelSettings, build

if TYPE_CHECKING:
    from torch import Tensor

    from ps.layout import Layout

BATCH_SIZE = 64

Predictor = Callable[["Tensor"], "Tensor"]  # images (B, C, H, W) to logits (B, K)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares of wrongly classified examples (0.0667, not 6.67), mean cross entropy in nats, and over how many
    examples.
    """

    top1_error: float
    top5_error: float
    loss: float
    examples: int


def evaluate(
    predictors: Sequence[Predictor],
    dataset: Dataset,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Evaluate one model, or an ensemble whose probabilities are averaged.

    Args:
        predictors: Each maps images (B, C, H, W) to logits (B, K).
        dataset: What to evaluate on; unreadable images are left out.
        progress: Told the number of examples done so far.

    Raises:
        ValueError: The data set has no readable example.
    """
    top1 = top5 = examples = 0
    loss = 0.0
    for batch in evaluation_batches(dataset, BATCH_SIZE):
        probabilities = [torch.softmax(predict(batch.images_BCHW).float(), 1) for predict in predictors]
        mean_BK = torch.stack(probabilities).mean(0)
        labels_B = batch.labels_B
        best_B5 = mean_BK.topk(min(5, mean_BK.shape[1]), 1).indices
        hits_B5 = best_B5 == labels_B[:, None]
        top1 += int(hits_B5[:, 0].sum())
        top5 += int(hits_B5.sum())
        picked_B = mean_BK.gather(1, labels_B[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
        loss += float(-picked_B.log().sum())
        examples += len(labels_B)
        progress(examples)
    if not examples:
        raise ValueError("the test split has no readable example")
    return Evaluation(
        1 - top1 / examples, 1 - top5 / examples, loss / examples if math.isfinite(loss) else math.nan, examples
    )


class Evaluator:
    """A model and the test split it is evaluated on, opened once for many evaluations."""

    def __init__(self, model: ModelSettings, data: DataSettings, layout: Layout) -> None:
        self._dataset = load(data, "test")
        network = build(model.name, len(self._dataset.classes), *self._dataset.image_shape[:2])
        self._function = GradientFunction(network, layout, 0, model.precision)

    def evaluate(self, weights_N: Tensor, progress: Callable[[int], None] = lambda _: None) -> Evaluation:
        """Evaluate the model with these weights."""
        return evaluate([lambda images_BCHW: self._function.predict(weights_N, images_BCHW)], self._dataset, progress)
