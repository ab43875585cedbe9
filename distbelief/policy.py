"""Policy: what rate, momentum and correction become when one worker becomes W. `auto` is the default.

Asynchrony has a momentum of its own. With W workers a gradient is applied W - 1 updates late on average, which acts
like a momentum of 1 - 1/W on top of the explicit one; and with a delay the largest stable rate falls (facts: 32
workers at momentum 0.9 tolerate a rate 900 times below one worker's). A server that ignores both diverges or crawls
in silence.

`auto` gives each worker a momentum of its own and lets pulls read where all of them together will have led (the
correction `dana`): what is known of the next W updates is no delay any more. Rate and momentum stay one worker's, as
long as that is stable; beyond ENOUGH workers the rate falls with their number, as the limit of this scheme does:

    mu_W  = mu_1                    eta_W = eta_1 * min(1, ENOUGH / W)

No worker waits for another, and what one step costs does not change. What it cannot give back is depth: a gradient
that builds on another is at least W updates younger, so a run of U updates is U / W steps deep. Where a run is so short
that this shows, a ramp helps (`consistency.begin`, see ps.consistency): W is then the number of workers that begin,
while the rate is highest, and the others join as it falls.

Where that is not to be had (rounds, local steps, a rule without momentum, `--correction none`, memory too small for a
vector per worker: see affordable.py) the memory of the run, W / (1 - mu), is kept at what one worker has, as long as
the explicit momentum can pay for it, and so is the size of the whole step, rate / (1 - mu); beyond that the rate falls
with the number of workers:

    mu_W  = max(0, 1 - W (1 - mu_1))
    eta_W = eta_1 (1 - mu_W) / (1 - mu_1) * min(1, 1 / (W (1 - mu_1)))

Sources: Hakimi, Barkai, Gabel, Schuster 2019 (one momentum per worker); implicit momentum, Mitliagkas et al. 2016,
theorem 1. The rules are ours, found with `distbelief simulate`; the README has the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from ps.errors import require

AUTO = "auto"
LOOKS_AHEAD = "dana"  # the correction that auto is, where it can be had
LED_RULES = ("momentum", "rmsprop")  # the rules that it can lead
ENOUGH = 8  # workers up to which one worker's rate was found to be stable


@dataclass(frozen=True, slots=True)
class OneWorker:
    """Rate and momentum that are good for one worker.

    Attributes:
        rate: Learning rate, of the mean loss of a batch.
        momentum: mu.
        scaled_rate: Likewise the rate of rmsprop, whose steps are as long for a small gradient as for a large one.
    """

    rate: float = 0.01
    momentum: float = 0.9
    scaled_rate: float = 0.0002

    def __post_init__(self) -> None:
        require(0 < self.rate < math.inf, "one_worker.rate", self.rate, "a finite number above 0")
        require(0 <= self.momentum < 1, "one_worker.momentum", self.momentum, "at least 0 and below 1")
        require(0 < self.scaled_rate < math.inf, "one_worker.scaled_rate", self.scaled_rate, "a finite number above 0")

    def under(self, rule: str, workers: int, ahead: bool) -> OneWorker:
        """Rate and momentum for this rule and so many workers.

        Args:
            workers: As stale as so many asynchronous ones.
            ahead: Whether each has a momentum of its own, and pulls look ahead.
        """
        match rule:
            case "adamw" | "adagrad":  # no momentum to carry over: whole steps, as long as those of rmsprop
                return replace(self, rate=float(_exact(self.scaled_rate) / (1 - _exact(self.momentum))))
            case "rmsprop":
                alone = replace(self, rate=self.scaled_rate)
            case _:
                alone = self
        return alone.looking_ahead(workers) if ahead else alone.carried_over(workers)

    def looking_ahead(self, workers: int) -> OneWorker:
        """For so many workers with a momentum each."""
        return replace(self, rate=float(_exact(self.rate) * min(Fraction(1), Fraction(ENOUGH, workers))))

    def carried_over(self, workers: int) -> OneWorker:
        """For so many workers with one momentum, reckoned on the decimals that a person typed and rounded once."""
        memory = 1 - _exact(self.momentum)
        momentum = max(Fraction(0), 1 - workers * memory)
        rate = _exact(self.rate) * (1 - momentum) / memory * min(Fraction(1), 1 / (workers * memory))
        return replace(self, rate=float(rate), momentum=float(momentum))


def _exact(value: float) -> Fraction:
    return Fraction(repr(value))
