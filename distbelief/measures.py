"""Measures: how curved the loss is, how much momentum a run really has, how far its workers' weights are behind, and
whether the rate is one that so stale a run can bear.

Pure: numbers and vectors in, numbers out.

    h    curvature: an eigenvalue of the loss's Hessian H           tau  staleness in updates
    a    learning rate                                              mu   momentum

Shape suffixes: N = parameters of the model, T = versions of a shard, K = those of its parameters that are looked at.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_REACH = 1e-3  # of the weights' norm: how far apart two gradients are taken
_TINY = 1e-30


def stability_limit(momentum: float, staleness: float) -> float:
    """The largest a * h at which w <- w + v, v <- mu v - a h w(t - tau) does not grow, for a constant tau.

    Its characteristic equation is (z - 1)(z - mu) z^(tau - 1) = -a h. The limit is where a root first crosses the unit
    circle, z = exp(i x): where the left side's phase is pi. For mu = 0 that is 2 sin(pi / (2 (2 tau + 1))).

    Source: the root locus of delayed gradient descent; with mu = 0 known since Levin and May 1976.
    """

    def phase(x: float) -> float:
        return (math.pi + x) / 2 + cmath.phase(cmath.exp(1j * x) - momentum) + (staleness - 1) * x

    low, high = 0.0, math.pi
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if phase(middle) < math.pi else (low, middle)
    z = cmath.exp(1j * high)
    return abs((z - 1) * (z - momentum))


def limit_ahead(momentum: float, workers: int) -> float:
    """Likewise with one velocity per worker and pulls that look ahead (ps.corrections.Dana), for workers in turn.

    What it did to the weights W updates ago gives the characteristic equation
    (1 - 1/z)(z^W - mu) = -a h (1 + mu - mu z^-W). The limit is the least a h > 0 with a root on the unit circle.

    Source: ours; for mu = 0 it is the limit without.
    """

    def response(x: float) -> complex:
        z = cmath.exp(1j * x)
        return -(1 - 1 / z) * (z**workers - momentum) / (1 + momentum - momentum * z**-workers)

    places = 64 * workers  # so that no crossing lies between two of them unseen
    grid = [math.pi * (place + 0.5) / places for place in range(places)]
    found = []
    for low, high in pairwise([*grid, math.pi]):
        side = response(low).imag > 0
        if (response(high).imag > 0) == side and high < math.pi:
            continue
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (response(middle).imag > 0) == side else (low, middle)
        found.append(response(high).real)
    return min(value for value in found if value > _TINY)


def largest_curvature(
    gradient: Callable[[Tensor], Tensor],
    w_N: Tensor,
    start_N: Tensor,
    iterations: int,
    scale_N: Tensor | None = None,
) -> float:
    """The largest eigenvalue of the Hessian at w, by power iteration: at least nearly so, and never more.

    A product with the Hessian is the difference of two gradients, H v = (g(w + e v) - g(w - e v)) / 2 e, so that it
    works for every network, those included whose layers can be differentiated only once.

    Args:
        gradient: Weights to gradient, both (N,), the same function at every call. What it returns is read before the
            next call.
        start_N: Any direction that is not zero; the gradient is a good one.
        iterations: Products to compute; twice as many if the curvature that is largest in size is negative.
        scale_N: What a rule multiplies each element of the gradient by, above 0: then of the Hessian that such a rule
            sees, s^1/2 H s^1/2.
    """
    root_N = scale_N.sqrt() if scale_N is not None else torch.ones_like(w_N)
    length = _REACH * (1.0 + float(w_N.norm()))

    def product(v_N: Tensor) -> Tensor:
        direction_N = root_N * v_N
        step = length / max(float(direction_N.norm()), _TINY)
        above_N = gradient(w_N + step * direction_N).clone()
        return root_N * (above_N - gradient(w_N - step * direction_N)) / (2 * step)

    largest = _dominant(product, root_N * start_N, iterations)
    if largest >= 0:
        return largest
    return largest + _dominant(lambda v_N: product(v_N) - largest * v_N, root_N * start_N, iterations)


def _dominant(product: Callable[[Tensor], Tensor], v_N: Tensor, iterations: int) -> float:
    """The Rayleigh quotient after so many products."""
    value = 0.0
    for _ in range(iterations):
        v_N = v_N / max(float(v_N.norm()), _TINY)
        next_N = product(v_N)
        value = float(v_N @ next_N)
        v_N = next_N
    return value


@dataclass(frozen=True, slots=True)
class Motion:
    """What a trajectory is like on average: E[w(t+1) - w(t)] = momentum * E[w(t) - w(t-1)] - rate * grad f(w(t)).

    Source: Mitliagkas et al. 2016, theorem 1 (memoryless workers without momentum: 1 - 1/W and a / W).
    """

    momentum: float
    rate: float


def effective_motion(w_TK: Tensor, g_TK: Tensor, workers: int) -> Motion | None:
    """Fit momentum and rate to a noisy trajectory.

    What is random in the step from t is not known at t - 1, so it is orthogonal to anything made of the weights up to
    then: two such vectors give two equations, w(t-1) and its moving mean; with one worker, who has no past gradients in
    flight, w(t-1) and the last step. (Least squares of the step on the last step and the gradient instead would take
    the gradient's own noise for an answer to it.)

    Args:
        w_TK: The weights at every version.
        g_TK: The gradient computed at each of them, noise and all.
        workers: So far back do its answers reach.

    Returns:
        None if the trajectory is too short, or does not determine the two.
    """
    if len(w_TK) < 4 * workers + 8:
        return None
    w_TK, g_TK = w_TK.double(), g_TK.double()
    centred_TK = w_TK - w_TK.mean(0)
    long_TK = torch.zeros_like(w_TK)
    for t in range(1, len(w_TK)):
        long_TK[t] = (1 - 1 / (workers + 1)) * long_TK[t - 1] + centred_TK[t]
    step_TK = w_TK[1:] - w_TK[:-1]
    after, before, now = step_TK[1:], step_TK[:-1], g_TK[1 : len(w_TK) - 1]
    instruments = [centred_TK[:-2], long_TK[:-2] if workers > 1 else before]
    matrix = torch.stack([torch.stack([(z * before).sum(), -(z * now).sum()]) for z in instruments])
    found, info = torch.linalg.solve_ex(matrix, torch.stack([(z * after).sum() for z in instruments]))
    if int(info) or not bool(found.isfinite().all()):
        return None
    return Motion(*found.tolist())


def gap(now_K: Tensor, read_K: Tensor) -> float:
    """How far the weights went since a gradient's pull: root mean square over the parameters.

    Source: Hakimi, Barkai, Gabel, Schuster 2019, section 3 (the gap of DANA).
    """
    return float((now_K - read_K).square().mean().sqrt())


@dataclass(frozen=True, slots=True)
class Stability:
    """Whether a rate is one that so stale a run can bear.

    Attributes:
        rate: a, at its highest.
        momentum: mu.
        staleness: Mean tau.
        curvature: Largest h that was measured.
        ahead: Whether every worker has a velocity of its own, and pulls look ahead.
        borne: Times the limit that is nothing to warn of.
    """

    rate: float
    momentum: float
    staleness: float
    curvature: float
    ahead: bool = False
    borne: float = 1.0

    @property
    def limit(self) -> float:
        """The largest rate that is stable."""
        if self.ahead:
            most = limit_ahead(self.momentum, 1 + round(self.staleness))
        else:
            most = stability_limit(self.momentum, self.staleness)
        return most / max(self.curvature, _TINY)

    @property
    def ratio(self) -> float:
        """The rate over the largest stable one: above 1 errors grow along the most curved direction."""
        return self.rate / self.limit

    def advice(self) -> str:
        """One sentence where the rate is too far beyond the limit, empty elsewhere."""
        if not self.ratio > self.borne:
            return ""
        text = (
            f"warning: rate {self.rate:.3g} x curvature {self.curvature:.3g} is {self.ratio:.2g} times what is stable "
            f"at a mean staleness of {self.staleness:.3g} and momentum {self.momentum:g}; stable: --lr {self.limit:.1g}"
        )
        if self.momentum and not self.ahead:
            without = stability_limit(0.0, self.staleness) / self.curvature
            text += f", or --momentum 0 --lr {without:.1g}"
        return text
