"""Local steps: what a worker may do with a lease of several batches, besides one gradient of one.

    downpour    the local copy steps along while its gradients add up; their sum is pushed
    local       local SGD: the local copy steps, and how far it went is pushed, as a gradient to the shard's own rule
    elastic     the worker keeps its copy for good, tied to the shards' by a spring

    w  local copy           c  the shards' weights as pulled
    g  gradient at w        H  batches in the lease
    alpha  the schedule's rate, after the samples that the newest pull told of and those used since

Local steps are plain: weight decay, momentum and the biases' multipliers are the shard's.

Shape suffix: N = parameters of the model, all shards together.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, cast

import torch

from ps.messages import Failed, Finished
from workers.program import Answer, Compute, Delivery, Effect, Gradient, Link, Program, Tally, Word

if TYPE_CHECKING:
    from torch import Tensor

    from ps.leases import LeasePlan
    from ps.messages import Lease
    from ps.schedule import Schedule

Delivering = Generator[Effect, Answer, Delivery]


class Downpour:
    """The accrued gradient.

    every batch:    a <- a + g;  w <- w - alpha * g         published so: the sum is pushed, and not its mean
    at the end:     push a                                  with the weights it began at as what was read

    The copy is fetched anew every `fetch_every` batches of the lease, and with every push.

    Source: Dean et al. 2012, algorithm 7.1 of the appendix (n_push = H, n_fetch), with blocking fetches.
    """

    def __init__(self, plan: LeasePlan, schedule: Schedule, fetch_every: int) -> None:
        self._plan, self._schedule, self._fetch_every = plan, schedule, fetch_every

    def __call__(self, link: Link, lease: Lease, weights_N: Tensor) -> Delivering:
        accrued_N = torch.zeros_like(weights_N)
        read, tally, since = link.read, Tally(), 0
        for number, batch in enumerate(self._plan.parts(lease)):
            if number and number % self._fetch_every == 0:
                yield from link.pull()
                since = 0
            gradient = cast("Gradient", (yield Compute(batch, weights_N)))
            tally.add(gradient, batch.count)
            if not gradient.finite:
                break
            accrued_N.add_(gradient.gradient_N)
            weights_N.add_(gradient.gradient_N, alpha=-self._schedule.rate(link.samples + since))
            since += batch.count
        return Delivery(accrued_N, tally, read)


class LocalSgd:
    """Local SGD with an outer step.

    H times:        w <- w - alpha * g                      from w = c
    at the end:     push c - w                              what the shard's rule makes of it is the outer step:
                                                            Nesterov with rate 0.7 and momentum 0.9 in DiLoCo

    Rate 1 and momentum 0 would be plain local SGD. DiLoCo's inner steps are AdamW's, which remembers; a worker here has
    no memory.

    Source: Douillard et al. 2023 (DiLoCo), algorithm 1, without its barrier unless the run is synchronous.
    """

    def __init__(self, plan: LeasePlan, schedule: Schedule) -> None:
        self._plan, self._schedule = plan, schedule

    def __call__(self, link: Link, lease: Lease, weights_N: Tensor) -> Delivering:
        start_N = weights_N.clone()
        tally = yield from _descend(self._plan, self._schedule, link.samples, lease, weights_N)
        return Delivery(start_N.sub_(weights_N), tally, link.read)


def elastic(
    worker: int, bounds: tuple[slice, ...], center_N: Tensor, plan: LeasePlan, schedule: Schedule, elasticity: float
) -> Program:
    """EASGD: the worker's own copy w lives as long as the worker. `center_N`: what pulls fill and pushes carry.

    H times:        w <- w - alpha * g
    at the end:     pull c;  e = a * (w - c);  w <- w - e;  push -e, to a shard that adds it: c <- c + e
                                                            with c pulled before the H steps instead, the spring would
                                                            pull to where the others were

    Source: Zhang, Choromanska, LeCun 2015, algorithm 1 (asynchronous EASGD), with a = rho * alpha as its own number.
    """
    link = Link(worker, bounds, center_N)
    yield from link.pull()
    weights_N = center_N.clone()
    word: Word | None = None
    while (lease := (yield from link.next_lease(word))) is not None:
        tally = yield from _descend(plan, schedule, link.samples, lease, weights_N)
        yield from link.pull()
        pushed_N = center_N.sub_(weights_N).mul_(elasticity)  # -e
        word = yield from link.deliver(lease, pushed_N, tally, link.read, pull=False)
        if isinstance(word, Finished):
            weights_N.add_(pushed_N)
        elif isinstance(word, Failed):  # it starts again from where the others are, which `deliver` pulled
            weights_N.copy_(center_N)


def _descend(
    plan: LeasePlan, schedule: Schedule, samples: int, lease: Lease, weights_N: Tensor
) -> Generator[Effect, Answer, Tally]:
    """Step through the lease's batches, in place; stop at a gradient that is not finite."""
    tally = Tally()
    for batch in plan.parts(lease):
        gradient = cast("Gradient", (yield Compute(batch, weights_N)))
        tally.add(gradient, batch.count)
        if not gradient.finite:
            break
        weights_N.add_(gradient.gradient_N, alpha=-schedule.rate(samples))
        samples += batch.count
    return tally
