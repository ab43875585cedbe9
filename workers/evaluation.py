"""Evaluation: the errors and the loss that one model, or an ensemble, makes on a data set's test split.

The images are dealt out to threads in fixed portions, as many as make one batch or else one image: so no thread waits
long for another at the end, and neither how many there are nor which one is faster changes a number.

Shape suffixes: I = images of a portion, K = classes, N = parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import torch

from ps.errors import BadInput
from workers.classification import Ensemble, batch_size, probabilities
from workers.crops import Crops
from workers.datasets import Dataset, DataSettings, load
from workers.decode import BadImage
from workers.gradient import GradientFunction
from workers.images import Pixels, Traits
from workers.models import ModelSettings, network

if TYPE_CHECKING:
    from torch import Tensor

    from ps.layout import Layout

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares of wrongly classified examples (0.0667, not 6.67), mean cross entropy in nats, over how many examples, and
    how many more could not be read.
    """

    top1_error: float
    top5_error: float
    loss: float
    examples: int
    skipped: int = 0


def evaluate(
    ensembles: Sequence[Ensemble],
    dataset: Dataset,
    crops: int = 1,
    progress: Progress = lambda _: None,
    complain: Callable[[BadImage], None] = lambda _: None,
) -> Evaluation:
    """Evaluate one model, or an ensemble whose probabilities are averaged.

    Args:
        ensembles: The same models once per thread; so many threads compute, each with torch's number of threads.
        dataset: What to evaluate on; unreadable images are left out.
        crops: 1, 10 or 144 per image.
        progress: Told the number of examples done so far, unreadable ones included.
        complain: Told of every unreadable image, in order.

    Raises:
        BadInput: The data set has no readable example, or there is no such number of crops.
    """
    traits = Traits.of(dataset)
    shown = Crops.of(traits, crops)
    images = max(1, batch_size(traits) // shown.distinct)
    portions = [range(first, min(first + images, len(dataset))) for first in range(0, len(dataset), images)]
    free: SimpleQueue[Ensemble] = SimpleQueue()
    for ensemble in ensembles:
        free.put(ensemble)

    def tally(portion: range) -> _Tally:
        ensemble = free.get()
        try:
            return _tally(ensemble, dataset, portion, shown, traits)
        finally:
            free.put(ensemble)

    tallies: list[_Tally] = []
    pool = ThreadPoolExecutor(len(ensembles))
    try:
        for portion, found in zip(portions, pool.map(tally, portions), strict=True):
            tallies.append(found)
            for error in found.unreadable:
                complain(error)
            progress(portion.stop)
    finally:
        pool.shutdown(cancel_futures=True)  # whatever ends this early must not wait for all portions
    return _total(tallies, dataset)


@dataclass(frozen=True, slots=True)
class _Tally:
    """What a portion came to: hits, the sum of the losses, and the images that could not be read."""

    top1: int
    top5: int
    loss: float
    examples: int
    unreadable: tuple[BadImage, ...]


def _tally(ensemble: Ensemble, dataset: Dataset, portion: range, shown: Crops, traits: Traits) -> _Tally:
    labels: list[int] = []
    unreadable: list[BadImage] = []

    def images() -> Iterator[Pixels]:
        for index in portion:
            try:
                example = dataset.read(index)
            except BadImage as error:
                unreadable.append(error)
                continue
            labels.append(example.label)
            yield example.image

    found = list(probabilities(ensemble, images(), shown, traits))
    if not found:
        return _Tally(0, 0, 0.0, 0, tuple(unreadable))
    mean_IK, labels_I1 = torch.stack(found), torch.tensor(labels)[:, None]
    hits_I5 = mean_IK.topk(min(5, mean_IK.shape[1]), 1).indices == labels_I1
    picked_I1 = mean_IK.gather(1, labels_I1).clamp_min(torch.finfo(torch.float32).tiny)
    loss = float(-picked_I1.log().sum())
    return _Tally(int(hits_I5[:, 0].sum()), int(hits_I5.sum()), loss, len(labels), tuple(unreadable))


def _total(tallies: Sequence[_Tally], dataset: Dataset) -> Evaluation:
    examples = sum(tally.examples for tally in tallies)
    skipped = sum(len(tally.unreadable) for tally in tallies)
    if not examples:
        raise BadInput(
            f"{dataset.name}: got {skipped} unreadable examples of {len(dataset)}, expected readable ones to evaluate"
        )
    top1, top5 = (1 - sum(hits) / examples for hits in zip(*((t.top1, t.top5) for t in tallies), strict=True))
    loss = sum(tally.loss for tally in tallies) / examples
    return Evaluation(top1, top5, loss if math.isfinite(loss) else math.nan, examples, skipped)


class Evaluator:
    """A model and the test split it is evaluated on with one crop per image, opened once for many evaluations.

    Args:
        model: What computes.
        data: Whose test split.
        layout: Of the model's parameters.
        threads: How many compute at once.
    """

    def __init__(self, model: ModelSettings, data: DataSettings, layout: Layout, threads: int = 1) -> None:
        self._dataset = load(data, "test")
        self._functions = [
            GradientFunction(network(model, Traits.of(self._dataset)), layout, 0, model.precision)
            for _ in range(threads)
        ]

    def evaluate(self, weights_N: Tensor, progress: Progress = lambda _: None) -> Evaluation:
        """Evaluate the model with these weights."""
        ensembles = [(partial(function.predict, weights_N),) for function in self._functions]
        return evaluate(ensembles, self._dataset, progress=progress)
