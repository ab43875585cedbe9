"""Bench: a worker's gradient against plain torch, in images per second.

    plain       contiguous float32, torch's own layers (plain.py), gradients of torch's own allocation
    float32     what a worker runs: from a flat weight vector to a flat gradient vector
    bfloat16    likewise, with `--precision bfloat16`

All three compute forward and backward with all auxiliary losses, of the same images with the same weights, in one
process whose allocator keeps what is freed, as a worker's does; a script's does not, so the rival is flattered.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
import torch.nn.functional as F

from distbelief.bench.harness import Comparison, Side, bar, compare, repeating, tell
from distbelief.bench.plain import PlainNetwork
from ps.errors import require
from ps.layout import Layout
from ps.messages import Lease
from ps.streams import torch_stream
from workers.allocator import keep_freed_memory
from workers.gradient import AUXILIARY_WEIGHT, GradientFunction
from workers.inception import initialise
from workers.models import MODELS, PRECISIONS, build, input_size

CLASSES = 1000
CHANNELS = 3
SMALL_SIZE = 32  # pixels; for networks that take images as they are
SEED = 0
SECONDS = 2.0  # that each side is measured for in each round


def gradient_command(model: str, batch_size: int, pairs: int, as_json: bool) -> int:
    """`distbelief bench gradient`: prints a table, or one JSON object. Returns the exit code; raises BadInput."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    keep_freed_memory()
    with bar(f"gradients of {model}") as progress:
        found = compare(sides(model, batch_size, SECONDS), "plain", pairs, progress)
    facts = {"model": model, "batch_size": batch_size, "threads": threads, "torch": torch.__version__}
    title = f"gradient of {model}, batch {batch_size}, {threads} threads, torch {torch.__version__}"
    tell({**facts, "pairs": pairs, **_by_precision(found)}, found.table(title, "images"), as_json)
    return 0


def sides(model: str, batch_size: int, seconds: float) -> dict[str, Side]:
    """What is compared, by name, each in images per second. Raises BadInput."""
    require(batch_size >= 1, "--batch-size", batch_size, "at least 1 image")
    side = input_size(model) or SMALL_SIZE
    images_BCHW = torch.randn(batch_size, CHANNELS, side, side, generator=torch_stream(SEED, "images"))
    labels_B = torch.arange(batch_size) % CLASSES
    network = build(model, CLASSES, CHANNELS, side)
    initialise(network, SEED)
    layout = Layout.of(network.named_parameters(), 1)
    weights_N, gradient_N = torch.empty(layout.size), torch.empty(layout.size)
    named = {name: parameter.detach() for name, parameter in network.named_parameters()}
    layout.flatten(named, weights_N)
    plain = PlainNetwork(MODELS[model].table, CLASSES, CHANNELS, side)
    plain.load_state_dict(named)
    lease = Lease(0, 0, 0, 0, batch_size, 1.0, math.inf)

    def plainly() -> None:
        plain.zero_grad()
        main, auxiliary = plain(images_BCHW)
        losses = [F.cross_entropy(logits_BK, labels_B) for logits_BK in (main, *auxiliary)]
        torch.autograd.backward(sum(AUXILIARY_WEIGHT * loss for loss in losses[1:]) + losses[0])

    def ours(precision: str) -> Side:
        function = GradientFunction(build(model, CLASSES, CHANNELS, side), layout, SEED, precision)
        step = lambda: function.compute(weights_N, lease, images_BCHW, labels_B, gradient_N)  # noqa: E731
        return repeating(step, batch_size, seconds)

    return {"plain": repeating(plainly, batch_size, seconds), **{name: ours(name) for name in PRECISIONS}}


def _by_precision(found: Comparison) -> dict[str, Any]:
    plain = found.rate("plain")
    return {
        name: {
            "images_per_second": found.rate(name).median,
            "plain_images_per_second": plain.median,
            "ratio": found.ratio(name).median,
            "spread": {
                "images_per_second": found.rate(name).as_json(),
                "plain_images_per_second": plain.as_json(),
                "ratio": found.ratio(name).as_json(),
            },
        }
        for name in PRECISIONS
    }
