"""Rate schedule: the learning rate as a function of the samples applied on a shard, and of nothing else.

Never of the wall clock nor of a worker's own count, so that live, simulated and replayed runs use the same rate for
the same update.

    s  samples applied on the shard before this update          T  samples in the whole run
    e  = s / examples per epoch                                 r  the rate in the settings

    constant      r                                                     after T: goes on
    step          r * factor ** floor(e / every_epochs)                 after T: goes on
    polynomial    r * (1 - s / T) ** power                              after T: 0
    cosine        f + (r - f) * (1 + cos(pi * s / T)) / 2               after T: f, which is floor * r

Warm-up multiplies whichever of them by (s + 1) / warm-up samples while that is below 1: it is linear and never 0, not
even at s = 0.

Source: step with factor 0.96 every 8 epochs, Szegedy et al. 2014, section 6; polynomial with power 0.5, the quick
solver of Caffe's GoogLeNet; cosine, Loshchilov and Hutter 2017, equation 5, without restarts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ps.errors import BadInput, nearest, require

KINDS = ("constant", "step", "polynomial", "cosine")


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """What a user chooses about the learning rate; the head of this file has the equations.

    Attributes:
        kind: One of KINDS.
        rate: Learning rate at the start, before warm-up; it refers to the mean loss of a lease.
        factor: step only: what each step multiplies the rate by.
        every_epochs: step only: epochs between two steps.
        power: polynomial only.
        floor: cosine only: the rate at the end, as a fraction of `rate`.
        warmup_epochs: Epochs of linear warm-up; 0 for none.

    Raises:
        BadInput: A setting is out of its range, or the kind is unknown.
    """

    kind: str = "constant"
    rate: float = 0.01
    factor: float = 0.96
    every_epochs: float = 8.0
    power: float = 0.5
    floor: float = 0.0
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(
                f'schedule.kind: got "{self.kind}", expected one of {", ".join(KINDS)}{nearest(self.kind, KINDS)}'
            )
        require(0 < self.rate < math.inf, "schedule.rate", self.rate, "a finite number above 0")
        require(0 < self.factor <= 1, "schedule.factor", self.factor, "above 0 and at most 1")
        require(0 < self.every_epochs < math.inf, "schedule.every_epochs", self.every_epochs, "a finite number above 0")
        require(0 < self.power < math.inf, "schedule.power", self.power, "a finite number above 0")
        require(0 <= self.floor <= 1, "schedule.floor", self.floor, "a fraction of the rate, 0 to 1")
        require(0 <= self.warmup_epochs < math.inf, "schedule.warmup_epochs", self.warmup_epochs, "at least 0, finite")

    def build(self, examples_per_epoch: int, total_samples: int) -> Schedule:
        """The schedule of one run.

        Raises:
            BadInput: The run has no examples or no samples.
        """
        require(examples_per_epoch > 0, "examples per epoch", examples_per_epoch, "at least 1")
        require(total_samples > 0, "samples in the run", total_samples, "at least 1")
        return Schedule(self, examples_per_epoch, total_samples)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run's learning rate. Made by `ScheduleSettings.build`."""

    settings: ScheduleSettings
    examples_per_epoch: int
    total_samples: int

    def rate(self, samples: int) -> float:
        """The rate for the update that a shard applies after `samples` samples."""
        rate = self.settings.rate * self._decay(samples)
        return rate * self._warmup(samples) if self.settings.warmup_epochs else rate

    def _decay(self, samples: int) -> float:
        progress = min(samples / self.total_samples, 1.0)
        match self.settings.kind:
            case "step":
                steps = math.floor(samples / (self.settings.every_epochs * self.examples_per_epoch))
                return self.settings.factor**steps
            case "polynomial":
                return math.pow(1.0 - progress, self.settings.power)
            case "cosine":
                return self.settings.floor + (1.0 - self.settings.floor) * (1.0 + math.cos(math.pi * progress)) / 2.0
            case _:
                return 1.0

    def _warmup(self, samples: int) -> float:
        warmup_samples = self.settings.warmup_epochs * self.examples_per_epoch
        return (samples + 1) / warmup_samples if samples + 1 < warmup_samples else 1.0
