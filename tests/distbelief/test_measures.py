"""Measures against closed forms: limits of the theory, quadratics of known curvature, trajectories of known momentum.

Shape suffixes: N = parameters, T = versions, K = those looked at.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distbelief.measures import Stability, effective_motion, gap, largest_curvature, limit_ahead, stability_limit
from ps.correction_settings import CorrectionSettings
from ps.messages import Lease
from ps.rules import RuleSettings
from ps.streams import torch_stream
from tests.cluster.simulation import constant, simulated, specification
from workers.program import Gradient

LIMITS = {  # facts D
    0.0: (2.0, 1.0, 0.44504, 0.20906, 0.10130, 0.04986),
    0.5: (3.0, 0.5, 0.19927, 0.09575, 0.04804, 0.02422),
    0.9: (3.8, 0.1, 0.03478, 0.01575, 0.00793, 0.00418),
    0.95: (3.9, 0.05, 0.01703, 0.00753, 0.00369, 0.00192),
}
STALENESS = (0, 1, 3, 7, 15, 31)


@pytest.mark.parametrize("momentum", LIMITS)
def test_stability_limits_are_those_of_the_table(momentum: float) -> None:
    for staleness, limit in zip(STALENESS, LIMITS[momentum], strict=True):
        assert stability_limit(momentum, staleness) == pytest.approx(limit, rel=0.01, abs=6e-6)


@pytest.mark.parametrize("staleness", [0, 1, 2.5, 31, 1000])
def test_without_momentum_the_limit_has_a_closed_form(staleness: float) -> None:
    assert stability_limit(0.0, staleness) == pytest.approx(2 * math.sin(math.pi / (2 * (2 * staleness + 1))))


@pytest.mark.parametrize("workers", [2, 8, 32])
def test_without_momentum_there_is_nothing_to_look_ahead_to(workers: int) -> None:
    assert limit_ahead(0.0, workers) == pytest.approx(stability_limit(0.0, workers - 1))


@pytest.mark.parametrize(("momentum", "workers"), [(0.5, 8), (0.9, 2), (0.9, 8), (0.9, 32), (0.95, 8)])
def test_workers_that_look_ahead_are_stable_up_to_their_limit(momentum: float, workers: int) -> None:
    """Through the shipped shard: of 41 curvatures around the limit those beyond it grow, those below it shrink."""
    window, grid_N = 80 * workers, torch.linspace(0.9, 1.1, 41)
    h_N = limit_ahead(momentum, workers) * grid_N
    rule, ahead = RuleSettings(rule="momentum", momentum=momentum), CorrectionSettings("dana")
    spec = replace(specification(4 * window, workers, elements=41, rule=rule, rate=1.0), correction=ahead)
    seen: list[Tensor] = []

    def gradient(lease: Lease, w_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        seen.append(w_N.abs().clone())
        torch.mul(w_N, h_N, out=gradient_N)
        return Gradient(0.0, 0, 0, True, gradient_N), 0.0

    simulated(spec, constant(), gradient, torch.ones(41))
    w_TN = torch.stack(seen)
    grows_N = w_TN[3 * window :].amax(0) > w_TN[2 * window : 3 * window].amax(0)
    first = int(grows_N.nonzero()[0])
    assert bool(grows_N[first:].all())
    assert float(grid_N[first]) == pytest.approx(1.0, abs=0.02)


def quadratic(h_N: Tensor) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with these eigenvalues, and a start that has some of each direction."""
    size = len(h_N)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=torch_stream(1, "basis")))
    return basis @ torch.diag(h_N) @ basis.T, torch.randn(size, generator=torch_stream(1, "start"))


