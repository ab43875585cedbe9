"""Bench: a whole exchange (push a gradient, have it applied, pull all weights), in round trips per second of all
workers together.

    floor       one thread of one process, without anybody to talk to: copy the weights out, one fused update
    ours        shards and worker hosts in processes of their own, through shared memory or over TCP on loopback
    baselines   the same done in other ways, from cluster.baselines

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from typing import Any

import torch

from distbelief.bench.exchanging import GRADIENT, MOMENTUM, RATE, SECONDS, Load, exchanging
from distbelief.bench.harness import Comparison, Side, bar, compare, repeating, tell
from ps import kernel
from ps.errors import require
from workers.models import build, input_size

CLASSES = 1000
CHANNELS = 3
SMALL_SIZE = 32  # pixels; for networks that take images as they are
WIRES = ("float32", "bfloat16")


def exchange_command(model: str, workers: int, shards: int, pairs: int, as_json: bool) -> int:
    """`distbelief bench exchange`: on one host, through shared memory, beside Ray. Returns the exit code.

    Raises:
        BadInput: An unknown model, or fewer than one worker or shard.
    """
    from cluster import baselines

    shapes = _shapes(model, workers)
    load = Load(sum(map(math.prod, shapes)), workers, shards, _hosts(workers))
    elements = [bound.stop - bound.start for bound in map(load.layout.bounds, range(shards))]
    with ExitStack() as stack:
        sides = {"floor": floor(load.elements), "ours": stack.enter_context(exchanging(load))}
        stack.enter_context(baselines.ray_here())
        sides["ray example"] = baselines.example(shapes, workers, SECONDS)
        sides["ray arrays"] = baselines.arrays(elements, workers, SECONDS)
        with bar(f"exchanges of {model}") as progress:
            found = compare(sides, "floor", pairs, progress)
    others = {
        name: {"roundtrips_per_second": found.rate(name).median, "ratio": found.ratio("ours", name).median}
        for name in ("ray example", "ray arrays")
    }
    ours = {**_side(found, "ours"), "baselines": others}
    tell({**_facts(model, load, found), **ours}, found.table(_title(model, load), "exchanges"), as_json)
    return 0


def network_command(model: str, workers: int, shards: int, pairs: int, as_json: bool) -> int:
    """`distbelief bench network`: over TCP on loopback, per wire dtype; in the JSON object float32 is at the top too.
    Returns the exit code; raises as above.
    """
    elements = sum(map(math.prod, _shapes(model, workers)))
    with ExitStack() as stack:
        sides = {"floor": floor(elements)}
        for wire in WIRES:
            load = Load(elements, workers, shards, _hosts(workers), wire)
            sides[wire] = stack.enter_context(exchanging(load))
        with bar(f"exchanges of {model} over TCP") as progress:
            found = compare(sides, "floor", pairs, progress)
    by_wire = {wire: _side(found, wire) for wire in WIRES}
    facts = {**_facts(model, load, found), **by_wire["float32"], **by_wire}
    tell(facts, found.table(_title(model, load), "exchanges"), as_json)
    return 0


def _shapes(model: str, workers: int) -> list[tuple[int, ...]]:
    require(workers >= 1, "--workers", workers, "at least 1")
    network = build(model, CLASSES, CHANNELS, input_size(model) or SMALL_SIZE)
    return [tuple(parameter.shape) for parameter in network.parameters()]


def _hosts(workers: int) -> int:
    """Worker hosts, as a launch on this machine places them."""
    return min(workers, len(os.sched_getaffinity(0)))


def _facts(model: str, load: Load, found: Comparison) -> dict[str, Any]:
    return {
        "model": model,
        "parameters": load.elements,
        "workers": load.workers,
        "shards": load.shards,
        "kernel": kernel.in_use(),
        "pairs": found.rounds,
        "floor_roundtrips_per_second": found.rate("floor").median,
    }


def _side(found: Comparison, name: str) -> dict[str, Any]:
    return {
        "roundtrips_per_second": found.rate(name).median,
        "ratio_to_floor": found.ratio(name).median,
        "spread": {
            "floor_roundtrips_per_second": found.rate("floor").as_json(),
            "roundtrips_per_second": found.rate(name).as_json(),
            "ratio_to_floor": found.ratio(name).as_json(),
        },
    }


def _title(model: str, load: Load) -> str:
    return f"{model}, {load.elements:,} float32, {load.workers} workers, {load.shards} shards"


def floor(elements: int) -> Side:
    """Copy out and update, as fast as one thread goes."""
    w_N, v_N, g_N, out_N = (
        torch.randn(elements),
        torch.zeros(elements),
        torch.full((elements,), GRADIENT),
        torch.empty(elements),
    )

    def round_trip() -> None:
        out_N.copy_(w_N)
        torch._fused_sgd_(
            [w_N], [g_N], [v_N], weight_decay=0.0, momentum=MOMENTUM, lr=RATE, dampening=0.0,
            nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip

    measure = repeating(round_trip, 1, SECONDS)

    def alone() -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return measure()
        finally:
            torch.set_num_threads(threads)

    return alone
