"""Models by name: from a setting that a person types to a network of the right size for the data.

Building draws no random number and touches no memory of the parameters: their values come from `initialise`, a shard
or a file. A user's own factory (package.module:factory, see `workers.own`) draws what it likes, always from the same
stream, so that buffers and frozen parameters are the same in every process; its trainable parameters begin with what it
draws from the run's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ps.errors import BadInput, DistbeliefError, nearest, require
from ps.streams import torch_stream
from workers.images import Traits
from workers.inception import Network, Table, initialise
from workers.own import is_own, resolve
from workers.randomness import drawing_from
from workers.tables import GOOGLENET, GOOGLENET_WIDE, INCEPTION_MINI, INCEPTION_SMALL, PERCEPTRON

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What computes.

    Attributes:
        name: One of `MODELS`, or package.module:factory for one's own.
        precision: float32, or bfloat16: autocast, with float32 weights, losses and gradients.
        clip_norm: Largest global norm of a gradient; a longer one is scaled down to it. 0 for no limit.
        loss: package.module:function for one's own: (B, K) logits in float32 and labels to a mean loss. Empty for cross
            entropy.
        path: Folder that one's own modules are found in, after all others.

    Raises:
        BadInput: Unknown name or precision, or a negative limit.
    """

    name: str = "inception-mini"
    precision: str = "float32"
    clip_norm: float = 0.0
    loss: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        if not is_own(self.name):
            _known(self.name)
        expected = "module:function, or nothing for cross entropy"
        require(not self.loss or is_own(self.loss), "model.loss", self.loss, expected)
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


def network(settings: ModelSettings, traits: Traits) -> nn.Module:
    """The network of these settings for these data. One of ours is not yet initialised; a user's own has values, of
    which only those of its buffers and frozen parameters mean anything.

    Raises:
        BadInput: It cannot be built.
    """
    return _own(settings, 0) if is_own(settings.name) else _ours(settings.name, traits)


def initial(settings: ModelSettings, traits: Traits, seed: int) -> nn.Module:
    """Likewise, with the initial values of its trainable parameters. `seed`: the run's root seed."""
    if is_own(settings.name):
        return _own(settings, seed)
    found = _ours(settings.name, traits)
    initialise(found, seed)
    return found


def loss_of(settings: ModelSettings) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of these settings. Raises BadInput if it cannot be had."""
    if not settings.loss:
        return nn.functional.cross_entropy
    found: Callable[[Tensor, Tensor], Tensor] = resolve("model.loss", settings.loss, settings.path)
    require(callable(found), "model.loss", settings.loss, "a function of logits and labels")
    return found


def _ours(name: str, traits: Traits) -> Network:
    shape = traits.image_shape
    expected = f"a model of your own, since {name} takes images of channels x side x side; yours are {shape}"
    require(len(shape) == 3 and shape[1] == shape[2], "model.name", name, expected)
    return build(name, len(traits.classes), *shape[:2])


def _own(settings: ModelSettings, seed: int) -> nn.Module:
    factory: Any = resolve("model.name", settings.name, settings.path)
    if isinstance(factory, nn.Module):
        factory = partial(deepcopy, factory)
    try:
        with drawing_from(torch_stream(seed, "init/own")):
            made = factory()
    except DistbeliefError as error:
        raise BadInput(f"model.name: {settings.name}: {error}") from error
    except Exception as error:
        raise BadInput(
            f"model.name: got {settings.name}, which raised {type(error).__name__}: {error}; expected a function "
            "without arguments that returns a torch module"
        ) from error
    if not isinstance(made, nn.Module):
        raise BadInput(
            f"model.name: got {settings.name}, which returns {type(made).__name__}; expected a torch.nn.Module"
        )
    for name, parameter in made.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            got = f"{parameter.dtype} on {parameter.device}"
            raise BadInput(f"model.name: got {settings.name} with {name} in {got}, expected float32 on the CPU")
    return made.train()


def input_size(name: str) -> int | None:
    """Side in pixels of the images that a model was made for; None if it takes them as they are.

    Raises:
        BadInput: Unknown name.
    """
    return _known(name).input_size


def _known(name: str) -> Known:
    if name not in MODELS:
        own = "module:factory for your own"
        raise BadInput(
            f"model.name: got {name!r}, expected one of {', '.join(MODELS)}, or {own}{nearest(name, MODELS)}"
        )
    return MODELS[name]