@pytest.mark.parametrize("bottom", [0.0, -4.0, -40.0])
def test_the_largest_curvature_of_a_quadratic(bottom: float) -> None:
    """Also where the curvature that is largest in size is negative: along it nothing oscillates."""
    matrix, start_N = quadratic(torch.tensor([bottom, 0.5, 1.0, 2.0, 7.0, 10.0]))
    w_N = torch.full((6,), 3.0)
    found = largest_curvature(lambda w: matrix @ w - 1.0, w_N, start_N, iterations=60)
    assert found == pytest.approx(10.0, rel=1e-2)


def test_fewer_iterations_never_find_more() -> None:
    matrix, start_N = quadratic(torch.linspace(1.0, 10.0, 12))
    found = [largest_curvature(lambda w: matrix @ w, start_N, start_N, iterations) for iterations in (1, 3, 10, 100)]
    assert found == sorted(found)
    assert found[0] < 9.0 < found[-1] < 10.01


def test_a_rule_that_scales_the_gradient_sees_another_curvature() -> None:
    h_N, scale_N = torch.tensor([1.0, 2.0, 8.0]), torch.tensor([9.0, 0.5, 0.25])
    found = largest_curvature(lambda w: h_N * w, torch.ones(3), torch.ones(3), 40, scale_N)
    assert found == pytest.approx(9.0, rel=1e-2)


def wandering(momentum: float, rate: float, h: float = 1.0) -> tuple[Tensor, Tensor]:
    """A trajectory of just this motion, with noise in every gradient, and those gradients."""
    generator = torch_stream(2, "noise")
    w_TK, g_TK = torch.zeros(8000, 64), torch.zeros(8000, 64)
    v_K = torch.zeros(64)
    for t in range(7999):
        g_TK[t] = h * w_TK[t] + torch.randn(64, generator=generator)
        v_K = momentum * v_K - rate * (h * w_TK[t] + torch.randn(64, generator=generator))
        w_TK[t + 1] = w_TK[t] + v_K
    return w_TK, g_TK


@pytest.mark.parametrize(
    ("momentum", "rate", "workers"), [(0.0, 0.1, 1), (0.9, 0.02, 1), (0.5, 0.1, 8), (0.9, 0.02, 8)]
)
def test_momentum_and_rate_of_a_trajectory(momentum: float, rate: float, workers: int) -> None:
    motion = effective_motion(*wandering(momentum, rate), workers)
    assert motion is not None
    assert motion.momentum == pytest.approx(momentum, abs=0.02)
    assert motion.rate == pytest.approx(rate, rel=0.05)


def test_too_short_or_motionless_a_trajectory_tells_nothing() -> None:
    w_TK, g_TK = wandering(0.5, 0.1)
    assert effective_motion(w_TK[:30], g_TK[:30], workers=8) is None
    assert effective_motion(torch.zeros(500, 4), torch.zeros(500, 4), workers=8) is None


def test_the_gap_is_a_root_mean_square() -> None:
    assert gap(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 2.0])) == pytest.approx(math.sqrt(5 / 3))


def test_advice_says_what_is_too_much_and_what_would_be_stable() -> None:
    beyond = Stability(rate=0.02, momentum=0.9, staleness=31, curvature=10.0)
    assert beyond.limit == pytest.approx(0.000418, rel=0.01)
    assert beyond.ratio == pytest.approx(47.8, rel=0.01)
    assert beyond.advice() == (
        "warning: rate 0.02 x curvature 10 is 48 times what is stable at a mean staleness of 31 and momentum 0.9; "
        "stable: --lr 0.0004, or --momentum 0 --lr 0.005"
    )
    without = Stability(rate=0.02, momentum=0.0, staleness=31, curvature=10.0)
    assert without.advice().endswith("stable: --lr 0.005")
    assert Stability(rate=0.0004, momentum=0.9, staleness=31, curvature=10.0).advice() == ""
    assert Stability(rate=0.1, momentum=0.0, staleness=31, curvature=-1.0).advice() == ""
    assert replace(beyond, borne=beyond.ratio * 1.01).advice() == ""
    assert replace(beyond, borne=beyond.ratio * 0.99).advice() == beyond.advice()
