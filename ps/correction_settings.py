"""What a user chooses about corrections, and what of it cannot work. The equations are in ps.corrections.

torch is imported when a correction is built, so that the settings can be read without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ps.errors import BadInput, nearest, require

if TYPE_CHECKING:
    from ps.corrections import Correction
    from ps.rules import RuleSettings

CORRECTIONS = (
    "none",
    "staleness-rate",
    "dc-asgd",
    "dc-asgd-adaptive",
    "gap-aware",
    "discard",
    "implicit-momentum",
    "dana",
)
_WITH_PULLS = ("dc-asgd", "dc-asgd-adaptive", "gap-aware")
_MOMENTUM_RULES = {"implicit-momentum": ("momentum", "nesterov"), "dana": ("momentum", "rmsprop")}


@dataclass(frozen=True, slots=True)
class CorrectionSettings:
    """Which correction, and its numbers; ps.corrections has the equations.

    Attributes:
        kind: One of CORRECTIONS.
        power: staleness-rate only: 1 for alpha / tau, 0.5 for its root.
        strength: lambda of dc-asgd.
        adaptive_strength: lambda of dc-asgd-adaptive.
        decay: Of the moving means of dc-asgd-adaptive, gap-aware and implicit-momentum, per update.
        epsilon: dc-asgd-adaptive only.
        limit: discard only: the greatest staleness that is applied; 0 for four times the number of workers, or twice
            that where they pull ahead.

    Raises:
        BadInput: A setting is out of its range, or the kind is unknown.
    """

    kind: str = "none"
    power: float = 1.0
    strength: float = 0.04
    adaptive_strength: float = 2.0
    decay: float = 0.95
    epsilon: float = 1e-7
    limit: int = 0

    def __post_init__(self) -> None:
        if self.kind not in CORRECTIONS:
            raise BadInput(
                f'correction.kind: got "{self.kind}", expected one of {", ".join(CORRECTIONS)}'
                f"{nearest(self.kind, CORRECTIONS)}"
            )
        require(0 < self.power < math.inf, "correction.power", self.power, "a finite number above 0")
        for name in ("strength", "adaptive_strength"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"correction.{name}", value, "a finite number, at least 0")
        require(0 <= self.decay < 1, "correction.decay", self.decay, "at least 0 and below 1")
        require(0 < self.epsilon < math.inf, "correction.epsilon", self.epsilon, "a finite number above 0")
        require(self.limit >= 0, "correction.limit", self.limit, "0 (four times the workers) or more updates")

    @property
    def of_each_gradient(self) -> bool:
        """Whether it only makes sense where every gradient is an update of its own."""
        return self.needs_pulls or self.kind in ("dana", "discard")

    @property
    def needs_pulls(self) -> bool:
        """Whether it needs to know what each gradient's pull read."""
        return self.kind in _WITH_PULLS

    def check(self, rule: RuleSettings, mean_staleness: float) -> None:
        """Raise BadInput if this correction cannot work with that rule, or at that mean staleness."""
        rules = _MOMENTUM_RULES.get(self.kind)
        if rules is not None and rule.rule not in rules:
            raise BadInput(
                f'rule.rule: got "{rule.rule}" with the correction {self.kind}, expected {" or ".join(rules)}'
            )
        if self.kind == "discard" and 0 < self.limit < mean_staleness:
            raise BadInput(
                f"correction.limit: got {self.limit}, expected at least {mean_staleness:g}, the mean staleness of so "
                "many workers: below it hardly any gradient would ever be applied"
            )

    def vectors(self, workers: int, pulls: int = 1) -> int:
        """Vectors of a shard's length that it keeps, at most: its slots, its work space and the weights of open pulls,
        so many of each worker.
        """
        own = {"dc-asgd": 1, "dc-asgd-adaptive": 2, "gap-aware": 3, "dana": 1 + workers}.get(self.kind, 0)
        return own + (workers * pulls if self.needs_pulls else 0)

    def build(self, rule: RuleSettings, workers: int, elements: int, pulls: int = 1) -> Correction:
        """The correction of one shard, with its state at the start.

        Args:
            elements: Parameters that the shard holds.
            pulls: Pulls of one worker whose gradients may be to come.
        """
        from ps import corrections

        match self.kind:
            case "staleness-rate":
                return corrections.StalenessRate(self.power)
            case "discard":
                return corrections.Discard(self.limit or 4 * workers * pulls)
            case "dc-asgd":
                return corrections.DelayCompensation(self.strength, elements, pulls)
            case "dc-asgd-adaptive":
                return corrections.AdaptiveDelayCompensation(
                    self.adaptive_strength, self.decay, self.epsilon, elements, pulls
                )
            case "gap-aware":
                return corrections.GapAware(self.decay, elements, pulls)
            case "implicit-momentum":
                return corrections.ImplicitMomentum(self.decay)
            case "dana":
                return corrections.Dana(rule.momentum, elements)
            case _:
                return corrections.Correction()
