"""The detector on made-up loss curves: stalled, healthy, both stuck, late."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from distbelief.stall import PATIENCE_LEASES, StallDetector, advice

GUESS = math.log(10)
LOOK_LEASES = 10
Curve = Callable[[int], float]  # leases to mean loss


def stuck(leases: int) -> float:
    """At a guess's loss, with a little noise."""
    return GUESS * (1 + 0.01 * math.sin(leases))


def prior(leases: int) -> float:
    """Stuck likewise, where frequent classes make a guess cheaper."""
    return 0.85 * stuck(leases)


def learning(leases: int) -> float:
    """Halves in some 700 leases."""
    return GUESS * math.exp(-leases / 1000)


def late(leases: int) -> float:
    """Starts 400 leases after the others, as the main classifier of a healthy run may."""
    return stuck(leases) if leases < 400 else learning(leases - 400)


def slow(leases: int) -> float:
    """Falls all the time, at a fifth of the others' speed."""
    return learning(leases // 5)


def plateau(leases: int) -> float:
    """Has learned and stays there, a little above the heads."""
    return 0.45 * stuck(leases)


def nothing(leases: int) -> float:
    return math.nan


def told_at(main: Curve, *auxiliary: Curve, classes: int = 10) -> list[int]:
    """At how many leases the detector speaks."""
    detector = StallDetector(classes)
    looks = range(0, 4000, LOOK_LEASES)
    return [n for n in looks if detector.stalled(n, main(n), tuple(head(n) for head in auxiliary))]


def test_a_stall_is_told_once_after_some_patience() -> None:
    (leases,) = told_at(stuck, learning, learning)
    ahead = 105  # the heads' loss is at 0.9 of a guess's
    assert ahead + PATIENCE_LEASES <= leases <= ahead + PATIENCE_LEASES + 5 * LOOK_LEASES


@pytest.mark.parametrize(("main", "auxiliary"), [(stuck, (stuck, learning)), (prior, (learning, learning))])
def test_one_learning_head_is_enough_and_a_guess_may_be_cheap(main: Curve, auxiliary: tuple[Curve, ...]) -> None:
    assert len(told_at(main, *auxiliary)) == 1


@pytest.mark.parametrize(
    ("main", "auxiliary"),
    [
        (learning, (learning, learning)),
        (late, (learning, learning)),
        (slow, (learning, learning)),
        (plateau, (learning, learning)),
        (stuck, (stuck, stuck)),  # nothing learns: another trouble, another cure
        (learning, (stuck, stuck)),
        (stuck, ()),
        (nothing, (learning,)),
        (stuck, (nothing, nothing)),
    ],
)
def test_no_stall_no_word(main: Curve, auxiliary: tuple[Curve, ...]) -> None:
    assert told_at(main, *auxiliary) == []


def test_a_thousand_classes() -> None:
    scale = math.log(1000) / GUESS
    heads: Curve = lambda n: scale * learning(n)  # noqa: E731
    assert len(told_at(lambda n: scale * stuck(n), heads, classes=1000)) == 1
    assert told_at(lambda n: scale * late(n), heads, classes=1000) == []


def test_the_advice_is_one_line_that_can_be_typed() -> None:
    assert advice(2.3026, (2.25, 1.0), rate=0.005, seed=7) == (
        "warning: the main classifier learns nothing (its loss stays at 2.30) while an auxiliary one does (1.00): "
        "GoogLeNet's known stall; if it lasts, start again with --lr 0.0025, or with other weights: --seed 8"
    )
