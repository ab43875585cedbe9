"""The response normalisation against torch's, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ps.streams import torch_stream
from workers import normalisation
from workers.normalisation import LocalResponse

SHAPES = [(2, 64, 7, 5), (1, 192, 3, 3), (3, 1, 4, 4), (2, 3, 1, 1), (1, 5, 2, 9)]


def given(shape: tuple[int, ...], scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Activations, and a gradient with respect to what they are normalised to."""
    generator = torch_stream(3, "normalisation")
    return torch.randn(shape, generator=generator) * scale, torch.randn(shape, generator=generator)


def both_ways(module: nn.Module, x_BCHW: Tensor, g_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """What a module gives, and the gradient with respect to its input."""
    x_BCHW = x_BCHW.detach().requires_grad_()
    y_BCHW = module(x_BCHW)
    y_BCHW.backward(g_BCHW.to(y_BCHW.dtype))
    assert x_BCHW.grad is not None
    return y_BCHW.detach(), x_BCHW.grad


def torch_s(x_BCHW: Tensor, g_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The same of torch's own module, computed in float64."""
    return both_ways(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0), x_BCHW.double(), g_BCHW.double())


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((got.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])  # s is about 1, 2 and 10,000
def test_against_torch_s(shape: tuple[int, ...], scale: float, layout: torch.memory_format) -> None:
    x_BCHW, g_BCHW = given(shape, scale)
    y_BCHW, d_BCHW = both_ways(LocalResponse(), x_BCHW.contiguous(memory_format=layout), g_BCHW)
    expected_y, expected_d = torch_s(x_BCHW, g_BCHW)
    torch.testing.assert_close(y_BCHW.double(), expected_y, rtol=1e-6, atol=0)
    assert error(d_BCHW, expected_d) < 1e-6


def test_it_is_not_the_identity() -> None:
    x_BCHW, g_BCHW = given((2, 64, 7, 5), 100.0)
    expected_y, expected_d = torch_s(x_BCHW, g_BCHW)
    assert error(x_BCHW, expected_y) > 0.1
    assert error(g_BCHW, expected_d) > 0.1


def test_bfloat16_is_rounded_once() -> None:
    x_BCHW, g_BCHW = (tensor.bfloat16() for tensor in given((2, 64, 7, 5), 100.0))
    with torch.autocast("cpu", torch.bfloat16):
        y_BCHW, d_BCHW = both_ways(LocalResponse(), x_BCHW, g_BCHW)
    exact_y, exact_d = both_ways(LocalResponse(), x_BCHW.float(), g_BCHW.float())
    assert torch.equal(y_BCHW, exact_y.bfloat16())
    assert torch.equal(d_BCHW, exact_d.bfloat16())


@pytest.mark.parametrize("elements", [1, 64 * 9, 64 * 13])  # 70 stretches; 8, the last shorter; 6, likewise
def test_the_stretches_change_no_bit(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x_BCHW, g_BCHW = given((2, 64, 7, 5), 100.0)
    whole = both_ways(LocalResponse(), x_BCHW, g_BCHW)
    monkeypatch.setattr(normalisation, "ELEMENTS", elements)
    parts = both_ways(LocalResponse(), x_BCHW, g_BCHW)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_channels_stay_last_and_the_input_stays_as_it_is() -> None:
    x_BCHW, g_BCHW = (tensor.contiguous(memory_format=torch.channels_last) for tensor in given((2, 64, 7, 5)))
    before = x_BCHW.clone()
    y_BCHW, d_BCHW = both_ways(LocalResponse(), x_BCHW, g_BCHW)
    assert torch.equal(x_BCHW, before)
    assert y_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert d_BCHW.is_contiguous(memory_format=torch.channels_last)
