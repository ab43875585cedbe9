"""GoogLeNet against BVLC Caffe's description of it: every layer, every multiplication, and a network written from that
description alone with torch's plain functions, which must give the same losses and the same gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ps.layout import Layout
from ps.messages import Lease
from ps.streams import torch_stream
from workers.gradient import GradientFunction
from workers.inception import Network, initialise
from workers.models import build
from workers.randomness import drawing_from
from workers.tables import GOOGLENET, GOOGLENET_WIDE

SEED = 11

# models/bvlc_googlenet/train_val.prototxt at 224, 1000 classes: layer, kernel/stride+padding, output, weights and
# biases, multiply-adds for one image.
CAFFE = """
    conv1/7x7_s2                 7/2+3  64x112x112       9472  118013952
    conv2/3x3_reduce             1/1+0  64x56x56         4160   12845056
    conv2/3x3                    3/1+1  192x56x56      110784  346816512
    inception_3a/1x1             1/1+0  64x28x28        12352    9633792
    inception_3a/3x3_reduce      1/1+0  96x28x28        18528   14450688
    inception_3a/3x3             3/1+1  128x28x28      110720   86704128
    inception_3a/5x5_reduce      1/1+0  16x28x28         3088    2408448
    inception_3a/5x5             5/1+2  32x28x28        12832   10035200
    inception_3a/pool_proj       1/1+0  32x28x28         6176    4816896
    inception_3b/1x1             1/1+0  128x28x28       32896   25690112
    inception_3b/3x3_reduce      1/1+0  128x28x28       32896   25690112
    inception_3b/3x3             3/1+1  192x28x28      221376  173408256
    inception_3b/5x5_reduce      1/1+0  32x28x28         8224    6422528
    inception_3b/5x5             5/1+2  96x28x28        76896   60211200
    inception_3b/pool_proj       1/1+0  64x28x28        16448   12845056
    inception_4a/1x1             1/1+0  192x14x14       92352   18063360
    inception_4a/3x3_reduce      1/1+0  96x14x14        46176    9031680
    inception_4a/3x3             3/1+1  208x14x14      179920   35223552
    inception_4a/5x5_reduce      1/1+0  16x14x14         7696    1505280
    inception_4a/5x5             5/1+2  48x14x14        19248    3763200
    inception_4a/pool_proj       1/1+0  64x14x14        30784    6021120
    loss1/conv                   1/1+0  128x4x4         65664    1048576
    loss1/fc                     fc     1024          2098176    2097152
    loss1/classifier             fc     1000          1025000    1024000
    inception_4b/1x1             1/1+0  160x14x14       82080   16056320
    inception_4b/3x3_reduce      1/1+0  112x14x14       57456   11239424
    inception_4b/3x3             3/1+1  224x14x14      226016   44255232
    inception_4b/5x5_reduce      1/1+0  24x14x14        12312    2408448
    inception_4b/5x5             5/1+2  64x14x14        38464    7526400
    inception_4b/pool_proj       1/1+0  64x14x14        32832    6422528
    inception_4c/1x1             1/1+0  128x14x14       65664   12845056
    inception_4c/3x3_reduce      1/1+0  128x14x14       65664   12845056
    inception_4c/3x3             3/1+1  256x14x14      295168   57802752
    inception_4c/5x5_reduce      1/1+0  24x14x14        12312    2408448
    inception_4c/5x5             5/1+2  64x14x14        38464    7526400
    inception_4c/pool_proj       1/1+0  64x14x14        32832    6422528
    inception_4d/1x1             1/1+0  112x14x14       57456   11239424
    inception_4d/3x3_reduce      1/1+0  144x14x14       73872   14450688
    inception_4d/3x3             3/1+1  288x14x14      373536   73156608
    inception_4d/5x5_reduce      1/1+0  32x14x14        16416    3211264
    inception_4d/5x5             5/1+2  64x14x14        51264   10035200
    inception_4d/pool_proj       1/1+0  64x14x14        32832    6422528
    loss2/conv                   1/1+0  128x4x4         67712    1081344
    loss2/fc                     fc     1024          2098176    2097152
    loss2/classifier             fc     1000          1025000    1024000
    inception_4e/1x1             1/1+0  256x14x14      135424   26492928
    inception_4e/3x3_reduce      1/1+0  160x14x14       84640   16558080
    inception_4e/3x3             3/1+1  320x14x14      461120   90316800
    inception_4e/5x5_reduce      1/1+0  32x14x14        16928    3311616
    inception_4e/5x5             5/1+2  128x14x14      102528   20070400
    inception_4e/pool_proj       1/1+0  128x14x14       67712   13246464
    inception_5a/1x1             1/1+0  256x7x7        213248   10436608
    inception_5a/3x3_reduce      1/1+0  160x7x7        133280    6522880
    inception_5a/3x3             3/1+1  320x7x7        461120   22579200
    inception_5a/5x5_reduce      1/1+0  32x7x7          26656    1304576
    inception_5a/5x5             5/1+2  128x7x7        102528    5017600
    inception_5a/pool_proj       1/1+0  128x7x7        106624    5218304
    inception_5b/1x1             1/1+0  384x7x7        319872   15654912
    inception_5b/3x3_reduce      1/1+0  192x7x7        159936    7827456
    inception_5b/3x3             3/1+1  384x7x7        663936   32514048
    inception_5b/5x5_reduce      1/1+0  48x7x7          39984    1956864
    inception_5b/5x5             5/1+2  128x7x7        153728    7526400
    inception_5b/pool_proj       1/1+0  128x7x7        106624    5218304
    loss3/classifier             fc     1000          1025000    1024000
