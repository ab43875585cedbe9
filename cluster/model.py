"""Cluster model: how long things take in a simulated cluster, and who is lost when.

Every draw comes from a stream named after what it is for ("simulate/worker/3/compute"), one per worker, so that what
happens to one worker moves no other's times.

    compute_seconds of one gradient, mean m, times the slow machine's factor:
        constant      m
        exponential   m * E,  E ~ Exp(1): memoryless workers
        lognormal     m * exp(s Z - s^2 / 2)                          s = sigma
        pareto        m * (a - 1) / a * U^(-1/a)                      a = tail; stragglers
        empirical     one of the times that a recorded run measured

Source: memoryless workers, Mitliagkas et al. 2016; Pareto stragglers, as in Dutta et al. 2018.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ps.errors import nearest, require
from ps.streams import numpy_stream

if TYPE_CHECKING:
    from numpy.random import Generator  # noqa: TID251 -- made by ps.streams

GRADIENTS = ("real", "none")
COMPUTE = ("constant", "exponential", "lognormal", "pareto", "empirical")
_DRAWS = 64  # at once: numpy's cost per call is that of many draws


@dataclass(frozen=True, slots=True)
class SimulateSettings:
    """What a user chooses about the simulated cluster; the head of this file has the distributions.

    Attributes:
        compute: One of COMPUTE.
        compute_seconds: Mean time of one gradient.
        sigma: lognormal: standard deviation of the logarithm.
        tail: pareto: exponent, above 1; the smaller the heavier.
        slow_workers: The first so many workers are slow.
        slow_factor: How many times slower.
        turns: Gradients that are computed at once, first come, first served; 0: every worker has a core of its own.
        latency_seconds: Of every message.
        bandwidth: Of every link, bytes per second; 0: not limited.
        service_seconds: Of one exchange at a shard, which serves one after the other.
        life_seconds: Mean life of a worker (memoryless); 0: none is ever lost.
        detection_seconds: From a worker's loss to the ledger's knowing.
        rejoin_seconds: From a worker's loss to the start of another in its place; 0: there is none.
        source: compute = empirical: run directory whose journal gives the times.
        gradients: "real", or "none": time, leases and staleness are as they would be, and nothing is learned.
        evaluate_epochs: Epochs between two evaluations of the average, which take no virtual time; 0: none.
    """

    compute: str = "lognormal"
    compute_seconds: float = 0.1
    sigma: float = 0.2
    tail: float = 1.5
    slow_workers: int = 0
    slow_factor: float = 1.0
    turns: int = 0
    latency_seconds: float = 0.0005
    bandwidth: float = 0.0
    service_seconds: float = 0.0
    life_seconds: float = 0.0
    detection_seconds: float = 5.0
    rejoin_seconds: float = 0.0
    source: str = ""
    gradients: str = "real"
    evaluate_epochs: float = 1.0

    def __post_init__(self) -> None:
        expected = f"one of {', '.join(COMPUTE)}{nearest(self.compute, COMPUTE)}"
        require(self.compute in COMPUTE, "simulate.compute", self.compute, expected)
        require(0 < self.compute_seconds < math.inf, "simulate.compute_seconds", self.compute_seconds, "above 0")
        require(1 < self.tail < math.inf, "simulate.tail", self.tail, "a finite number above 1")
        require(self.gradients in GRADIENTS, "simulate.gradients", self.gradients, " or ".join(GRADIENTS))
        require(self.slow_workers >= 0, "simulate.slow_workers", self.slow_workers, "at least 0")
        require(0 < self.slow_factor < math.inf, "simulate.slow_factor", self.slow_factor, "a number above 0")
        require(self.turns >= 0, "simulate.turns", self.turns, "0 (one per worker) or more")
        for name in (
            "sigma", "latency_seconds", "bandwidth", "service_seconds", "life_seconds", "detection_seconds",
            "rejoin_seconds", "evaluate_epochs",
        ):  # fmt: skip
            require(0 <= getattr(self, name) < math.inf, f"simulate.{name}", getattr(self, name), "0 or more, finite")


class ClusterModel:
    """One simulated cluster.

    Args:
        settings: What it is like.
        seed: Root of every draw.
        measured: empirical: recorded compute times in seconds, one sequence per recorded worker; a simulated worker
            takes after the recorded one with its number, counted round.
    """

    def __init__(self, settings: SimulateSettings, seed: int, measured: Sequence[Sequence[float]] = ()) -> None:
        self.settings = settings
        self._seed = seed
        self._measured = measured
        if settings.compute == "empirical":
            require(
                bool(measured), "simulate.source", settings.source, "a run directory whose journal has compute times"
            )

    def compute_times(self, worker: int) -> Callable[[], float]:
        """What gives the worker's compute times in seconds, one after the other."""
        return chain.from_iterable(self._times(worker)).__next__

    def _times(self, worker: int) -> Iterator[array[float]]:
        """Packed, many at a time: those of thousands of workers shall not drive all else out of the cache."""
        generator = numpy_stream(self._seed, f"simulate/worker/{worker}/compute")
        while True:
            yield array("d", self._drawn(worker, generator).tobytes())

    def _drawn(self, worker: int, generator: Generator) -> npt.NDArray[np.float64]:
        chosen = self.settings
        factor = chosen.slow_factor if worker < chosen.slow_workers else 1.0
        scale = chosen.compute_seconds * factor
        match chosen.compute:
            case "constant":
                return np.full(_DRAWS, scale)
            case "exponential":
                return scale * generator.standard_exponential(_DRAWS)
            case "lognormal":
                normal = generator.standard_normal(_DRAWS)
                return scale * math.exp(-(chosen.sigma**2) / 2) * np.exp(chosen.sigma * normal)
            case "pareto":
                exponent = chosen.tail
                return scale * (exponent - 1) / exponent * (1.0 - generator.random(_DRAWS)) ** (-1.0 / exponent)
            case _:
                recorded = self._measured[worker % len(self._measured)]
                picks = generator.integers(len(recorded), size=_DRAWS)
                return np.array([factor * recorded[pick] for pick in picks.tolist()])

    def life_seconds(self, worker: int) -> float:
        """When this worker is lost, counted from its start; infinite for never."""
        if not self.settings.life_seconds:
            return math.inf
        stream = numpy_stream(self._seed, f"simulate/worker/{worker}/life")
        return self.settings.life_seconds * float(stream.standard_exponential())

    def transfer_seconds(self, size_bytes: int) -> float:
        """From sending a message to its arrival."""
        chosen = self.settings
        return chosen.latency_seconds + (size_bytes / chosen.bandwidth if chosen.bandwidth else 0.0)
