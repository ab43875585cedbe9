"""Bench: what it costs to read images while computing, in images per second.

    preloaded    gradients of one batch that lies in memory: the bare loop
    reading      gradients of batches that a worker's read-ahead decodes and augments meanwhile, on the same cores
    decoding     nothing but decoding and augmenting, on one thread

The first two in float32 and in bfloat16. Of `reading` also the share of the time that compute waited for a batch.
"""

from __future__ import annotations

import os
import tempfile
import time  # noqa: TID251 -- measuring is what this is for
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distbelief.bench.harness import Comparison, Side, Spread, bar, compare, repeating, tell
from ps.errors import require
from ps.layout import Layout
from ps.leases import LeasePlan
from ps.messages import Lease
from ps.streams import numpy_stream
from workers.augment import training_augmentation
from workers.batches import Batch, Batches
from workers.datasets import Dataset, DataSettings, load
from workers.gradient import GradientFunction
from workers.inception import initialise
from workers.models import PRECISIONS, build
from workers.readahead import ReadAhead

EPOCHS = 1_000_000  # more than any bench reads
SEED = 0
SECONDS = 4.0  # that each side is measured for in each round
PHOTOGRAPHS, WIDTH, HEIGHT = 64, 500, 375  # made up; the size is ImageNet's most frequent


def reading_command(root: Path | None, model: str, batch_size: int, pairs: int, as_json: bool) -> int:
    """`distbelief bench reading`: prints a table, or one JSON object. Returns the exit code; raises BadInput."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with nullcontext(root) if root else tempfile.TemporaryDirectory() as folder, bar("reading") as progress:
        if root is None:
            make_photographs(Path(folder))
        measured = Reading(load(DataSettings("imagefolder", str(folder)), "train"), model, batch_size)
        found = compare(measured.sides(SECONDS), "preloaded float32", pairs, progress)
    waits = {name: Spread.of(measured.waits[name][1:]) for name in PRECISIONS}
    table = found.table(f"reading for {model}, batch {batch_size}, {threads} threads", "images")
    decoding = 1000 / found.rate("decoding").median
    shares = ", ".join(f"{100 * waits[name].median:.2f} % in {name}" for name in PRECISIONS)
    table.caption = f"{table.caption}; {decoding:.2f} ms to decode and augment an image; waiting for data: {shares}"
    facts = {"model": model, "batch_size": batch_size, "threads": threads, "data_root": str(root or "")}
    by_precision = {name: _precision(found, name, waits[name]) for name in PRECISIONS}
    tell({**facts, "pairs": pairs, "milliseconds_per_image": decoding, **by_precision}, table, as_json)
    return 0


class Reading:
    """The sides of this bench.

    Attributes:
        waits: By precision, for each measurement of its `reading`: the share of the time spent waiting for batches.
    """

    def __init__(self, dataset: Dataset, model: str, batch_size: int) -> None:
        require(batch_size >= 1, "--batch-size", batch_size, "at least 1 image")
        self._plan = LeasePlan(len(dataset), batch_size, EPOCHS, SEED)
        augmentation = training_augmentation(dataset.name, dataset.image_shape)
        self._batches = Batches(dataset, self._plan, augmentation)
        self._model, self._classes, self._shape = model, len(dataset.classes), dataset.image_shape
        network = build(model, self._classes, *self._shape[:2])
        initialise(network, SEED)
        self._layout = Layout.of(network.named_parameters(), 1)
        self._weights_N, self._gradient_N = torch.empty(self._layout.size), torch.empty(self._layout.size)
        named = {name: parameter.detach() for name, parameter in network.named_parameters()}
        self._layout.flatten(named, self._weights_N)
        self._ids = count()
        self.waits: dict[str, list[float]] = {name: [] for name in PRECISIONS}

    def sides(self, seconds: float) -> dict[str, Side]:
        """What is compared, by name, each in images per second."""
        size = self._plan.batch_size
        first = self._plan.lease(0, 0, 0.0)
        batch = self._batches.batch(first)
        sides: dict[str, Side] = {}
        for name in PRECISIONS:
            compute = self._compute(name)
            sides[f"preloaded {name}"] = repeating(partial(compute, first, batch), size, seconds)
            sides[f"reading {name}"] = partial(self._read, name, compute, seconds)
        sides["decoding"] = repeating(lambda: self._batches.batch(self._next()), size, seconds)
        return sides

    def _compute(self, precision: str) -> Callable[[Lease, Batch], object]:
        model = build(self._model, self._classes, *self._shape[:2])
        function = GradientFunction(model, self._layout, SEED, precision)
        return lambda lease, batch: function.compute(
            self._weights_N, lease, batch.images_BCHW, batch.labels_B, self._gradient_N
        )

    def _next(self) -> Lease:
        """The next lease that is not an epoch's short last one: steps are to be alike."""
        leases = (self._plan.lease(id, 0, 0.0) for id in self._ids)
        return next(lease for lease in leases if lease.count == min(self._plan.batch_size, self._plan.examples))

    def _read(self, precision: str, compute: Callable[[Lease, Batch], object], seconds: float) -> float:
        reading = ReadAhead(self._plan, self._batches.batch, threads=1)
        waited = 0.0

        def step(computed: bool = True) -> None:
            nonlocal waited
            lease = self._next()
            reading.granted(0, lease)
            began = time.perf_counter()
            batch = reading.batch(lease)
            waited += time.perf_counter() - began
            if computed:
                compute(lease, batch)

        try:
            step(computed=False)  # after two leases there is a stride, so that the third is guessed: as in a long run
            step(computed=False)
            step()
            waited, began = 0.0, time.perf_counter()
            rate = repeating(step, self._plan.batch_size, seconds)()
            self.waits[precision].append(waited / (time.perf_counter() - began))
        finally:
            reading.close()  # nothing is decoded at another side's expense
        return rate


def make_photographs(folder: Path) -> None:
    """An image folder with JPEGs that are about as hard to decode as ImageNet's: smooth, with some grain."""
    for number in range(PHOTOGRAPHS):
        stream = numpy_stream(SEED, f"photograph/{number}")
        coarse = Image.fromarray(stream.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int64)
        grain = stream.integers(-12, 13, (HEIGHT, WIDTH, 1))
        place = folder / "train" / f"class-{number % 2}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(place, quality=90)


def _precision(found: Comparison, name: str, waits: Spread) -> dict[str, Any]:
    preloaded, reading = f"preloaded {name}", f"reading {name}"
    ratio = found.ratio(reading, preloaded)
    return {
        "images_per_second": found.rate(reading).median,
        "preloaded_images_per_second": found.rate(preloaded).median,
        "ratio": ratio.median,
        "waiting_share": waits.median,
        "spread": {
            "images_per_second": found.rate(reading).as_json(),
            "preloaded_images_per_second": found.rate(preloaded).as_json(),
            "ratio": ratio.as_json(),
            "waiting_share": waits.as_json(),
        },
    }
