"""Local response normalisation across five channels, as in Caffe, several times as fast as torch's.

    s_c = 1 + (alpha / 5) * sum of x_j^2 over the five channels j around c
    y_c = x_c * s_c^-0.75                                                       alpha = 1e-4, beta = 0.75, k = 1

    dL/dx_c = g_c * s_c^-0.75 - (2 * 0.75 * alpha / 5) * x_c * sum of g_j * x_j * s_j^-1.75 over the same five

torch's own goes through a three-dimensional average pool, and many times over planes that do not fit a cache. Here
channels lie innermost (channels last), a few positions are worked on at a time, in float32 even if x is bfloat16,
and nothing but x is kept for the backward pass. Five neighbours are summed by shifting rows with two zeros at either
end: that beats a product with a banded matrix, which multiplies by zeros. And s^-0.75 is t * sqrt(t), t = 1 / sqrt(s).

Source: BVLC/caffe lrn_layer.cpp (alpha is divided by the size); the arrangement is ours.
Shape suffixes: B = batch, C = channels, H, W = rows and columns, N = B * H * W positions, P = a few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ALPHA, BETA = 1e-4, 0.75
REACH = 2  # channels to either side
SHARE = ALPHA / (2 * REACH + 1)

ELEMENTS = 1 << 17  # worked on at a time: the buffers for them fit a core's cache


class LocalResponse(nn.Module):
    """Normalises (B, C, H, W) of any float dtype. Fast where channels are last in memory, right everywhere."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return cast("Tensor", _LocalResponse.apply(x_BCHW))  # type: ignore[no-untyped-call]


class _LocalResponse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> Tensor:
        x_NC = _rows(x_BCHW)
        y_NC = torch.empty_like(x_NC)
        for buffers, x_PC, y_PC in _stretches(x_NC, y_NC):
            buffers.normalise(x_PC, y_PC)
        ctx.save_for_backward(x_BCHW)
        return _planes(y_NC, x_BCHW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BCHW: Tensor) -> Tensor:
        (x_BCHW,) = ctx.saved_tensors
        x_NC = _rows(x_BCHW)
        d_NC = torch.empty_like(x_NC)
        for buffers, x_PC, g_PC, d_PC in _stretches(x_NC, _rows(g_BCHW), d_NC):
            buffers.differentiate(x_PC, g_PC, d_PC)
        return _planes(d_NC, x_BCHW)


def _rows(x_BCHW: Tensor) -> Tensor:
    """As (N, C): a view if channels are last in memory."""
    return x_BCHW.permute(0, 2, 3, 1).reshape(-1, x_BCHW.shape[1])


def _planes(rows_NC: Tensor, like_BCHW: Tensor) -> Tensor:
    """As (B, C, H, W), channels last in memory: a view."""
    batch, channels, height, width = like_BCHW.shape
    return rows_NC.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _stretches(*rows_NC: Tensor) -> Iterator[tuple[Any, ...]]:
    """Buffers and a few positions of each tensor, until all were had; all at once on a GPU, where each start costs."""
    first_NC = rows_NC[0]
    positions, channels = first_NC.shape
    few = max(ELEMENTS // channels, 1) if first_NC.device.type == "cpu" else positions
    buffers = _Buffers(first_NC[:few])
    for start in range(0, positions, few):
        if start + few > positions > few:
            buffers = _Buffers(first_NC[start:])
        yield buffers, *(tensor[start : start + few] for tensor in rows_NC)


class _Buffers:
    """Room for as many positions as are given, in float32 or wider, and the arithmetic on them."""

    def __init__(self, like_PC: Tensor) -> None:
        positions, channels = like_PC.shape
        self._dtype = torch.promote_types(like_PC.dtype, torch.float32)
        self._padded = like_PC.new_zeros(positions, channels + 2 * REACH, dtype=self._dtype)
        self._inner_PC = self._padded[:, REACH:-REACH]
        self._pairs = torch.empty_like(self._padded[:, 1:])
        self._sum_PC: Tensor
        self._scale_PC: Tensor
        self._sum_PC, self._scale_PC = self._padded.new_empty(2, positions, channels)
        self._one = self._padded.new_ones(())

    def normalise(self, x_PC: Tensor, y_PC: Tensor) -> None:
        """Fill y."""
        x_PC = x_PC.to(self._dtype)
        self._root(x_PC)
        torch.mul(x_PC, self._scale_PC, out=y_PC)

    def differentiate(self, x_PC: Tensor, g_PC: Tensor, d_PC: Tensor) -> None:
        """Fill d = dL/dx, given g = dL/dy."""
        x_PC = x_PC.to(self._dtype)
        t_PC = self._root(x_PC)
        scaled_PC = self._scale_PC.mul_(g_PC)
        torch.mul(t_PC.mul_(t_PC).mul_(x_PC), scaled_PC, out=self._inner_PC)
        torch.sub(scaled_PC, self._neighbours().mul_(x_PC), alpha=2 * BETA * SHARE, out=d_PC)

    def _root(self, x_PC: Tensor) -> Tensor:
        """Leave s^-0.75 in the scale; return t = s^-0.5."""
        torch.mul(x_PC, x_PC, out=self._inner_PC)
        s_PC = self._neighbours()
        t_PC = torch.add(self._one, s_PC, alpha=SHARE, out=s_PC).rsqrt_()
        torch.sqrt(t_PC, out=self._scale_PC).mul_(t_PC)
        return t_PC

    def _neighbours(self) -> Tensor:
        """Sum of the five channels around each, of what is in the inner part: two pairs and one."""
        channels = self._sum_PC.shape[1]
        torch.add(self._padded[:, :-1], self._padded[:, 1:], out=self._pairs)
        torch.add(self._pairs[:, :channels], self._pairs[:, 2 : channels + 2], out=self._sum_PC)
        self._sum_PC.add_(self._padded[:, 4:])
        return self._sum_PC
