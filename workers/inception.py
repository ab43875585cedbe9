"""The networks: GoogLeNet as BVLC Caffe trains it, and two smaller ones of the same anatomy, as tables.

A table is read from the image up; a `Head` is an auxiliary classifier on what the row above it gives. Children keep
Caffe's names, with a dot for its slash: `inception_3a/3x3_reduce` is `inception_3a.3x3_reduce.weight` and `.bias`.
Convolutions have a bias and a ReLU, pools round up (Caffe's ceil mode), paths are concatenated as 1x1, 3x3, 5x5, pool.
Where published implementations disagree, Caffe and the paper are followed: real 5x5 branches, no batch norm.

Nothing here draws but `initialise` (from named streams) and dropout (from whatever stream the caller provides).

Source: Szegedy et al. 2014, Table 1 and section 5; BVLC/caffe models/bvlc_googlenet. The two small tables are ours.
Shape suffixes: B = batch, C = channels, H, W = rows and columns, K = classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ps.errors import BadInput
from ps.streams import torch_stream
from workers.normalisation import LocalResponse


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """Class scores before the softmax.

    Attributes:
        main: (B, K), of the classifier that is kept.
        auxiliary: (B, K) each, of the heads in the trunk, from the bottom up; empty in eval mode, which skips them.
    """

    main: Tensor
    auxiliary: tuple[Tensor, ...]


class Convolution(nn.Conv2d):
    """A convolution that keeps the spatial size (divided by the stride), and a ReLU in place."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding=kernel // 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(super().forward(x_BCHW), inplace=True)


class Inception(nn.ModuleDict):
    """One Inception module: four paths over the same input, concatenated along the channels."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        paths = (
            self["1x1"](x_BCHW),
            self["3x3"](self["3x3_reduce"](x_BCHW)),
            self["5x5"](self["5x5_reduce"](x_BCHW)),
            self["pool_proj"](F.max_pool2d(x_BCHW, kernel_size=3, stride=1, padding=1)),
        )
        return torch.cat(paths, dim=1)


class FullyConnected(nn.Linear):
    """A layer over everything that it is given, and a ReLU; every unit is a plane of one pixel."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(super().forward(x_BCHW.flatten(1)))[:, :, None, None]


