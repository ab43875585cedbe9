"""The networks the way one would write them down: torch's own layers, contiguous float32, nothing clever.

It is the rival in `bench gradient`. Its parameters have the names of ours, so that the same weights fit both.

Shape suffixes: B = batch, C = channels, H, W = rows and columns, K = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.inception import Head, Mixed, Normalise, Pool, Standardise, Stem, Table


class PlainInception(nn.Module):
    """Four paths, concatenated."""

    def __init__(self, channels: int, row: Mixed) -> None:
        super().__init__()
        self.add_module("1x1", nn.Conv2d(channels, row.one, 1))
        self.add_module("3x3_reduce", nn.Conv2d(channels, row.three_reduce, 1))
        self.add_module("3x3", nn.Conv2d(row.three_reduce, row.three, 3, padding=1))
        self.add_module("5x5_reduce", nn.Conv2d(channels, row.five_reduce, 1))
        self.add_module("5x5", nn.Conv2d(row.five_reduce, row.five, 5, padding=2))
        self.add_module("pool_proj", nn.Conv2d(channels, row.pool, 1))
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        def path(x: Tensor, *names: str) -> Tensor:
            for name in names:
                x = F.relu(self.get_submodule(name)(x), inplace=True)
            return x

        one, three = path(x_BCHW, "1x1"), path(x_BCHW, "3x3_reduce", "3x3")
        five, pool = path(x_BCHW, "5x5_reduce", "5x5"), path(self.pool(x_BCHW), "pool_proj")
        return torch.cat([one, three, five, pool], dim=1)


class PlainHead(nn.Module):
    """An auxiliary classifier."""

    def __init__(self, channels: int, side: int, row: Head, classes: int) -> None:
        super().__init__()
        self.ave_pool = nn.AvgPool2d(row.window, row.stride, ceil_mode=True)
        self.conv = nn.Conv2d(channels, row.convolution, 1)
        self.fc = nn.Linear(row.convolution * side * side, row.hidden)
        self.drop_fc = nn.Dropout(row.dropout)
        self.classifier = nn.Linear(row.hidden, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = F.relu(self.conv(self.ave_pool(x_BCHW)), inplace=True).flatten(1)
        logits_BK: Tensor = self.classifier(self.drop_fc(F.relu(self.fc(x), inplace=True)))
        return logits_BK


class PlainMain(nn.Module):
    """The main classifier."""

    def __init__(self, channels: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.classifier(self.drop(self.pool(x_BCHW).flatten(1)))
        return logits_BK


class PlainNetwork(nn.Module):
    """The network that a table describes.

    Args:
        table: The rows.
        classes: K.
        channels: Of the image.
        image_size: Side of the square images.
    """

    def __init__(self, table: Table, classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        side = image_size
        for row in table.rows:
            match row:
                case Stem():
                    layers: dict[str, nn.Module] = {}
                    for name, width, kernel, stride in row.layers:
                        layers[name] = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2)
                        layers[f"{name}_relu"] = nn.ReLU(inplace=True)
                        channels, side = width, -(-side // stride)
                    module: nn.Module = nn.Sequential()
                    for name, layer in layers.items():
                        module.add_module(name, layer)
                case Pool():
                    module, side = nn.MaxPool2d(3, stride=2, ceil_mode=True), -(-(side - 3) // 2) + 1
                case Normalise():
                    module = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
                case Standardise():
                    module = nn.GroupNorm(1, channels, affine=False)
                case Mixed():
                    module = PlainInception(channels, row)
                    channels = row.one + row.three + row.five + row.pool
                case Head():
                    module = PlainHead(channels, -(-(side - row.window) // row.stride) + 1, row, classes)
            self.add_module(row.name, module)
        self.loss3 = PlainMain(channels, table.dropout, classes)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of the main classifier and of the auxiliary ones."""
        x, auxiliary = images_BCHW, []
        for layer in self.children():
            if isinstance(layer, PlainHead):
                auxiliary.append(layer(x))
            else:
                x = layer(x)
        return x, auxiliary
