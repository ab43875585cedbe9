"""Models by name."""

from __future__ import annotations

import pytest
import torch

from ps.errors import BadInput
from workers.models import MODELS, ModelSettings, build, input_size


@pytest.mark.parametrize("name", MODELS)
def test_building_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.default_generator.get_state()
    network = build(name, 10, 3, input_size(name) or 16)
    assert torch.equal(torch.default_generator.get_state(), before)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert network.training


def test_input_sizes() -> None:
    assert {name: input_size(name) for name in MODELS} == {
        "googlenet": 224,
        "googlenet-wide": 224,
        "inception-small": 32,
        "inception-mini": None,
        "perceptron": None,
    }


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    expected = r'model.name: got .inception-minni., expected one of googlenet, .*did you mean "inception-mini"'
    with pytest.raises(BadInput, match=expected):
        build("inception-minni", 10, 3, 32)
    with pytest.raises(BadInput, match=expected):
        input_size("inception-minni")
    with pytest.raises(BadInput, match=expected):
        ModelSettings(name="inception-minni")


def test_an_unknown_precision_is_refused() -> None:
    assert ModelSettings(precision="bfloat16").name == "inception-mini"
    with pytest.raises(BadInput, match="precision: got 'float8', expected float32 or bfloat16"):
        ModelSettings(precision="float8")


@pytest.mark.parametrize(
    ("classes", "channels", "size", "message"),
    [
        (1, 3, 32, "classes: got 1, expected at least 2"),
        (10, 0, 32, "channels: got 0, expected at least 1"),
        (10, 3, 0, "image_size: got 0, expected at least 1"),
        (10, 3, 8, "images too small: loss2/ave_pool got planes of 2x2, expected at least 4x4"),
        (10, 3, 2, "images too small: pool1 got planes of 2x2, expected at least 3x3"),
    ],
)
def test_sizes_out_of_range_are_refused(classes: int, channels: int, size: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build("inception-mini", classes, channels, size)


def test_the_perceptron_has_one_hidden_layer() -> None:
    network = build("perceptron", 10, 1, 16)
    sizes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert sizes == {
        "fc1.weight": (64, 256), "fc1.bias": (64,),
        "loss3.classifier.weight": (10, 64), "loss3.classifier.bias": (10,),
    }  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5)
    logits = network(torch.full((2, 1, 16, 16), -1.0))
    assert (logits.main.tolist(), logits.auxiliary) == ([[0.5] * 10] * 2, ())  # the ReLU leaves the last bias
