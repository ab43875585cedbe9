"""Bench: a live run against a bare loop with the same network, kernels and cores, in images per second.

    bare    gradients of one batch that lies in memory, on all cores, each followed by one fused update: one worker who
            needs nobody
    live    a run as a person launches it: shards, ledger, averager, worker hosts, journals. Its images lie in memory,
            none is evaluated beside training, and the time before the first update does not count

A lone worker computes with as many threads as there are cores; several share the cores out, one thread each.
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distbelief.bench.harness import Side, bar, compare, repeating, tell
from distbelief.bench.launching import launched
from ps.errors import RunFailed, require
from ps.layout import Layout
from ps.messages import Lease
from ps.streams import numpy_stream, torch_stream
from workers.allocator import keep_freed_memory
from workers.gradient import GradientFunction
from workers.inception import initialise
from workers.models import build, input_size

CLASSES, CHANNELS = 10, 3
SMALL_SIZE, LARGE_SIZE = 32, 224  # pixels; small ones also where a network takes images as they are
DATA = {SMALL_SIZE: "small", LARGE_SIZE: "large"}  # the functions below
IMAGES = 64  # different ones
EXAMPLES = 1_000_000  # more than any run here gets through; they are the images, again and again
TESTED = 16
SEED = 0
RATE, MOMENTUM = 1e-4, 0.9
SECONDS = 10.0  # that the bare loop is measured for in each round

Image = npt.NDArray[np.uint8]


class Pictures:
    """Made-up images of this size, in memory."""

    def __init__(self, side: int, count: int) -> None:
        stream = numpy_stream(SEED, f"pictures/{side}")
        self._images = [stream.integers(0, 256, (side, side, CHANNELS), np.uint8) for _ in range(IMAGES)]
        self._count = count
        self.classes = [str(number) for number in range(CLASSES)]
        self.labels = np.arange(count) % CLASSES

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return self._images[index % IMAGES], index % CLASSES


def large(split: str) -> Pictures:
    return Pictures(LARGE_SIZE, EXAMPLES if split == "train" else TESTED)


def small(split: str) -> Pictures:
    return Pictures(SMALL_SIZE, EXAMPLES if split == "train" else TESTED)


def side_of(model: str) -> int:
    """Of the images for this network, in pixels."""
    return input_size(model) or SMALL_SIZE


def live_command(model: str, workers: int, batch_size: int, seconds: int, pairs: int, as_json: bool) -> int:
    """`distbelief bench live`: prints a table, or one JSON object. Returns the exit code.

    Raises:
        BadInput: An unknown model, or a number below 1.
        RunFailed: A run did not end as it should.
    """
    for name, value in (("--workers", workers), ("--batch-size", batch_size), ("--seconds", seconds)):
        require(value >= 1, name, value, "at least 1")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    keep_freed_memory()
    threads = cores if workers == 1 else 1
    sides: dict[str, Side] = {
        "bare": bare(model, batch_size, SECONDS),
        "live": partial(_live, model, workers, batch_size, seconds, threads),
    }
    with bar(f"runs of {model}") as progress:
        found = compare(sides, "bare", pairs, progress)
    facts: dict[str, Any] = {"model": model, "workers": workers, "batch_size": batch_size, "cores": cores}
    facts |= {"pairs": pairs, "images_per_second": found.rate("live").median, "ratio": found.ratio("live").median}
    title = f"{model}, {workers} workers, batch {batch_size}, {cores} cores"
    tell({**facts, "spread": found.as_json()["sides"]}, found.table(title, "images"), as_json)
    return 0


def bare(model: str, batch_size: int, seconds: float) -> Side:
    """The bare loop."""
    side = side_of(model)
    network = build(model, CLASSES, CHANNELS, side)
    initialise(network, SEED)
    layout = Layout.of(network.named_parameters(), 1)
    weights_N, gradient_N = torch.empty(layout.size), torch.empty(layout.size)
    layout.flatten({name: parameter.detach() for name, parameter in network.named_parameters()}, weights_N)
    velocity_N = torch.zeros(layout.size)
    images_BCHW = torch.rand(batch_size, CHANNELS, side, side, generator=torch_stream(SEED, "images"))
    labels_B = torch.arange(batch_size) % CLASSES
    function = GradientFunction(build(model, CLASSES, CHANNELS, side), layout, SEED)
    lease = Lease(0, 0, 0, 0, batch_size, 1.0, math.inf)

    def step() -> None:
        function.compute(weights_N, lease, images_BCHW, labels_B, gradient_N)
        torch._fused_sgd_(
            [weights_N], [gradient_N], [velocity_N], weight_decay=0.0, momentum=MOMENTUM, lr=RATE, dampening=0.0,
            nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip

    return repeating(step, batch_size, seconds)


def _live(model: str, workers: int, batch_size: int, seconds: int, threads: int) -> float:
    chosen = ("run.evaluate_share=0", f"cluster.threads={threads}", "rule.rule=momentum", f"schedule.rate={RATE}")
    settings = [word for each in chosen for word in ("--set", each)]
    summary, _ = launched([
        "--data", f"distbelief.bench.live:{DATA[side_of(model)]}", "--model", model, "--workers", str(workers),
        "--batch-size", str(batch_size), "--epochs", "1", "--max-seconds", str(seconds), *settings,
    ])  # fmt: skip
    if not summary["images_per_second"]:
        raise RunFailed(f"bench live: {summary['updates']} updates within {seconds} s: give it more --seconds")
    return float(summary["images_per_second"])
