"""Batches: a lease to the tensors that its gradient is computed from.

A pure function of (data, lease id): the examples are the lease's stretch of its epoch's permutation, their augmentation
is drawn from the stream "lease/ID/augment", and nothing else enters. Which worker, thread or process asks, how often
and in which attempt, changes no bit.

Shape suffixes: B = examples in the batch, C = channels, H = height, W = width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps.errors import BadInput
from ps.leases import LeasePlan
from ps.messages import Lease
from ps.streams import numpy_stream
from workers.augment import Augmentation
from workers.decode import BadImage
from workers.images import Dataset, Pixels


@dataclass(frozen=True, slots=True)
class Batch:
    """What a network is fed.

    Attributes:
        images_BCHW: float32, contiguous, mean subtracted and scaled to about unit range; owned by whoever asked.
        labels_B: int64.
        skipped: Examples left out because they cannot be read; B, which may be 0, and this add up to the examples
            asked for.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    skipped: int


class Batches:
    """The batches of a run, by lease. Safe to ask from many threads at once."""

    def __init__(
        self,
        dataset: Dataset,
        plan: LeasePlan,
        augmentation: Augmentation,
        on_bad: str = "skip",
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Bind data, plan and augmentation.

        Args:
            dataset: The training set that the plan was made for.
            plan: Which examples each lease names, and the run's seed.
            augmentation: What the images go through.
            on_bad: What an unreadable example does: "skip" leaves it out and counts it, "fail" raises its BadImage.
            report: Told, of each example left out, which it is and why; from any thread, every time that it is read.

        Raises:
            BadInput: Plan and data set have different lengths, or `on_bad` is neither.
        """
        if plan.examples != len(dataset):
            raise BadInput(
                f"{dataset.name}: got {len(dataset)} examples, expected {plan.examples}; is it the run's own data?"
            )
        if on_bad not in ("skip", "fail"):
            raise BadInput(f"on_bad: got {on_bad!r}, expected skip or fail")
        self._dataset = dataset
        self._plan = plan
        self._augmentation = augmentation
        self._on_bad = on_bad
        self._report = report
        self._order = lru_cache(maxsize=2)(plan.order)  # leases of two epochs are in work around an epoch's end

    def batch(self, lease: Lease) -> Batch:
        """The batch that a lease names. It is empty if none of the lease's examples can be read.

        Raises:
            BadImage: An example cannot be read and `on_bad` is "fail".
        """
        labels: list[int] = []
        # One decoded picture at a time: a batch of large ones would not fit into memory.
        images = self._images(self._order(lease.epoch)[lease.first : lease.first + lease.count].tolist(), labels)
        pixels_BHWC = _none(self._dataset)
        if (first := next(images, None)) is not None:
            generator = numpy_stream(self._plan.seed, f"lease/{lease.id}/augment")
            pixels_BHWC = self._augmentation(chain([first], images), lease.count, generator)
        return _assemble(self._dataset, pixels_BHWC, labels, lease.count - len(labels))

    def _images(self, indices: Sequence[int], labels: list[int]) -> Iterator[Pixels]:
        """The readable images of these examples, one after the other; their labels are added to `labels`."""
        for index in indices:
            try:
                example = self._dataset.read(index)
            except BadImage as error:
                if self._on_bad == "fail":
                    raise
                self._report(str(error))
                continue
            labels.append(example.label)
            yield example.image


def _none(dataset: Dataset) -> Pixels:
    """No images, of the shape that others would have."""
    if not len(dataset.mean_C):
        return np.empty((0, *dataset.image_shape), np.float32)
    channels, height, width = dataset.image_shape
    return np.empty((0, height, width, channels), np.uint8)


def _assemble(dataset: Dataset, pixels_BHWC: Pixels, labels: Sequence[int], skipped: int) -> Batch:
    images_BCHW = standardised(pixels_BHWC, dataset.mean_C, dataset.scale)
    if (got := tuple(images_BCHW.shape[1:])) != dataset.image_shape:
        raise BadInput(f"{dataset.name}: got images of {got}, expected {dataset.image_shape}: channels, height, width")
    return Batch(images_BCHW, torch.from_numpy(np.array(labels, np.int64)), skipped)


def standardised(pixels_BHWC: Pixels, mean_C: npt.NDArray[np.float32], scale: float) -> Tensor:
    """What a network is fed for these pixels: (pixel - mean) * scale, float32, contiguous, (B, C, H, W). What is
    float32 already is fed as it is, whatever its shape.
    """
    if pixels_BHWC.dtype == np.float32:
        return torch.from_numpy(pixels_BHWC)
    count, height, width, channels = pixels_BHWC.shape
    images_BCHW = np.empty((count, channels, height, width), np.float32)
    np.subtract(pixels_BHWC.transpose(0, 3, 1, 2), mean_C[:, None, None], out=images_BCHW)
    images_BCHW *= np.float32(scale)
    return torch.from_numpy(images_BCHW)
