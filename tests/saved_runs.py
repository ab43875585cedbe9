"""Finished runs to test with: directories with random weights, as a launch leaves them."""

from __future__ import annotations

from pathlib import Path

import torch

from distbelief import rundir
from distbelief.card import Card
from distbelief.config import Config
from ps.layout import Layout
from workers.images import Traits
from workers.inception import Network, initialise
from workers.models import build


def network(model: str, traits: Traits, seed: int) -> Network:
    """The model with the initial weights of this seed."""
    channels, side, _ = traits.image_shape
    made = build(model, len(traits.classes), channels, side)
    initialise(made, seed)
    return made


def saved_run(folder: Path, model: str, traits: Traits, average: int = 0, latest: int = 1, **values: object) -> Path:
    """A finished run: `average` has the weights of one seed, `latest` of another. `values`: section_key to value."""
    given = {key.replace("_", ".", 1): value for key, value in values.items()}
    made = rundir.create(
        Config.of({"run.folder": str(folder), "model.name": model, "data.name": traits.name, **given}), "stamp"
    )
    for name, seed in (("average", average), ("latest", latest)):
        parameters = list(network(model, traits, seed).named_parameters())
        layout = Layout.of(parameters, 1)
        weights_N = torch.empty(layout.size)
        layout.flatten(dict(parameters), weights_N)
        card = Card(model, "a run", 3 if name == "average" else 0, traits)
        rundir.write_weights(made, name, layout, weights_N, card.metadata())
    return made
