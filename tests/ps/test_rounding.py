"""Rounding: unbiased, repeatable from the lease, and to a neighbour; against torch where torch says what is nearest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ps import rounding
from ps.messages import Wire
from ps.rounding import DTYPES, NOISE, Stochastic, nearest, stochastic
from ps.streams import torch_stream

N = 3 * NOISE + 5
NARROW = [Wire.BFLOAT16, Wire.FLOAT16]
SCALES = [1.0, 1e-3, 3e-5, 2e-7, 1e-9, 1e-30]  # float16's own, its smallest, below its smallest


def draw(scale: float = 1.0) -> Tensor:
    return torch.randn(N, generator=torch_stream(0, "vector")) * scale


def test_float32_is_left_as_it_is() -> None:
    vector_N = draw()
    assert stochastic(vector_N, Wire.FLOAT32, 0, 0, 0) is vector_N
    assert nearest(vector_N, Wire.FLOAT32) is vector_N


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("wire", NARROW)
def test_a_value_goes_to_one_of_its_two_neighbours(wire: Wire, scale: float) -> None:
    vector_N = draw(scale)
    rounded_N = stochastic(vector_N, wire, 0, 7, 1)
    assert rounded_N.dtype is DTYPES[wire]
    close_N = vector_N.to(DTYPES[wire])
    below = size(close_N) - (close_N.float().abs() > vector_N.abs()).short()  # the neighbour towards zero
    steps = size(rounded_N) - below
    exact = close_N.float() == vector_N
    assert bool(((steps == 0) | ((steps == 1) & ~exact)).all())
    assert torch.equal(rounded_N.float().sign(), torch.where(rounded_N == 0, 0.0, vector_N.sign()))
    assert scale < 1e-8 or set(steps.tolist()) == {0, 1}


def size(narrow_N: Tensor) -> Tensor:
    """How many values of its type lie between each element and zero."""
    return narrow_N.view(torch.int16) & 0x7FFF


@pytest.mark.parametrize("scale", SCALES[:4])
@pytest.mark.parametrize("wire", NARROW)
def test_the_mean_over_leases_is_the_value(wire: Wire, scale: float) -> None:
    """Within 5 standard errors; to the nearest it would be off by hundreds."""
    vector_N = torch.full((NOISE,), 1.2345678 * scale)
    steps = torch.stack([stochastic(vector_N, wire, 0, lease, 0).double().mean() for lease in range(16)])
    spread = float(stochastic(vector_N, wire, 0, 0, 0).double().std()) / (16 * NOISE) ** 0.5
    assert spread > 0
    assert abs(float(steps.mean()) - float(vector_N[0].double())) < 5 * spread


@pytest.mark.parametrize("wire", NARROW)
def test_what_the_wire_can_hold_is_not_changed(wire: Wire) -> None:
    held_N = torch.cat([draw().to(DTYPES[wire]), torch.zeros(3, dtype=DTYPES[wire])])
    assert torch.equal(stochastic(held_N.float(), wire, 0, 1, 0), held_N)
    assert torch.equal(nearest(held_N.float(), wire), held_N)


@pytest.mark.parametrize("wire", NARROW)
def test_the_same_lease_gives_the_same_bits_and_another_others(wire: Wire) -> None:
    vector_N = draw()
    before_N = vector_N.clone()
    once_N = stochastic(vector_N, wire, 5, 3, 1)
    assert torch.equal(once_N, stochastic(vector_N, wire, 5, 3, 1))
    for seed, lease, shard in ((6, 3, 1), (5, 4, 1), (5, 3, 2)):
        assert not torch.equal(once_N, stochastic(vector_N, wire, seed, lease, shard))
    assert torch.equal(vector_N, before_N)


def test_float16_saturates() -> None:
    large_N = torch.tensor([1e30, -1e30, 65519.0, 65504.0])
    expected_N = torch.tensor([65504.0, -65504.0, 65504.0, 65504.0])
    assert torch.equal(stochastic(large_N, Wire.FLOAT16, 0, 0, 0).float(), expected_N)
    assert torch.equal(nearest(large_N, Wire.FLOAT16).float(), expected_N)


@pytest.mark.skipif(rounding._kernel is None, reason="the kernel is not compiled here")
def test_the_compiled_kernel_gives_torchs_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient_N = torch.randn(2 * NOISE + 77, generator=torch_stream(0, "kernel"))
    gradient_N[:4] = torch.tensor([0.0, -0.0, 1e-45, -3.3e38])
    by_kernel = stochastic(gradient_N, Wire.BFLOAT16, 7, 1, 0)
    monkeypatch.setattr(rounding, "_kernel", None)
    by_torch = stochastic(gradient_N, Wire.BFLOAT16, 7, 1, 0)
    assert torch.equal(by_kernel.view(torch.int16), by_torch.view(torch.int16))


@pytest.mark.parametrize("wire", [Wire.BFLOAT16, Wire.FLOAT16])
def test_pieces_are_rounded_as_the_whole(wire: Wire) -> None:
    gradient_N = torch.randn(3 * NOISE + 5, generator=torch_stream(0, "pieces"))
    rounding_up = Stochastic(wire, 7, 1, 0)
    pieces = [rounding_up(gradient_N[start : start + 2 * NOISE]) for start in range(0, len(gradient_N), 2 * NOISE)]
    assert torch.equal(torch.cat(pieces), stochastic(gradient_N, wire, 7, 1, 0))
