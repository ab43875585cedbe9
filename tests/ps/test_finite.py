"""Finite check: whatever is not finite is found, wherever it lies, and nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch

from ps.finite import all_finite

LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 499, 999])
def test_one_bad_element_is_found(value: float, at: int) -> None:
    vector_N = torch.ones(1000)
    vector_N[at] = value
    assert not all_finite(vector_N)


def test_infinities_that_cancel_are_found() -> None:
    assert not all_finite(torch.tensor([torch.inf, -torch.inf, 1.0]))


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_finite_elements_are_finite(n: int) -> None:
    assert all_finite(torch.full((n,), -1e-30))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sum_that_overflows_is_no_bad_element(sign: float) -> None:
    vector_N = torch.full((1000,), sign * LARGEST)
    assert torch.isinf(vector_N.sum())
    assert all_finite(vector_N)
    vector_N[7] = sign * torch.inf
    assert not all_finite(vector_N)
