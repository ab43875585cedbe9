"""Named streams, from four sides: same seed equal, other seed different, undisturbed by others, pinned values."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ps.streams import derive, numpy_stream, permutation, torch_stream

NAME = "lease/812/augment"


def numpy_draw(seed: int, name: str) -> list[float]:
    return numpy_stream(seed, name).random(8).tolist()


def torch_draw(seed: int, name: str) -> list[float]:
    return torch.rand(8, generator=torch_stream(seed, name)).tolist()


def permutation_draw(seed: int, name: str) -> list[int]:
    return permutation(seed, name, 50).tolist()


every_kind = pytest.mark.parametrize("draw", [numpy_draw, torch_draw, permutation_draw])


@every_kind
def test_same_seed_and_name_give_the_same_draws(draw: Callable[[int, str], list[float]]) -> None:
    assert draw(7, NAME) == draw(7, NAME)


@every_kind
def test_another_seed_or_name_gives_other_draws(draw: Callable[[int, str], list[float]]) -> None:
    draws = [
        tuple(draw(seed, name)) for seed in (0, 1, -1) for name in (NAME, "lease/813/augment", "lease/812/dropout")
    ]
    assert len(set(draws)) == len(draws)


def test_drawing_from_another_stream_in_between_changes_nothing() -> None:
    alone = numpy_stream(0, "a").random(8), torch.rand(8, generator=torch_stream(0, "a"))
    numpy_a, torch_a = numpy_stream(0, "a"), torch_stream(0, "a")
    first = numpy_a.random(3), torch.rand(3, generator=torch_a)
    numpy_stream(0, "b").random(5)
    torch.rand(5, generator=torch_stream(0, "b"))
    permutation(0, "c", 5)
    second = numpy_a.random(5), torch.rand(5, generator=torch_a)
    assert np.array_equal(np.concatenate([first[0], second[0]]), alone[0])
    assert torch.equal(torch.cat([first[1], second[1]]), alone[1])


def test_torchs_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(8, generator=torch_stream(0, NAME))
    assert torch.equal(torch.get_rng_state(), before)


def test_pinned_values() -> None:
    """Every recorded run rests on these; a change here makes old runs impossible to replay."""
    assert derive(0, NAME) == 4483383586644248028
    assert derive(1, NAME) == 4059703253844889573
    assert numpy_stream(0, NAME).bit_generator.random_raw(3).tolist() == [
        6655854029711755844,
        7174196241430953034,
        15338228332875519128,
    ]
    assert torch.randint(0, 2**62, (3,), generator=torch_stream(0, NAME)).tolist() == [
        4518677507419748192,
        4345400630214476848,
        4603938232746160356,
    ]
    assert permutation(0, "epoch/0/order", 10).tolist() == [6, 5, 8, 0, 1, 4, 2, 3, 7, 9]


def test_derived_seeds_fit_a_signed_64_bit_integer() -> None:
    derived = [derive(seed, NAME) for seed in range(-50, 50)]
    assert all(0 <= one < 2**63 for one in derived)
    assert max(derived) >= 2**62


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_a_permutation_holds_every_index_once(n: int) -> None:
    order = permutation(3, "epoch/1/order", n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_first_positions_of_many_permutations_are_spread_evenly() -> None:
    counts = np.bincount([permutation(seed, "order", 4)[0] for seed in range(400)], minlength=4)
    assert counts.min() > 60
    assert counts.max() < 140


def test_the_ledgers_modules_do_not_import_torch() -> None:
    program = (
        "import sys, ps.streams, ps.layout, ps.rules, ps.schedule, ps.intervals; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
