"""Advisor: measures how curved a run's loss is, and says in one sentence where its rate is more than is stable.

A handful of small batches give the largest curvature: as much as one of the run's own steps, or a few. For adamw and
rmsprop it is the curvature that their scaled step sees, with the scale that the same batches' gradients would give it.
On the live clock a thread measures it when nobody else wants the processor, so a run is neither later nor slower for
it; a run that is over before gets no advice.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from cluster.machines import build_batches, build_computation
from distbelief.measures import Stability, largest_curvature
from distbelief.policy import LOOKS_AHEAD
from ps.errors import DistbeliefError
from ps.leases import LeasePlan
from ps.streams import derive

if TYPE_CHECKING:
    from torch import Tensor

    from cluster.spec import RunSpec
    from distbelief.config import Config
    from workers.images import Dataset

BATCH_SIZE = 8  # examples of each gradient
BATCHES = 4  # that give the scale
SCALED = ("adamw", "rmsprop")  # the rules that divide a gradient by its typical size
BORNE_AFTER_WARMUP = 2.0  # times the limit at first: curvature falls while the rate rises (Gilmer et al. 2022)
ITERATIONS = 8  # products with the Hessian, two gradients each
LOWEST_PRIORITY = 19


def measurable(config: Config) -> bool:
    """Whether the limits of the theory apply: to rules that step along the gradient, or along a scaled one."""
    return (
        config.rule.rule in ("sgd", "momentum", "nesterov", *SCALED)
        and config.program.kind == "gradient"
        and config.correction.kind in ("none", "staleness-rate", "discard", "implicit-momentum", LOOKS_AHEAD)
    )


def curvature(
    config: Config, spec: RunSpec, dataset: Dataset, w_N: Tensor, look: Callable[[], None] = lambda: None
) -> float:
    """The largest curvature at these weights: a lower bound that is seldom far off.

    Args:
        w_N: Only read.
        look: Called before every gradient; what it raises ends the measurement.
    """
    plan = LeasePlan(len(dataset), BATCH_SIZE, 1, derive(config.run.seed, "advisor"))
    small = replace(spec, plan=plan, model=replace(spec.model, clip_norm=0.0, precision="float32"))
    computation = build_computation(small, dataset, build_batches(small, dataset).batch)
    point_N, gradient_N = torch.empty_like(w_N), torch.empty_like(w_N)

    def gradient(at_N: Tensor, batch: int = 0) -> Tensor:
        look()
        point_N.copy_(at_N)  # the network looks at vectors that stay where they are
        computation(plan.lease(batch, 0, 0.0), point_N, gradient_N)
        return gradient_N

    scale_N = None
    if config.rule.rule in SCALED:
        batches = [gradient(w_N, batch).square() for batch in range(min(BATCHES, plan.leases))]
        scale_N = 1.0 / (torch.stack(batches).mean(0).sqrt() + config.rule.epsilon)
    return largest_curvature(gradient, w_N, gradient(w_N).clone(), ITERATIONS, scale_N)


def stability(config: Config, curvature: float, staleness: float | None = None) -> Stability:
    """What this configuration's rate is worth at this curvature.

    Args:
        staleness: Mean, as it was measured; by default as so many workers will have it. Where not all begin at once,
            that of those who do: the rate falls as the others join.
    """
    at_first = float(config.staleness_at_first)
    if staleness is None or config.consistency.begin:
        staleness = at_first
    rate, momentum = config.schedule.rate, config.rule.momentum
    match config.rule.rule:
        case "sgd":
            momentum = 0.0
        case "adamw":  # its mean of gradients is a momentum at 1 - beta1 of the rate
            rate, momentum = rate * (1 - config.rule.beta1), config.rule.beta1
    match config.correction.kind:
        case "staleness-rate":
            rate *= max(1.0, staleness) ** -config.correction.power
        case "implicit-momentum":
            age = max(0.0, momentum / (1 - momentum) - staleness)
            paid = min(1.0, 1.0 / ((1 - momentum) * (1 + staleness)))
            rate, momentum = rate * paid / ((1 + age) * (1 - momentum)), age / (1 + age)
    borne = BORNE_AFTER_WARMUP if config.schedule.warmup_epochs > 0 else 1.0
    return Stability(rate, momentum, staleness, curvature, config.correction.kind == LOOKS_AHEAD, borne)


class Advisor:
    """Measures one run's curvature beside it, and says what there is to say. Close it.

    Args:
        w_N: Initial weights; only read.
        say: Told the sentence, if there is one.
    """

    def __init__(
        self, config: Config, spec: RunSpec, dataset: Dataset, w_N: Tensor, say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._say = say
        self._curvature = math.nan
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._measure, args=(spec, dataset, w_N.clone()), name="advisor")
        if measurable(config):
            self._thread.start()

    def _measure(self, spec: RunSpec, dataset: Dataset, w_N: Tensor) -> None:
        with suppress(OSError):  # some sandboxes forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        torch.set_num_threads(1)  # of this thread's
        with suppress(CancelledError, DistbeliefError):  # the run itself says what is wrong with its data
            found = curvature(self._config, spec, dataset, w_N, self._look)
            if sentence := stability(self._config, found).advice():
                self._say(sentence)
            self._curvature = found

    def _look(self) -> None:
        if self._closed.is_set():
            raise CancelledError

    def stop(self) -> None:
        """Measure no more than the gradient in hand."""
        self._closed.set()

    def join(self) -> None:
        """Return when it measures no more."""
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and return when that is so."""
        self.stop()
        self.join()

    def verdict(self, staleness: float) -> dict[str, Any] | None:
        """For summary.json, at the staleness that was measured; None if the curvature is not known."""
        if not math.isfinite(self._curvature):
            return None
        return verdict(stability(self._config, self._curvature, staleness))


def verdict(found: Stability) -> dict[str, Any]:
    """For summary.json: the numbers, and the sentence if the rate is beyond the limit."""
    return {**asdict(found), "limit": found.limit, "ratio": found.ratio, "advice": found.advice()}