"""


@dataclass(frozen=True)
class Layer:
    """One line of the table."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int

    @property
    def ours(self) -> str:
        """Its name in our network."""
        return self.name.replace("/", ".")

    @property
    def geometry(self) -> tuple[int, int, int]:
        """Kernel, stride and padding of a convolution."""
        kernel, _, rest = self.kind.partition("/")
        stride, _, padding = rest.partition("+")
        return int(kernel), int(stride), int(padding)


def layers() -> Iterator[Layer]:
    for line in CAFFE.split("\n")[1:-1]:
        name, kind, output, parameters, multiply_adds = line.split()
        yield Layer(name, kind, tuple(map(int, output.split("x"))), int(parameters), int(multiply_adds))


@dataclass(frozen=True)
class Seen:
    """What a hook saw of a layer with weights."""

    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def seen(network: Network) -> dict[str, Seen]:
    """Every layer with weights that one image passes, by name, counted by hooks."""
    found: dict[str, Seen] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def note(module: nn.Module, given: object, output: Tensor, name: str = name) -> None:
                weight = module.get_parameter("weight")
                parameters = sum(parameter.numel() for parameter in module.parameters())
                multiply_adds = output[0].numel() * weight[0].numel()
                found[name] = Seen(tuple(output.shape[1:]), parameters, multiply_adds)

            module.register_forward_hook(note)
    network(torch.empty(1, 3, 224, 224, device="meta"))
    return found


def at_224(classes: int = 1000) -> Network:
    with torch.device("meta"):
        return Network(GOOGLENET, classes, 3, 224)


def test_every_layer_is_caffes() -> None:
    found = seen(at_224())
    assert found == {layer.ours: Seen(layer.output, layer.parameters, layer.multiply_adds) for layer in layers()}


def test_every_convolution_has_caffes_geometry() -> None:
    modules = dict(at_224().named_modules())
    for layer in layers():
        module = modules[layer.ours]
        if isinstance(module, nn.Conv2d):
            kernel, stride, padding = layer.geometry
            assert (module.kernel_size, module.stride, module.padding) == ((kernel,) * 2, (stride,) * 2, (padding,) * 2)
        else:
            assert layer.kind == "fc"


def test_multiply_adds_of_one_image() -> None:
    assert sum(layer.multiply_adds for layer in seen(at_224().eval()).values()) == 1_582_671_872
    assert sum(layer.multiply_adds for layer in seen(at_224()).values()) == 1_591_044_096


# --- the same, written down plainly -----------------------------------------------------------------------------------


class Reference:
    """GoogLeNet in torch's plain functions, contiguous float32, from the table above and the text around it."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.layers = {layer.name: layer for layer in layers()}

    def convolve(self, x: Tensor, name: str) -> Tensor:
        _, stride, padding = self.layers[name].geometry
        key = self.layers[name].ours
        weight, bias = self.weights[f"{key}.weight"], self.weights[f"{key}.bias"]
        return torch.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))

    def connect(self, x: Tensor, name: str) -> Tensor:
        key = self.layers[name].ours
        return x @ self.weights[f"{key}.weight"].T + self.weights[f"{key}.bias"]

    def inception(self, x: Tensor, name: str) -> Tensor:
        one = self.convolve(x, f"{name}/1x1")
        three = self.convolve(self.convolve(x, f"{name}/3x3_reduce"), f"{name}/3x3")
        five = self.convolve(self.convolve(x, f"{name}/5x5_reduce"), f"{name}/5x5")
        pool = self.convolve(F.max_pool2d(x, 3, 1, padding=1), f"{name}/pool_proj")
        return torch.cat([one, three, five, pool], 1)

    def head(self, x: Tensor, name: str) -> Tensor:
        x = self.convolve(F.avg_pool2d(x, 5, 3, ceil_mode=True), f"{name}/conv").flatten(1)
        x = F.dropout(torch.relu(self.connect(x, f"{name}/fc")), 0.7)
        return self.connect(x, f"{name}/classifier")

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the main classifier, loss1 and loss2."""
        x = self.convolve(x, "conv1/7x7_s2")
        x = F.local_response_norm(F.max_pool2d(x, 3, 2, ceil_mode=True), 5, 1e-4, 0.75, 1.0)
        x = self.convolve(self.convolve(x, "conv2/3x3_reduce"), "conv2/3x3")
        x = F.max_pool2d(F.local_response_norm(x, 5, 1e-4, 0.75, 1.0), 3, 2, ceil_mode=True)
        x = self.inception(self.inception(x, "inception_3a"), "inception_3b")
        x = self.inception(F.max_pool2d(x, 3, 2, ceil_mode=True), "inception_4a")
        loss1 = self.head(x, "loss1")
        for name in ("inception_4b", "inception_4c", "inception_4d"):
            x = self.inception(x, name)
        loss2 = self.head(x, "loss2")
        x = F.max_pool2d(self.inception(x, "inception_4e"), 3, 2, ceil_mode=True)
        x = self.inception(self.inception(x, "inception_5a"), "inception_5b")
        x = F.dropout(F.avg_pool2d(x, x.shape[2], 1).flatten(1), 0.4)
        return self.connect(x, "loss3/classifier"), loss1, loss2


