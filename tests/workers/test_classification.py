"""Classification: probabilities averaged over crops and models, in batches that change no number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ps.streams import numpy_stream
from workers.classification import BATCH_PIXELS, Predictor, batch_size, probabilities
from workers.crops import Crop, Crops
from workers.datasets import DataSettings, load
from workers.images import Traits, UInt8
from workers.inception import initialise
from workers.models import build

TRAITS = Traits("imagefolder", ("a", "b", "c"), (3, 8, 8), (100.0, 110.0, 120.0), 1 / 50)
SHAPES = ((20, 30), (30, 20), (9, 9), (8, 8), (40, 41))


def images() -> list[UInt8]:
    stream = numpy_stream(0, "images")
    return [stream.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]


def linear(seed: int, seen: list[Tensor] | None = None) -> Predictor:
    """A model of one layer, that notes what it is shown."""
    weights = torch.from_numpy(numpy_stream(seed, "weights").standard_normal((192, 3)).astype(np.float32)) / 14

    def predict(images_BCHW: Tensor) -> Tensor:
        if seen is not None:
            seen.append(images_BCHW)
        return images_BCHW.flatten(1) @ weights

    return predict


def one_by_one(predictors: list[Predictor], image: UInt8, crops: Crops) -> Tensor:
    """The mean over crops and models, without a batch, in double precision."""
    total, weight = torch.zeros(3, dtype=torch.float64), 0
    for crop in crops.cut(image):
        fed = (crop.pixels.astype(np.float64) - TRAITS.mean) * TRAITS.scale
        for predict in predictors:
            logits = predict(torch.from_numpy(fed).permute(2, 0, 1)[None].contiguous().float())
            total += crop.weight * torch.softmax(logits.double(), 1)[0]
            weight += crop.weight
    return total / weight


@pytest.mark.parametrize("batch", [1, 7, 48, 64, 1000])
@pytest.mark.parametrize("count", [1, 10, 144])
def test_the_mean_over_crops_and_models_whatever_the_batch(count: int, batch: int) -> None:
    predictors, crops = [linear(0), linear(1)], Crops(count, 8)
    found = list(probabilities(predictors, images(), crops, TRAITS, batch))
    expected = [one_by_one(predictors, image, crops) for image in images()]
    assert torch.allclose(torch.stack(found).double(), torch.stack(expected), atol=1e-6)
    assert torch.allclose(torch.stack(found).sum(1), torch.ones(5))


def test_a_real_network_does_not_mind_the_batch_either() -> None:
    dataset = load(DataSettings(), "test")
    network = build("inception-mini", 10, 1, 16)
    initialise(network, 0)
    network.eval()

    def predict(images_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = network(images_BCHW).main
        return logits

    traits, digits = Traits.of(dataset), [dataset.read(index).image for index in range(30)]
    found = [
        torch.stack(list(probabilities([predict], digits, Crops.of(traits, 10), traits, batch)))
        for batch in (1, 13, 64)
    ]
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-6)
    assert torch.allclose(found[0], found[2], rtol=0, atol=1e-6)


def test_batches_are_full_across_images() -> None:
    seen: list[Tensor] = []
    list(probabilities([linear(0, seen)], images(), Crops(10, 8), TRAITS, 16))
    assert [len(batch) for batch in seen] == [16, 16, 16, 2]


def test_crops_are_made_once_for_all_models() -> None:
    made: list[Crop] = []

    class Counting(Crops):
        def cut(self, image: UInt8) -> Iterator[Crop]:
            for crop in super().cut(image):
                made.append(crop)
                yield crop

    first: list[Tensor] = []
    second: list[Tensor] = []
    list(probabilities([linear(0, first), linear(1, second)], images(), Counting(144, 8), TRAITS))
    assert len(made) == 2 * 144 + 3 * 48  # at these sizes 40x41 is a square too
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_images_are_read_as_they_are_needed() -> None:
    read = 0

    def reading() -> Iterator[UInt8]:
        nonlocal read
        for image in images():
            read += 1
            yield image

    found = probabilities([linear(0)], reading(), Crops(10, 8), TRAITS, 10)
    next(found)
    assert read == 2


def test_no_images_no_probabilities() -> None:
    assert list(probabilities([linear(0)], [], Crops(10, 8), TRAITS)) == []


def test_batches_are_bounded_in_pixels() -> None:
    def size(side: int) -> int:
        return batch_size(Traits("x", (), (3, side, side), (0.0,), 1.0))

    assert [size(side) for side in (16, 128, 224, 512, 4096)] == [64, 64, 20, 4, 1]
    assert all(size(side) * side**2 <= BATCH_PIXELS for side in (32, 100, 224, 512))
