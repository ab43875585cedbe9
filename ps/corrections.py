"""Corrections: what a stale gradient is worth to one shard.

A correction stands between a gradient and the update rule. It may weigh the rate, rewrite the gradient, change the
rule's momentum, refuse the gradient, or let a pull read something else than the weights. It knows no clock, no network,
no random number; what it remembers follows from the order of the shard's exchanges alone, so replay repeats it.

    alpha  learning rate           tau  staleness: updates between what the gradient read and its application
    w      weights now             b    weights that this gradient's own pull read
    g      gradient                mu   momentum of the rule

All but the momentum correction act on each element alone, in operations that round once each, so how the vector is cut
into shards changes no bit.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from msgspec import Struct

from ps.pulls import OpenPulls, silent
from ps.rules import Momentum, Nesterov, Rule
from ps.states import Remembered

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1 << 17  # elements per piece, so that what is between two operations stays in the cache
_SUM_AFRESH = 100  # updates of each worker between two sums: a hundredth of what an update costs
_TINY = 1e-30  # far below any step, and its square root is still a normal float32


class Arrival(Struct, frozen=True):
    """One gradient that is about to be applied.

    Attributes:
        worker: Whose it is.
        read: Version that it was computed from.
        staleness: Versions since then.
    """

    worker: int
    read: int
    staleness: int


class Worth(Struct, frozen=True):
    """What a gradient is worth: the gradient as it should have been, and so many times the rate."""

    gradient_N: Tensor
    factor: float = 1.0


class Plan(Struct, frozen=True):
    """How one update is to be made: by this rule, with these slots, at so many times the schedule's rate."""

    rule: Rule
    slots: tuple[Tensor, ...]
    factor: float = 1.0


class Correction:
    """None: a gradient counts in full, however stale it is. The base of all others, which say where they differ.

    Called in this order: `discards` and `holds` before anything is written; `weigh` for each gradient of an update;
    `plan` and `stepped` around the update; `publish` and `pulled` for each pull.

    Attributes:
        leads: Whether a pull reads something else than the weights.
        blind: Whether it looks at no vector that it is handed but the gradient: the others may be behind.
    """

    leads: ClassVar[bool] = False
    blind: ClassVar[bool] = True

    def discards(self, staleness: int) -> bool:
        """Whether a gradient is too stale to be applied at all."""
        return False

    def holds(self, worker: int, version: int) -> bool:
        """Whether what `weigh` needs to know of this pull is here."""
        return True

    def weigh(self, arrival: Arrival, w_N: Tensor, g_N: Tensor) -> Worth:
        """What this gradient is worth. It is only read; what is returned is good until the next call."""
        return Worth(g_N)

    def plan(self, worker: int, staleness: float, rule: Rule, w_N: Tensor, slots: tuple[Tensor, ...]) -> Plan:
        """How the next update is to be made. `staleness`: mean over its gradients."""
        return Plan(rule, slots)

    def stepped(self, version: int, w_N: Tensor) -> None:
        """The update has been made; it was number `version`."""

    def publish(self, w_N: Tensor, out_N: Tensor) -> None:
        """Fill `out_N` with what a pull reads."""
        out_N.copy_(w_N)

    def pulled(self, worker: int, number: int, version: int, w_N: Tensor) -> None:
        """Exchange `number` of this worker has pulled."""

    def state(self) -> Remembered:
        """What it remembers, copied."""
        return Remembered()

    def recall(self, state: Remembered) -> None:
        """Remember what `state` wrote down, and nothing else."""


class StalenessRate(Correction):
    """The rate divided by the staleness.

    alpha <- alpha / max(1, tau) ** power          not alpha / (tau + 1): a gradient of staleness 1 counts in full
                                                   nor the velocity: only what this gradient adds to it

    Source: Zhang, Gupta, Lian, Liu 2016, equation 4 (power 1). Power 1/2 did better in our own experiments.
    """

    def __init__(self, power: float) -> None:
        self._power = power

    def weigh(self, arrival: Arrival, w_N: Tensor, g_N: Tensor) -> Worth:
        return Worth(g_N, float(max(1, arrival.staleness) ** -self._power))


