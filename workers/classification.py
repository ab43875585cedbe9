"""Classification: images to class probabilities, by one model or by several.

Probabilities are averaged over the crops of an image and over the models, each after its softmax; the crops are made
once for all models. Batches are formed across images, so that they are full whatever the images are, and a batch is
all that is in memory besides one image.

Source: Szegedy et al. 2014, section 7 (the maximum over crops, and other ways to combine, were worse).
Shape suffixes: B = crops of a batch, C, H, W = channels, rows, columns, K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice

import numpy as np
import torch
from torch import Tensor

from workers.batches import standardised
from workers.crops import Crop, Crops
from workers.images import Pixels, Traits

LARGEST_BATCH = 64
BATCH_PIXELS = 1 << 20  # 20 crops at 224: more do not make a core faster, and take memory on every one

Predictor = Callable[[Tensor], Tensor]  # images (B, C, H, W) to logits (B, K); for one thread at a time
Ensemble = Sequence[Predictor]


def batch_size(traits: Traits) -> int:
    """Crops per batch that suit a core and its memory."""
    return max(1, min(LARGEST_BATCH, BATCH_PIXELS // math.prod(traits.image_shape[-2:])))


def probabilities(
    ensemble: Ensemble, images: Iterable[Pixels], crops: Crops, traits: Traits, batch: int | None = None
) -> Iterator[Tensor]:
    """Every image's class probabilities (K,), float32, in order; images are read as they are needed.

    Args:
        ensemble: The models.
        images: uint8 HxWxC of any size, with the channels that the models take, or float32 as they are fed.
        crops: How an image is shown.
        traits: What the models' images were centred and scaled by.
        batch: Crops per batch; by default what suits the size of the crops.
    """
    cut = ((number, crop) for number, image in enumerate(images) for crop in crops.cut(image))
    rows = _rows(ensemble, cut, traits, batch or batch_size(traits))
    for _, group in groupby(rows, lambda row: row[0]):
        _, weights, rows_K = zip(*group, strict=True)
        weights_1B = torch.tensor([weights], dtype=torch.float32)
        yield (weights_1B @ torch.stack(rows_K)).squeeze(0) / weights_1B.sum()


def _rows(
    ensemble: Ensemble, cut: Iterator[tuple[int, Crop]], traits: Traits, batch: int
) -> Iterator[tuple[int, int, Tensor]]:
    """For every crop its image's number, its weight, and its probabilities (K,), averaged over the models."""
    mean_C = np.array(traits.mean, np.float32)
    while taken := list(islice(cut, batch)):
        images_BCHW = standardised(np.stack([crop.pixels for _, crop in taken]), mean_C, traits.scale)
        each_BK = [torch.softmax(predict(images_BCHW).float(), 1) for predict in ensemble]
        mean_BK = torch.stack(each_BK).mean(0)
        yield from ((number, crop.weight, row_K) for (number, crop), row_K in zip(taken, mean_BK, strict=True))
