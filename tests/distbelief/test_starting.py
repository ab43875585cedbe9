"""Weights to start from: what fits is taken, what does not is named, and what cannot be meant is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from distbelief.starting import read_into
from ps.errors import BadInput
from ps.layout import Layout


def network(classes: int, frozen: bool = False) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))
    made[0].requires_grad_(not frozen)
    return made


def started(given: dict[str, Tensor], into: nn.Module, folder: Path) -> tuple[str, Tensor, Layout]:
    """What is said, the weights, and their layout."""
    safetensors.torch.save_file(given, folder / "old.safetensors")
    layout = Layout.of(into.named_parameters(), 1)
    weights_N = torch.full((layout.size,), 7.0)
    return read_into(weights_N, folder / "old.safetensors", layout, into), weights_N, layout


def saved(classes: int) -> dict[str, Tensor]:
    return {name: torch.full_like(value, 2.0) for name, value in network(classes).state_dict().items()}


def test_all_of_it_fits(tmp_path: Path) -> None:
    said, weights_N, _ = started(saved(3), network(3), tmp_path)
    assert said == ""
    assert torch.equal(weights_N, torch.full_like(weights_N, 2.0))


def test_a_head_of_another_size_keeps_its_random_values_and_is_named(tmp_path: Path) -> None:
    said, weights_N, layout = started(saved(3), network(5), tmp_path)
    assert said == (
        f"2 of 4 parameters are those of {tmp_path / 'old.safetensors'}; new and random: "
        "2.weight (5x8, 3x8 there), 2.bias (5, 3 there)"
    )
    views = layout.views(weights_N)
    assert {name: float(view.mean()) for name, view in views.items()} == {
        "0.weight": 2.0, "0.bias": 2.0, "2.weight": 7.0, "2.bias": 7.0,
    }  # fmt: skip


def test_a_parameter_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    given = saved(3)
    del given["0.bias"]
    assert started(given, network(3), tmp_path)[0].endswith("new and random: 0.bias (8, not there)")


def test_a_file_that_fits_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is of another model: got conv ..., expected 0.weight, 2.weight, 0.bias ..."):
        started({"conv": torch.zeros(3)}, network(3), tmp_path)


def test_a_frozen_parameter_is_the_factory_s_business(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"with 0.bias|0.weight, which is frozen .* read the file in the factory too"):
        started(saved(3), network(3, frozen=True), tmp_path)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    layout = Layout.of(network(3).named_parameters(), 1)
    with pytest.raises(BadInput, match=f"weights: cannot read {tmp_path / 'gone'}: "):
        read_into(torch.empty(layout.size), tmp_path / "gone", layout, network(3))
