"""Policy: one worker's rate and momentum for W workers, against the closed form in the module's docstring."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from distbelief.policy import OneWorker

RATES = (1e-12, 0.0123456789012345, 0.02, 3.0)
MOMENTA = (0.0, 0.5, 0.9, 0.99, 0.9999999999999)
WORKERS = (1, 2, 3, 7, 10, 11, 32, 100, 1000, 100_000)


def closed_form(rate: float, momentum: float, workers: int) -> tuple[float, float]:
    """The two equations, as they are printed."""
    carried = max(0.0, 1 - workers * (1 - momentum))
    eta = rate * (1 - carried) / (1 - momentum) * min(1, 1 / (workers * (1 - momentum)))
    return eta, carried


def whole_step(settings: OneWorker) -> Fraction:
    """rate / (1 - mu), on the decimals as they are printed."""
    return Fraction(repr(settings.rate)) / (1 - Fraction(repr(settings.momentum)))


@pytest.mark.parametrize(("rate", "momentum"), list(itertools.product(RATES, MOMENTA[:-1])))
def test_the_closed_form(rate: float, momentum: float) -> None:
    for workers in WORKERS:
        carried = OneWorker(rate, momentum).carried_over(workers)
        assert (carried.rate, carried.momentum) == pytest.approx(
            closed_form(rate, momentum, workers), rel=1e-12, abs=1e-15
        )


@pytest.mark.parametrize(
    ("workers", "rate", "momentum"),
    [(1, 0.02, 0.9), (4, 0.08, 0.6), (8, 0.16, 0.2), (10, 0.2, 0.0), (20, 0.1, 0.0), (32, 0.0625, 0.0)],
)
def test_values_reckoned_by_hand(workers: int, rate: float, momentum: float) -> None:
    assert OneWorker(0.02, 0.9).carried_over(workers) == OneWorker(rate, momentum)


@pytest.mark.parametrize(("rate", "momentum"), list(itertools.product(RATES, MOMENTA)))
def test_one_worker_s_own_stay_as_they_are(rate: float, momentum: float) -> None:
    assert OneWorker(rate, momentum).carried_over(1) == OneWorker(rate, momentum)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_more_workers_never_mean_more_momentum_nor_a_longer_whole_step(momentum: float) -> None:
    carried = [OneWorker(0.02, momentum).carried_over(workers) for workers in WORKERS]
    for fewer, more in itertools.pairwise(carried):
        assert more.momentum <= fewer.momentum
        assert whole_step(more) <= whole_step(fewer) * (1 + Fraction(1, 10**12))
    assert carried[-1].rate < carried[0].rate / (1 - momentum)


@pytest.mark.parametrize("momentum", MOMENTA[:-1])
def test_memory_and_whole_step_are_kept_while_momentum_can_pay(momentum: float) -> None:
    one = OneWorker(0.02, momentum)
    paid = [workers for workers in WORKERS if workers * (1 - momentum) <= 1]
    assert paid
    for workers in paid:
        carried = one.carried_over(workers)
        assert workers / (1 - carried.momentum) == pytest.approx(1 / (1 - momentum))
        assert whole_step(carried) == whole_step(one)


def test_beyond_that_the_rate_falls_with_the_workers() -> None:
    rates = [OneWorker(0.02, 0.9).carried_over(workers).rate * workers for workers in (10, 32, 100, 100_000)]
    assert rates == pytest.approx([2.0] * 4)
    assert OneWorker(1e-12, 0.9).carried_over(100_000).rate == pytest.approx(1e-15, abs=0)


# --- auto: one momentum per worker ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "rate"), [(1, 0.02), (2, 0.02), (8, 0.02), (16, 0.01), (32, 0.005), (128, 0.00125), (512, 0.0003125)]
)
def test_with_a_momentum_each_one_worker_s_numbers_stand_up_to_enough_workers(workers: int, rate: float) -> None:
    assert OneWorker(0.02, 0.9).looking_ahead(workers) == OneWorker(rate, 0.9)


@pytest.mark.parametrize(("ahead", "rate", "momentum"), [(True, 1e-4, 0.9), (False, 0.0005, 0.5)])
def test_rmsprop_has_a_rate_of_its_own(ahead: bool, rate: float, momentum: float) -> None:
    found = OneWorker(0.02, 0.9, scaled_rate=1e-4).under("rmsprop", 5, ahead)
    assert (found.rate, found.momentum) == (rate, momentum)


@pytest.mark.parametrize("rule", ["adamw", "adagrad"])
def test_a_rule_without_a_momentum_makes_the_whole_step_at_once_however_many_workers(rule: str) -> None:
    for workers in (1, 32):
        assert OneWorker(0.02, 0.9, scaled_rate=1e-4).under(rule, workers, ahead=False).rate == 0.001
