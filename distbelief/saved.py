"""Saved models: the weights of a finished run, and the network that they belong to.

Shape suffixes: B = images, C, H, W = channels, rows, columns, K = classes, N = parameters.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from distbelief import rundir
from distbelief.card import Card, read_card
from distbelief.config import Config
from ps.layout import Layout
from workers.classification import Predictor
from workers.gradient import GradientFunction
from workers.models import network

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """The weights of a run, read.

    Attributes:
        run: The run's directory.
        config: What the run was started with; its model is the card's.
        card: What the weights say of themselves.
        sha256: Of the file.
        weights_N: In the order of `layout`.
    """

    run: Path
    config: Config
    card: Card
    sha256: str
    layout: Layout
    weights_N: Tensor

    @classmethod
    def open(cls, run: Path, weights: str) -> Saved:
        """Read the weights `average` or `latest` of a run.

        Raises:
            BadInput: No such run, no such weights, or weights of another model.
        """
        config = rundir.config_of(run)
        file = run / f"{weights}.safetensors"
        card = read_card(file)
        config = replace(config, model=replace(config.model, name=card.model))
        layout = Layout.of(network(config.model, card.traits).named_parameters(), 1)
        weights_N = rundir.read_weights(file, layout)
        return cls(run, config, card, hashlib.sha256(file.read_bytes()).hexdigest(), layout, weights_N)

    def predictor(self) -> Predictor:
        """The model for one thread. All predictors share the weights, and compute as the run did."""
        function = GradientFunction(
            network(self.config.model, self.card.traits), self.layout, 0, self.config.model.precision
        )
        return partial(function.predict, self.weights_N)

    def network(self) -> nn.Module:
        """The network itself, with these weights, in eval mode."""
        found = network(self.config.model, self.card.traits)
        found.load_state_dict(self.layout.views(self.weights_N), strict=False)  # what is frozen has its values
        return found.eval()