def relative(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())


def plainly(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> tuple[list[float], dict[str, Tensor]]:
    """Losses (main, loss1, loss2) and all gradients of the reference, with the dropout of lease 5."""
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    with drawing_from(torch_stream(SEED, "lease/5/dropout")):
        losses = [F.cross_entropy(logits, labels) for logits in Reference(leaves).logits(images)]
    (losses[0] + 0.3 * losses[1] + 0.3 * losses[2]).backward()
    return [loss.item() for loss in losses], {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def given(size: int, seed: int = SEED) -> tuple[Network, Tensor, Tensor]:
    """Our network with its first weights, two images and their labels."""
    network = build("googlenet", 10, 3, size)
    initialise(network, SEED)
    return network, torch.randn(2, 3, size, size, generator=torch_stream(seed, "images")), torch.tensor([3, 8])


def test_losses_and_gradients_are_those_of_a_plain_network_with_the_same_weights() -> None:
    """In float64: rounding must not decide on which side of a ReLU, or where in a pool, anything lies."""
    network, images, labels = given(224)
    network.double()
    losses, gradients = plainly(dict(network.named_parameters()), images.double(), labels)
    with drawing_from(torch_stream(SEED, "lease/5/dropout")):
        logits = network(images.double())
    ours = [F.cross_entropy(head, labels) for head in (logits.main, *logits.auxiliary)]
    (ours[0] + 0.3 * ours[1] + 0.3 * ours[2]).backward()
    assert [loss.item() for loss in ours] == pytest.approx(losses, rel=1e-12)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert relative(parameter.grad, gradients[name]) < 1e-10, name


def compared(size: int, seed: int) -> tuple[list[float], list[float], float]:
    """A worker's losses, the reference's, both in float32, and the largest relative difference of their gradients."""
    network, images, labels = given(size, seed)
    layout = Layout.of(network.named_parameters(), 1)
    weights_N, gradient_N = torch.empty(layout.size), torch.empty(layout.size)
    layout.flatten({name: parameter.detach() for name, parameter in network.named_parameters()}, weights_N)
    expected, gradients = plainly(layout.views(weights_N), images, labels)
    lease = Lease(5, 0, 0, 0, 2, 1.0, math.inf)
    losses = GradientFunction(network, layout, SEED).compute(weights_N, lease, images, labels, gradient_N)
    views = layout.views(gradient_N)
    return [losses.main, *losses.auxiliary], expected, max(relative(views[name], gradients[name]) for name in views)


def test_a_workers_losses_are_those_of_a_plain_network() -> None:
    ours, expected, _ = compared(224, SEED)
    assert ours == pytest.approx(expected, rel=1e-5)


def test_a_workers_gradient_is_that_of_a_plain_network() -> None:
    """With small images, of which most have no activation so near a kink that rounding decides: one of six must do."""
    worst = (compared(96, seed)[2] for seed in range(6))
    assert any(difference < 1e-5 for difference in worst)


# --- the wider one ----------------------------------------------------------------------------------------------------


def test_the_wider_network_is_wider_in_its_modules_only() -> None:
    with torch.device("meta"):
        plain, wide = (Network(table, 1000, 3, 224) for table in (GOOGLENET, GOOGLENET_WIDE))
    wider = dict(wide.named_parameters())
    assert wider.keys() == dict(plain.named_parameters()).keys()
    for name, parameter in plain.named_parameters():
        grown = wider[name].shape[0] / parameter.shape[0]
        assert 1.25 <= grown <= 1.5 if name.startswith("inception_") else grown == 1.0, name
        assert wider[name].shape[0] % 8 == 0
    assert sum(parameter.numel() for parameter in wide.parameters()) == 17_032_472