class Discard(Correction):
    """A gradient staler than the limit is not applied; its lease is granted again, so that no example is lost.

    Source: Maranjyan et al. 2025 (Ringmaster ASGD), which counts updates since the read and ignores what exceeds its
    threshold; there a lost gradient costs nothing, since examples are drawn independently.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def discards(self, staleness: int) -> bool:
        return staleness > self._limit


class _WithPulls(Correction):
    """What the corrections share that compare the weights of now with those that the gradient's own pull read.

    Args:
        elements: N.
        pulls: Pulls of one worker whose gradients may be to come.
    """

    blind = False

    def __init__(self, elements: int, pulls: int) -> None:
        self._pulls = OpenPulls(pulls)
        self._corrected_N = torch.empty(elements)

    def holds(self, worker: int, version: int) -> bool:
        return self._pulls.find(worker, version) is not None

    def pulled(self, worker: int, number: int, version: int, w_N: Tensor) -> None:
        self._pulls.keep(worker, number, version, w_N)

    def state(self) -> Remembered:
        pulls, pulled = self._pulls.state()
        return Remembered(pulls=pulls, pulled=pulled)

    def recall(self, state: Remembered) -> None:
        self._pulls.recall(state.pulls, state.pulled)

    def _read(self, arrival: Arrival) -> Tensor:
        b_N = self._pulls.find(arrival.worker, arrival.read)
        assert b_N is not None, "a shard applies only what the correction holds"
        return b_N


class DelayCompensation(_WithPulls):
    """DC-ASGD: the gradient is carried from b to w along a diagonal estimate of the curvature.

    g <- g + lambda * g * g * (w - b)              b is what THIS gradient's pull read; one backup per parameter,
                                                   overwritten by every update, would compensate the last step only

    Source: Zheng et al. 2017, equation 10 (lambda 0.04).
    """

    def __init__(self, strength: float, elements: int, pulls: int = 1) -> None:
        super().__init__(elements, pulls)
        self._strength = strength

    def weigh(self, arrival: Arrival, w_N: Tensor, g_N: Tensor) -> Worth:
        b_N = self._read(arrival)
        for piece in _pieces(g_N):
            g = g_N[piece]
            change = torch.sub(w_N[piece], b_N[piece]).mul_(g).mul_(g).mul_(self._strength)
            torch.add(g, change, out=self._corrected_N[piece])
        return Worth(self._corrected_N)


class AdaptiveDelayCompensation(_WithPulls):
    """DC-ASGD with a strength of its own for each element, so that g * g cannot blow up with the gradient.

    s <- decay * s + (1 - decay) * g * g           not corrected for its start at zero
    g <- g + lambda / sqrt(s + epsilon) * g * g * (w - b)

    Source: Zheng et al. 2017, section 6 (lambda 2, decay 0.95, epsilon 1e-7).
    """

    def __init__(self, strength: float, decay: float, epsilon: float, elements: int, pulls: int = 1) -> None:
        super().__init__(elements, pulls)
        self._strength, self._decay, self._epsilon = strength, decay, epsilon
        self._squares_N = torch.zeros(elements)

    def state(self) -> Remembered:
        return replace(super().state(), vectors=(self._squares_N.clone(),))

    def recall(self, state: Remembered) -> None:
        super().recall(state)
        self._squares_N = state.vectors[0].clone()

    def weigh(self, arrival: Arrival, w_N: Tensor, g_N: Tensor) -> Worth:
        b_N = self._read(arrival)
        for piece in _pieces(g_N):
            g, s = g_N[piece], self._squares_N[piece]
            squares = torch.mul(g, g)
            s.mul_(self._decay).add_(torch.mul(squares, 1.0 - self._decay))
            strength = torch.add(s, self._epsilon).sqrt_().reciprocal_().mul_(self._strength)
            change = torch.sub(w_N[piece], b_N[piece]).mul_(squares).mul_(strength)
            torch.add(g, change, out=self._corrected_N[piece])
        return Worth(self._corrected_N)


class GapAware(_WithPulls):
    """Each element of the gradient divided by how far its parameter has gone, in typical steps.

    G <- 1 + |w - b| / c                           alpha / tau counts the steps between, however small they were
    g <- g / G
    c <- decay * c + (1 - decay) * |step|          step: what the last update did to w; c is read without the trace of
                                                   its start at zero

    Per element, as in its parameter-wise form: a norm over the whole vector would need all shards, and one over a shard
    would depend on how the vector is cut. Where neither gap nor step is known (both zero) the gradient is left alone.

    Source: Barkai, Hakimi, Schuster 2020, section 4; that c is a moving mean of the steps' size is our reading.
    """

    def __init__(self, decay: float, elements: int, pulls: int = 1) -> None:
        super().__init__(elements, pulls)
        self._decay = decay
        self._steps_N = torch.zeros(elements)
        self._before_N = torch.empty(elements)

    def state(self) -> Remembered:
        return replace(super().state(), vectors=(self._steps_N.clone(),))

    def recall(self, state: Remembered) -> None:
        super().recall(state)
        self._steps_N = state.vectors[0].clone()

    def weigh(self, arrival: Arrival, w_N: Tensor, g_N: Tensor) -> Worth:
        b_N = self._read(arrival)
        seen = 1.0 - self._decay ** (arrival.read + arrival.staleness)  # share of c that is not its start; 0 at first
        for piece in _pieces(g_N):
            c = torch.div(self._steps_N[piece], seen) if seen else self._steps_N[piece].clone()
            c.add_(_TINY)
            gap = torch.sub(w_N[piece], b_N[piece]).abs_()
            torch.mul(g_N[piece], torch.div(c, gap.add_(c)), out=self._corrected_N[piece])
        return Worth(self._corrected_N)

    def plan(self, worker: int, staleness: float, rule: Rule, w_N: Tensor, slots: tuple[Tensor, ...]) -> Plan:
        self._before_N.copy_(w_N)
        return Plan(rule, slots)

    def stepped(self, version: int, w_N: Tensor) -> None:
        for piece in _pieces(w_N):
            step = torch.sub(w_N[piece], self._before_N[piece]).abs_()
            self._steps_N[piece].mul_(self._decay).add_(step.mul_(1.0 - self._decay))


class ImplicitMomentum(Correction):
    """The momentum that asynchrony adds by itself is taken out of the rule's.

    A gradient that is T updates late on average delays the answer to it as a momentum of T / (T + 1) does. So the mean
    age that the rule's momentum gives is cut by T, the size of the whole step is kept, and where T alone is more than
    was wanted the rate falls:

    mu' / (1 - mu')  =  max(0, mu / (1 - mu) - T)
    alpha'  =  alpha * (1 - mu') / (1 - mu) * min(1, 1 / ((1 - mu) * (1 + T)))

    T is measured: the mean over the updates so far, then a moving mean. (mu' = mu - T / (T + 1) instead would let the
    two momenta add up, but their ages do.)

    Source: Mitliagkas et al. 2016, theorem 1 (implicit momentum 1 - 1/W, whose mean age is W - 1); the rule is ours.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._staleness = 0.0  # T
        self._updates = 0

    def state(self) -> Remembered:
        return Remembered(numbers=(self._staleness, float(self._updates)))

    def recall(self, state: Remembered) -> None:
        self._staleness, self._updates = state.numbers[0], int(state.numbers[1])

    def plan(self, worker: int, staleness: float, rule: Rule, w_N: Tensor, slots: tuple[Tensor, ...]) -> Plan:
        assert isinstance(rule, Momentum | Nesterov)
        self._updates += 1
        share = max(1.0 / self._updates, 1.0 - self._decay)
        self._staleness += (staleness - self._staleness) * share
        mu = rule.momentum
        age = max(0.0, mu / (1.0 - mu) - self._staleness)
        explicit = age / (1.0 + age)
        factor = (1.0 - explicit) / (1.0 - mu) * min(1.0, 1.0 / ((1.0 - mu) * (1.0 + self._staleness)))
        return Plan(replace(rule, momentum=explicit), slots, factor)