class AuxiliaryHead(nn.ModuleDict):
    """Average pool, 1x1 convolution, fully connected layer, dropout, classifier."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self["conv"](self["ave_pool"](x_BCHW)).flatten(1)
        logits_BK: Tensor = self["classifier"](self["drop_fc"](F.relu(self["fc"](x), inplace=True)))
        return logits_BK


class MainHead(nn.ModuleDict):
    """Average over all positions (Caffe's 7x7 pool at 224), dropout, classifier."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self["classifier"](self["drop"](x_BCHW.mean(dim=(2, 3))))
        return logits_BK


@dataclass(frozen=True, slots=True)
class Shape:
    """Channels and side of the square planes between two rows."""

    channels: int
    side: int


@dataclass(frozen=True, slots=True)
class Stem:
    """Convolutions in sequence, each (name, channels, kernel, stride)."""

    name: str
    layers: tuple[tuple[str, int, int, int], ...]

    def build(self, given: Shape, classes: int) -> tuple[nn.Module, Shape]:
        convolutions = nn.Sequential()
        for name, channels, kernel, stride in self.layers:
            convolutions.add_module(name, Convolution(given.channels, channels, kernel, stride))
            given = Shape(channels, -(-given.side // stride))
        return convolutions, given


@dataclass(frozen=True, slots=True)
class Pool:
    """Max pool 3x3, stride 2, rounding up."""

    name: str

    def build(self, given: Shape, classes: int) -> tuple[nn.Module, Shape]:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True), Shape(given.channels, pooled(given.side, 3, 2, self.name))


@dataclass(frozen=True, slots=True)
class Normalise:
    """Local response normalisation across five channels."""

    name: str

    def build(self, given: Shape, classes: int) -> tuple[nn.Module, Shape]:
        return LocalResponse(), given


@dataclass(frozen=True, slots=True)
class Standardise:
    """Mean 0 and variance 1 over all activations of one image: no parameters, no statistics that outlive the image."""

    name: str

    def build(self, given: Shape, classes: int) -> tuple[nn.Module, Shape]:
        return nn.GroupNorm(1, given.channels, affine=False), given


@dataclass(frozen=True, slots=True)
class Mixed:
    """One Inception module, its channels in the order of the paper's Table 1."""

    name: str
    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    def build(self, given: Shape, classes: int) -> tuple[nn.Module, Shape]:
        paths = {
            "1x1": Convolution(given.channels, self.one, 1),
            "3x3_reduce": Convolution(given.channels, self.three_reduce, 1),
            "3x3": Convolution(self.three_reduce, self.three, 3),
            "5x5_reduce": Convolution(given.channels, self.five_reduce, 1),
            "5x5": Convolution(self.five_reduce, self.five, 5),
            "pool_proj": Convolution(given.channels, self.pool, 1),
        }
        return Inception(paths), Shape(self.one + self.three + self.five + self.pool, given.side)


@dataclass(frozen=True, slots=True)
class Head:
    """An auxiliary classifier: average pool (window, stride; rounds up), widths of its convolution and hidden layer."""

    name: str
    window: int
    stride: int
    convolution: int
    hidden: int
    dropout: float

    def build(self, given: Shape, classes: int) -> tuple[nn.Module, Shape]:
        side = pooled(given.side, self.window, self.stride, f"{self.name}/ave_pool")
        layers = {
            "ave_pool": nn.AvgPool2d(self.window, self.stride, ceil_mode=True),
            "conv": Convolution(given.channels, self.convolution, 1),
            "fc": nn.Linear(self.convolution * side**2, self.hidden),
            "drop_fc": nn.Dropout(self.dropout),
            "classifier": nn.Linear(self.hidden, classes),
        }
        return AuxiliaryHead(layers), given


@dataclass(frozen=True, slots=True)
class Dense:
    """A fully connected layer: it takes images of one size only."""

    name: str
    units: int

    def build(self, given: Shape, classes: int) -> tuple[nn.Module, Shape]:
        return FullyConnected(given.channels * given.side**2, self.units), Shape(self.units, 1)


Row = Stem | Pool | Normalise | Standardise | Mixed | Head | Dense


@dataclass(frozen=True, slots=True)
class Table:
    """A whole network.

    Attributes:
        rows: From the image up to the main classifier, which is always called loss3.
        dropout: Share dropped before the main classifier.
        gain: Weights are uniform, variance gain / fan-in: 1 is Caffe's "xavier", 2 (He et al. 2015) suits ReLUs.
        bias: First value of every bias but the classifiers', which start at 0.
        classifier_gain: Likewise `gain`, of the classifiers.
        centred: Every filter but those on the image starts with mean 0. ReLUs give nothing below 0, so their mean
            passes through uncentred filters, grows from layer to layer, and makes one direction of the loss far
            steeper than all others; and the steepest one bounds the rate, the more so the staler the gradients.
    """

    rows: tuple[Row, ...]
    dropout: float
    gain: float
    bias: float
    classifier_gain: float
    centred: bool


class Network(nn.Module):
    """The network that a table describes. In training mode it computes the auxiliary heads, in eval mode it does not.

    Args:
        table: The rows.
        classes: K.
        channels: Of the image.
        image_size: Side of the square training images; the heads depend on it. Eval mode takes other sizes too.

    Raises:
        BadInput: The images are too small for the table's pooling.
    """

    def __init__(self, table: Table, classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.table = table
        shape = Shape(channels, image_size)
        for row in table.rows:
            module, shape = row.build(shape, classes)
            self.add_module(row.name, module)
        loss3 = {"drop": nn.Dropout(table.dropout), "classifier": nn.Linear(shape.channels, classes)}
        self.add_module("loss3", MainHead(loss3))

    def forward(self, images_BCHW: Tensor) -> Logits:
        # Channels last makes the max pools seven times faster. `contiguous` would leave one-channel images as they are.
        x, auxiliary = images_BCHW.clone(memory_format=torch.channels_last), []
        for layer in self.children():
            if not isinstance(layer, AuxiliaryHead):
                x = layer(x)
            elif self.training:
                auxiliary.append(layer(x))
        return Logits(x, tuple(auxiliary))


def pooled(side: int, window: int, stride: int, name: str) -> int:
    """Side after a pool that rounds up. Raises BadInput if not even one window fits."""
    if side < window:
        raise BadInput(f"images too small: {name} got planes of {side}x{side}, expected at least {window}x{window}")
    return -(-(side - window) // stride) + 1


def initialise(network: Network, seed: int) -> None:
    """Fill every parameter from its own stream, `init/<parameter name>`: no parameter's values depend on another's.

    Args:
        network: Its parameters are overwritten.
        seed: The run's root seed.

    Source: Caffe's XavierFiller (fan-in alone; torch's xavier_uniform_ averages fan-in and fan-out) and ConstantFiller;
    centring is ours.
    """
    table = network.table
    first = next(network.parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("classifier.bias") else table.bias)
                continue
            gain = table.classifier_gain if name.endswith("classifier.weight") else table.gain
            fan_in = parameter[0].numel()
            bound = math.sqrt(3.0 * gain / fan_in)
            parameter.uniform_(-bound, bound, generator=torch_stream(seed, f"init/{name}"))
            if table.centred and parameter.dim() == 4 and parameter is not first:
                parameter.sub_(parameter.mean((1, 2, 3), keepdim=True)).mul_(math.sqrt(fan_in / (fan_in - 1)))
