"""Policy: what rate and momentum become when one worker becomes W.

Asynchrony has a momentum of its own. With W workers a gradient is applied W - 1 updates late on average, which acts
like a momentum of 1 - 1/W on top of the explicit one; and with a delay the largest stable rate falls (facts: 32
workers at momentum 0.9 tolerate a rate 900 times below one worker's). A server that ignores both diverges or crawls
in silence.

So the rule keeps the memory of the run, W / (1 - mu), at what one worker has, as long as the explicit momentum can
pay for it, and keeps the size of the whole step, rate / (1 - mu); beyond that the rate falls with the number of
workers:

    mu_W  = max(0, 1 - W (1 - mu_1))
    eta_W = eta_1 (1 - mu_W) / (1 - mu_1) * min(1, 1 / (W (1 - mu_1)))

Source: implicit momentum, Mitliagkas et al. 2016, theorem 1; the rule is ours. It is for sgd, momentum and nesterov.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ps.errors import require


@dataclass(frozen=True, slots=True)
class OneWorker:
    """Rate and momentum that are good for one worker.

    Attributes:
        rate: Learning rate, of the mean loss of a batch.
        momentum: mu.
    """

    rate: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        require(0 < self.rate < math.inf, "one_worker.rate", self.rate, "a finite number above 0")
        require(0 <= self.momentum < 1, "one_worker.momentum", self.momentum, "at least 0 and below 1")

    def carried_over(self, workers: int) -> OneWorker:
        """Rate and momentum for so many workers, reckoned on the decimals that a person typed and rounded once."""
        memory = 1 - Fraction(repr(self.momentum))
        momentum = max(Fraction(0), 1 - workers * memory)
        rate = Fraction(repr(self.rate)) * (1 - momentum) / memory * min(Fraction(1), 1 / (workers * memory))
        return OneWorker(float(rate), float(momentum))