class Dana(Correction):
    """DANA: one momentum per worker, and a pull reads where all of them together will have led.

    v_i <- mu * v_i - alpha * g (or as rmsprop)    one velocity for all workers instead repeats each worker's past
    w   <- w + v_i                                 W times as often as its own gradients come
    pull: w + mu * (v_1 + ... + v_W)               published as theta - eta * gamma * sum v, with v <- gamma * v + g
                                                   (equal while alpha is constant)

    Round-robin workers are stable up to alpha * h of about 0.7 / W at mu = 0.9 (tested through the shard), five times
    that of one velocity for all, and rate / (1 - mu), the size of the whole step, may be four times what it may be
    without any momentum.

    The velocity of a worker that is taken for lost leaves the sum; else every pull would be off by it for ever. So it
    would be by what is rounded away as the sum is kept up to date: now and then it is summed afresh, at versions that
    replay finds again.

    Source: Hakimi, Barkai, Gabel, Schuster 2019, algorithm DANA-Zero.
    """

    leads = True
    blind = False

    def __init__(self, momentum: float, elements: int) -> None:
        self._momentum = momentum
        self._sum_N = torch.zeros(elements)
        self._velocities: dict[int, Tensor] = {}
        self._heard: dict[int, int] = {}
        self._worker = 0  # whose update is being made

    def state(self) -> Remembered:
        velocities = {worker: v_N.clone() for worker, v_N in self._velocities.items()}
        return Remembered(vectors=(self._sum_N.clone(),), worker_vectors=velocities, heard=dict(self._heard))

    def recall(self, state: Remembered) -> None:
        self._sum_N = state.vectors[0].clone()
        self._velocities = {worker: v_N.clone() for worker, v_N in state.worker_vectors.items()}
        self._heard = dict(state.heard)

    def plan(self, worker: int, staleness: float, rule: Rule, w_N: Tensor, slots: tuple[Tensor, ...]) -> Plan:
        if worker not in self._velocities:
            self._velocities[worker] = torch.zeros_like(self._sum_N)
        self._worker = worker
        self._sum_N.sub_(self._velocities[worker])
        return Plan(rule, (self._velocities[worker], *slots[1:]))

    def stepped(self, version: int, w_N: Tensor) -> None:
        self._sum_N.add_(self._velocities[self._worker])
        self._heard[self._worker] = version
        if version % len(self._heard) == 0:  # now and then: it looks at every worker
            for lost in silent(self._heard, version):
                self._sum_N.sub_(self._velocities.pop(lost))
                del self._heard[lost]
        if version % (_SUM_AFRESH * len(self._heard)) == 0:
            self._sum_N.zero_()
            for each in sorted(self._velocities):
                self._sum_N.add_(self._velocities[each])

    def publish(self, w_N: Tensor, out_N: Tensor) -> None:
        torch.mul(self._sum_N, self._momentum, out=out_N)
        out_N.add_(w_N)


def _pieces(vector_N: Tensor) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, vector_N.numel(), _BLOCK)]
