"""The networks against Caffe's published sizes, shapes and first values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ps.errors import BadInput
from workers.inception import Inception, Network, Table, initialise
from workers.models import build
from workers.normalisation import LocalResponse
from workers.tables import GOOGLENET, INCEPTION_MINI, INCEPTION_SMALL

# Output channels and side of every trunk layer at 224, from the bottom up: Caffe's prototxt.
GOOGLENET_SHAPES = {
    "conv1": (64, 112), "pool1": (64, 56), "norm1": (64, 56), "conv2": (192, 56), "norm2": (192, 56),
    "pool2": (192, 28),
    "inception_3a": (256, 28), "inception_3b": (480, 28), "pool3": (480, 14),
    "inception_4a": (512, 14), "inception_4b": (512, 14), "inception_4c": (512, 14), "inception_4d": (528, 14),
    "inception_4e": (832, 14), "pool4": (832, 7), "inception_5a": (832, 7), "inception_5b": (1024, 7),
    "loss1.ave_pool": (512, 4), "loss1.conv": (128, 4), "loss2.ave_pool": (528, 4), "loss2.conv": (128, 4),
}  # fmt: skip


def meta(table: Table, classes: int, channels: int, image_size: int) -> Network:
    with torch.device("meta"):
        return Network(table, classes, channels, image_size)


def parameters(network: nn.Module, heads: bool) -> int:
    auxiliary = ("loss1.", "loss2.")
    return sum(p.numel() for name, p in network.named_parameters() if heads or not name.startswith(auxiliary))


@pytest.mark.parametrize(("classes", "main", "training"), [(1000, 6_998_552, 13_378_280), (10, 5_983_802, 10_334_030)])
def test_googlenet_has_as_many_parameters_as_in_caffe(classes: int, main: int, training: int) -> None:
    network = meta(GOOGLENET, classes, 3, 224)
    assert parameters(network, heads=False) == main
    assert parameters(network, heads=True) == training


def test_the_small_networks_have_their_sizes() -> None:
    assert parameters(meta(INCEPTION_SMALL, 10, 3, 32), heads=False) == 326_430
    assert parameters(meta(INCEPTION_MINI, 10, 3, 32), heads=True) == 109_182
    assert parameters(meta(INCEPTION_MINI, 10, 1, 28), heads=True) == 108_750


def test_googlenet_has_caffes_shapes() -> None:
    network = meta(GOOGLENET, 1000, 3, 224)
    seen: dict[str, tuple[int, int]] = {}
    for name, module in network.named_modules():

        def note(module: nn.Module, given: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                seen[name] = (output.shape[1], output.shape[2])

        module.register_forward_hook(note)
    logits = network(torch.empty(2, 3, 224, 224, device="meta"))
    assert {name: seen[name] for name in GOOGLENET_SHAPES} == GOOGLENET_SHAPES
    assert [head.shape for head in (logits.main, *logits.auxiliary)] == [(2, 1000)] * 3


def test_googlenet_normalises_after_pool1_and_before_pool2_and_puts_its_heads_on_4a_and_4d() -> None:
    order = [name for name, _ in meta(GOOGLENET, 10, 3, 224).named_children()]
    assert order[:6] == ["conv1", "pool1", "norm1", "conv2", "norm2", "pool2"]
    assert order[order.index("loss1") - 1] == "inception_4a"
    assert order[order.index("loss2") - 1] == "inception_4d"


def test_googlenet_has_caffes_constants() -> None:
    modules = dict(meta(GOOGLENET, 10, 3, 224).named_modules())
    assert [name for name, module in modules.items() if isinstance(module, LocalResponse)] == ["norm1", "norm2"]
    dropped = {name: module.p for name, module in modules.items() if isinstance(module, nn.Dropout)}
    assert dropped == {"loss1.drop_fc": 0.7, "loss2.drop_fc": 0.7, "loss3.drop": 0.4}
    five = modules["inception_3a.5x5"]
    assert isinstance(five, nn.Conv2d)
    assert (five.kernel_size, five.padding) == ((5, 5), (2, 2))


def test_paths_are_concatenated_as_1x1_3x3_5x5_pool() -> None:
    network = build("inception-mini", 10, 1, 16)
    initialise(network, seed=0)
    module = network.get_submodule("inception_3a")
    assert isinstance(module, Inception)
    x = torch.linspace(-1, 1, 24 * 64).view(1, 24, 8, 8)
    torch.testing.assert_close(module(x)[:, :16], module["1x1"](x), rtol=0, atol=0)
    torch.testing.assert_close(module(x)[:, 16:48], module["3x3"](module["3x3_reduce"](x)), rtol=0, atol=0)
    torch.testing.assert_close(module(x)[:, 48:64], module["5x5"](module["5x5_reduce"](x)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["inception-small", "inception-mini"])
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (1, 28), (3, 32)])
def test_the_small_networks_take_small_images(name: str, channels: int, size: int) -> None:
    network = build(name, 10, channels, size)
    initialise(network, seed=0)
    images = torch.zeros(2, channels, size, size)
    assert [head.shape for head in network(images).auxiliary] == [(2, 10)] * 2
    network.eval()
    assert network(images).main.shape == (2, 10)
    assert network(images).auxiliary == ()


def test_eval_mode_does_not_compute_the_heads() -> None:
    network = build("inception-mini", 10, 1, 16).eval()
    initialise(network, seed=0)
    called = []
    network.get_submodule("loss1").register_forward_hook(lambda *_: called.append(1))
    network(torch.zeros(1, 1, 16, 16))
    assert called == []
    network.train()(torch.zeros(1, 1, 16, 16))
    assert called == [1]


def test_every_parameter_has_its_own_stream_of_the_seed() -> None:
    first, again, wider, other = (build("inception-mini", classes, 1, 16) for classes in (10, 10, 7, 10))
    for network, seed in ((first, 3), (again, 3), (wider, 3), (other, 4)):
        initialise(network, seed)
    values = dict(first.named_parameters())
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, values[name])
    for name, parameter in wider.named_parameters():
        assert torch.equal(parameter, values[name]) or "classifier" in name
    for name, parameter in other.named_parameters():
        assert not torch.equal(parameter, values[name]) or name.endswith("bias")


def test_googlenets_first_values_are_caffes() -> None:
    with torch.device("meta"):
        network = Network(GOOGLENET, 10, 3, 64 + 96)
    network.to_empty(device="cpu")
    initialise(network, seed=0)
    values = dict(network.named_parameters())
    for name, parameter in values.items():
        if parameter.dim() > 1:
            bound = math.sqrt(3 / parameter[0].numel())
            assert 0.9 * bound < parameter.abs().max() <= bound, name
        else:
            assert parameter.unique().tolist() == [0.0 if "classifier" in name else pytest.approx(0.2)], name


def test_images_that_a_pool_does_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match=r"images too small: loss1/ave_pool got planes of 4x4, expected at least 5x5"):
        meta(GOOGLENET, 10, 3, 64)
