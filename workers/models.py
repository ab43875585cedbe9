"""Models by name: from a setting that a person types to a network of the right size for the data.

Building draws no random number and touches no memory of the parameters: their values come from `initialise`, a shard
or a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ps.errors import BadInput, nearest, require
from workers.inception import Network, Table
from workers.tables import GOOGLENET, GOOGLENET_WIDE, INCEPTION_MINI, INCEPTION_SMALL, PERCEPTRON

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What computes.

    Attributes:
        name: One of `MODELS`.
        precision: float32, or bfloat16: autocast, with float32 weights, losses and gradients.
        clip_norm: Largest global norm of a gradient; a longer one is scaled down to it. 0 for no limit.

    Raises:
        BadInput: Unknown name or precision, or a negative limit.
    """

    name: str = "inception-mini"
    precision: str = "float32"
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        _known(self.name)
        require(self.precision in PRECISIONS, "model.precision", self.precision, " or ".join(PRECISIONS))
        require(self.clip_norm >= 0, "model.clip_norm", self.clip_norm, "0 (no limit) or a positive number")


@dataclass(frozen=True, slots=True)
class Known:
    """A registered network. `input_size`: side in pixels that it was made for; None if it takes images as they are."""

    table: Table
    input_size: int | None


MODELS = {
    "googlenet": Known(GOOGLENET, input_size=224),
    "googlenet-wide": Known(GOOGLENET_WIDE, input_size=224),
    "inception-small": Known(INCEPTION_SMALL, input_size=32),
    "inception-mini": Known(INCEPTION_MINI, input_size=None),
    "perceptron": Known(PERCEPTRON, input_size=None),
}


def build(name: str, classes: int, channels: int, image_size: int) -> Network:
    """A network on the CPU, in training mode, its parameters not yet initialised.

    Args:
        name: One of `MODELS`.
        classes: Outputs of every classifier, at least 2.
        channels: Of the images, at least 1.
        image_size: Side of the square training images in pixels.

    Raises:
        BadInput: Unknown name, an argument out of its range, or images too small for the network's pooling.
    """
    table = _known(name).table
    require(classes >= 2, "classes", classes, "at least 2")
    require(channels >= 1, "channels", channels, "at least 1")
    require(image_size >= 1, "image_size", image_size, "at least 1")
    with torch.device("meta"):  # torch's own initialisers would draw from the global generator
        network = Network(table, classes, channels, image_size)
    return network.to_empty(device="cpu")


def input_size(name: str) -> int | None:
    """Side in pixels of the images that a model was made for; None if it takes them as they are.

    Raises:
        BadInput: Unknown name.
    """
    return _known(name).input_size


def _known(name: str) -> Known:
    if name not in MODELS:
        raise BadInput(f"model.name: got {name!r}, expected one of {', '.join(MODELS)}{nearest(name, MODELS)}")
    return MODELS[name]
