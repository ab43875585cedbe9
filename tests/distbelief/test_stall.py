"""The detector on made-up loss curves: stalled, healthy, both stuck, late."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from distbelief.stall import PATIENCE_LEASES, StallDetector, advice

CHANCE = math.log(10)
Curve = Callable[[int], float]  # leases to mean loss


def stuck(leases: int) -> float:
    """At a guess's loss, with a little noise."""
    return CHANCE * (1 + 0.01 * math.sin(leases))


def learning(leases: int) -> float:
    """Halves in some 700 leases."""
    return CHANCE * math.exp(-leases / 1000)


def late(leases: int) -> float:
    """Starts 300 leases after the others, as the main classifier of a healthy run may."""
    return stuck(leases) if leases < 300 else learning(leases - 300)


def nothing(leases: int) -> float:
    return math.nan


def told_at(main: Curve, *auxiliary: Curve, classes: int = 10) -> list[int]:
    """At how many leases the detector speaks, looked at every ten."""
    detector = StallDetector(classes)
    looks = range(0, 3000, 10)
    return [n for n in looks if detector.stalled(n, main(n), tuple(head(n) for head in auxiliary))]


def test_a_stall_is_told_once_after_some_patience() -> None:
    (leases,) = told_at(stuck, learning, learning)
    learned = next(n for n in range(0, 3000, 10) if learning(n) <= 0.9 * CHANCE)
    assert leases == learned + PATIENCE_LEASES


def test_one_learning_head_is_enough() -> None:
    assert len(told_at(stuck, stuck, learning)) == 1


@pytest.mark.parametrize(
    ("main", "auxiliary"),
    [
        (learning, (learning, learning)),
        (late, (learning, learning)),
        (stuck, (stuck, stuck)),  # nothing learns: another trouble, another cure
        (learning, (stuck, stuck)),
        (stuck, ()),
        (nothing, (learning,)),
        (stuck, (nothing, nothing)),
    ],
)
def test_no_stall_no_word(main: Curve, auxiliary: tuple[Curve, ...]) -> None:
    assert told_at(main, *auxiliary) == []


def test_patience_begins_anew_after_the_main_loss_was_seen_to_fall() -> None:
    def dips(leases: int) -> float:
        return 0.9 * CHANCE if leases % 200 == 0 else stuck(leases)

    assert told_at(dips, learning) == []


def test_the_loss_of_a_guess_depends_on_the_classes() -> None:
    assert told_at(stuck, learning, classes=1000) == []
    scale = math.log(1000) / CHANCE
    assert len(told_at(lambda n: scale * stuck(n), lambda n: scale * learning(n), classes=1000)) == 1


def test_the_advice_is_one_line_that_can_be_typed() -> None:
    assert advice(2.3026, (2.25, 1.0), rate=0.005, seed=7) == (
        "warning: the main classifier has learned nothing yet (loss 2.30, no better than a guess) while an auxiliary "
        "one has (1.00): GoogLeNet's known stall; if it stays so, start again with --lr 0.0025, or with other weights: "
        "--seed 8"
    )
