"""Theory of asynchronous SGD, through the shipped shard, ledger and worker program in virtual time (facts B, C, D).

Nothing here applies a rule of its own: the trajectories are those of the machines. Only the gradient is a quadratic's.

Shape suffix: N = elements of the vector, T = updates.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cluster.machines import LeaseComputation
from cluster.model import ClusterModel
from cluster.pieces import with_gradients
from cluster.simulated import Simulation
from cluster.spec import RunSpec
from cluster.vectors import OwnVectors
from ps.layout import Layout
from ps.leases import LeasePlan
from ps.messages import AVERAGER, LEDGER, Address, Exchange, Lease, Reading, Role
from ps.rules import RuleSettings
from ps.streams import torch_stream
from tests.cluster.simulation import Records, constant, memoryless, simulated, specification
from workers.augment import training_augmentation
from workers.batches import Batches
from workers.datasets import DataSettings, load
from workers.gradient import GradientFunction
from workers.program import Gradient


class Curvatures:
    """Half the sum of h w^2, every element with a curvature of its own, plus noise drawn from the lease."""

    def __init__(self, h_N: Tensor, noise: float = 0.0) -> None:
        self._h_N = h_N
        self._noise = noise

    def __call__(self, lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        torch.mul(weights_N, self._h_N, out=gradient_N)
        if self._noise:
            stream = torch_stream(0, f"lease/{lease.id}/noise")
            gradient_N.add_(torch.randn(len(gradient_N), generator=stream), alpha=self._noise)
        return Gradient(0.0, 0, 0, True, gradient_N), 0.0


class Traced(OwnVectors):
    """Remembers the weights of every version: the pull behind each push reads the version that it made."""

    def __init__(self, elements: int, computation: Curvatures | LeaseComputation) -> None:
        super().__init__(elements, computation)
        self.versions: dict[int, Tensor] = {}

    def pulled(self, exchange: Exchange, reading: Reading) -> None:
        assert exchange.weights_N is not None
        self.versions[reading.version] = exchange.weights_N.clone()

    def trajectory_TN(self) -> Tensor:
        return torch.stack([self.versions[version] for version in range(len(self.versions))])


def trajectory_TN(
    spec: RunSpec, model: ClusterModel, computation: Curvatures | LeaseComputation, w_N: Tensor
) -> Tensor:
    """The weights at every version of a one-shard run."""
    addresses = (Address(Role.SHARD, 0), LEDGER, AVERAGER, Address(Role.WORKER))
    vectors = Traced(len(w_N), computation)
    pieces = with_gradients(spec, w_N, vectors, {address: Records() for address in addresses})
    Simulation(pieces, model, spec.cluster.workers).run()
    return vectors.trajectory_TN()


# --- B: the law of staleness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [4, 16])
def test_staleness_of_memoryless_workers_is_geometric(workers: int) -> None:
    updates, warm = 20_000, 20 * workers
    pushes = simulated(specification(updates, workers), memoryless()).pushes(0)[warm:]
    counts = Counter(push.staleness for push in pushes)
    for k in range(3 * workers):
        p = (1 / workers) * (1 - 1 / workers) ** k
        error = math.sqrt(p * (1 - p) / len(pushes))
        assert abs(counts[k] / len(pushes) - p) < 4 * error, k


# --- C: implicit momentum --------------------------------------------------------------------------------------------


def fitted(w_TN: Tensor, workers: int, h: float) -> tuple[float, float]:
    """Momentum and rate of E[w(t+1) - w(t)] = mu E[w(t) - w(t-1)] - a h w(t), from one noisy trajectory.

    What the update at t + 1 adds to its expectation is not known at t - 1, so it is orthogonal to anything made of
    the weights up to then: two such vectors give two equations for mu and a.
    """
    w_TN = w_TN.double()
    step_TN = w_TN[1:] - w_TN[:-1]
    long_TN = torch.zeros_like(w_TN)
    for t in range(1, len(w_TN)):
        long_TN[t] = (1 - 1 / workers) * long_TN[t - 1] + w_TN[t]
    after, before = step_TN[1:], step_TN[:-1]  # w(t+1) - w(t) and w(t) - w(t-1), for t from 1
    now, known = w_TN[1:-1], (w_TN[:-2], long_TN[:-2])
    matrix = torch.stack([torch.stack([(z * before).sum(), -h * (z * now).sum()]) for z in known])
    mu, rate = torch.linalg.solve(matrix, torch.stack([(z * after).sum() for z in known])).tolist()
    return mu, rate


@pytest.mark.slow
@pytest.mark.parametrize("workers", [4, 8, 16, 32])
def test_asynchrony_is_a_momentum_of_1_minus_1_over_w(workers: int) -> None:
    rate, h, elements = 0.2, 1.0, 512
    spec = specification(40_000, workers, elements=elements, rate=rate)
    w_N = torch.zeros(elements)
    w_TN = trajectory_TN(spec, ClusterModel(memoryless(), 0), Curvatures(torch.full((elements,), h), 1.0), w_N)
    mu, effective = fitted(w_TN[20 * workers :], workers, h)
    assert mu == pytest.approx(1 - 1 / workers, abs=0.005)
    assert effective == pytest.approx(rate / workers, rel=0.02)


# --- D: stability limits ---------------------------------------------------------------------------------------------

LIMITS = {  # facts D: of rate * curvature, by momentum and staleness
    (0.0, 1): 1.0, (0.0, 7): 0.20906, (0.0, 31): 0.04986, (0.5, 31): 0.02422,
    (0.9, 1): 0.1, (0.9, 7): 0.01575, (0.9, 31): 0.00418, (0.95, 31): 0.00192,
}  # fmt: skip


@pytest.mark.parametrize(("momentum", "staleness"), LIMITS)
def test_round_robin_workers_are_stable_up_to_the_limit(momentum: float, staleness: int) -> None:
    """One run tries 81 curvatures, from 0.9 to 1.1 of the limit: those beyond it grow, those below it shrink."""
    limit, window = LIMITS[momentum, staleness], 60 * (staleness + 1)
    grid_N = torch.linspace(0.9, 1.1, 81)
    rule = RuleSettings(rule="momentum", momentum=momentum)
    spec = specification(4 * window, staleness + 1, elements=81, rule=rule, rate=1.0)
    w_TN = trajectory_TN(spec, ClusterModel(constant(), 0), Curvatures(limit * grid_N), torch.ones(81)).abs()
    grows_N = w_TN[3 * window :].amax(0) > w_TN[2 * window : 3 * window].amax(0)
    first = int(grows_N.nonzero()[0])
    assert bool(grows_N[first:].all())  # a limit: all beyond it grow
    assert float(grid_N[first]) == pytest.approx(1.0, abs=0.02)


# --- one worker ------------------------------------------------------------------------------------------------------


def linear() -> nn.Module:
    with torch.device("meta"):
        module = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    return module.to_empty(device="cpu")


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.01),
}


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_one_worker_is_plain_sequential_training_to_the_bit(rule: str) -> None:
    dataset = load(DataSettings(), "train")
    plan = LeasePlan(len(dataset), 64, 2, 7)
    batches = Batches(dataset, plan, training_augmentation(dataset.name, dataset.image_shape))
    layout = Layout.of(linear().named_parameters(), 1)
    w_N = torch.randn(layout.size, generator=torch_stream(7, "test/initial")) / 16
    settings = RuleSettings(rule=rule, weight_decay=0.01, bias_decay_multiplier=1.0)
    spec = specification(plan.leases, 1, rule=settings, rate=0.05)
    spec = replace(spec, plan=plan, layout=layout)
    computation = LeaseComputation(batches.batch, GradientFunction(linear(), layout, 7))
    w_TN = trajectory_TN(spec, ClusterModel(memoryless(), 0), computation, w_N)

    module = linear()
    with torch.no_grad():
        for name, tensor in layout.views(w_N.clone()).items():
            module.get_parameter(name).copy_(tensor)
    optimizer = OPTIMIZERS[rule](module.parameters())
    flat_N = torch.empty(layout.size)
    for id in range(plan.leases):
        batch = batches.batch(plan.lease(id, 0, 0.0))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(batch.images_BCHW), batch.labels_B)
        (loss * plan.lease(id, 0, 0.0).weight).backward()
        optimizer.step()
        layout.flatten({name: p.detach() for name, p in module.named_parameters()}, flat_N)
        assert torch.equal(flat_N, w_TN[id + 1]), id
