"""Zhang et al.'s result in kind: with many workers a fixed rate fails where alpha / tau comes near the error of few.

Theirs: 30 workers, batch 4, momentum 0.9, CIFAR-10, n-softsync with n = 15 and 30: 90 % error at a fixed rate, about
18 % with alpha / tau. Here: the same workers, batch and momentum, a small network on handwritten digits.

Source: Zhang, Gupta, Lian, Liu 2016. Shape suffixes: B = examples, D = pixels, N = parameters of the network.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.model import SimulateSettings
from ps.consistency import ConsistencySettings
from ps.correction_settings import CorrectionSettings
from ps.finite import all_finite
from ps.leases import LeasePlan
from ps.messages import Lease
from ps.rules import RuleSettings
from ps.streams import torch_stream
from tests.cluster.simulation import simulated, specification
from workers.datasets import DataSettings, load
from workers.images import ArrayImages
from workers.program import Gradient

HIDDEN, CLASSES = 32, 10
FAILED = 0.85  # guessing is wrong nine times of ten


@cache
def digits(part: str) -> tuple[Tensor, Tensor]:
    data = load(DataSettings(name="digits"), part)
    assert isinstance(data, ArrayImages)
    images_BD = torch.from_numpy(data.images_NHWC).float().flatten(1).sub_(80.0).div_(100.0)
    return images_BD, torch.from_numpy(data.labels_N.astype(np.int64))


def network() -> torch.nn.Module:
    pixels = digits("train")[0].shape[1]
    return torch.nn.Sequential(torch.nn.Linear(pixels, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES))


class Network:
    """Computes gradients of the network at flat weights."""

    def __init__(self, plan: LeasePlan) -> None:
        self._model = network()
        self._order = cache(lambda epoch: torch.from_numpy(plan.order(epoch)))
        self.size = sum(parameter.numel() for parameter in self._model.parameters())

    def initial(self) -> Tensor:
        generator = torch_stream(0, "initial")
        drawn = [
            torch.randn(p.shape, generator=generator) * (2.0 / p.shape[1]) ** 0.5
            if p.dim() > 1
            else torch.zeros(p.shape)
            for p in self._model.parameters()
        ]
        return torch.nn.utils.parameters_to_vector(drawn)

    def __call__(self, lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
        images_BD, labels_B = digits("train")
        chosen = self._order(lease.epoch)[lease.first : lease.first + lease.count]
        torch.nn.utils.vector_to_parameters(weights_N.clone(), self._model.parameters())
        loss = torch.nn.functional.cross_entropy(self._model(images_BD[chosen]), labels_B[chosen])
        found = torch.autograd.grad(lease.weight * loss, list(self._model.parameters()))
        gradient_N.copy_(torch.nn.utils.parameters_to_vector(found))
        value = float(loss.detach())
        return Gradient(value, 0, 0, all_finite(gradient_N), gradient_N), 0.0

    def error(self, weights_N: Tensor) -> float:
        images_BD, labels_B = digits("test")
        torch.nn.utils.vector_to_parameters(weights_N, self._model.parameters())
        with torch.no_grad():
            return float((self._model(images_BD).argmax(dim=1) != labels_B).float().mean())


@cache
def error(workers: int, correction: str, consistency: ConsistencySettings | None = None, epochs: int = 24) -> float:
    plan = LeasePlan(len(digits("train")[1]), batch_size=4, epochs=epochs, seed=0)
    computation = Network(plan)
    rule = RuleSettings(rule="momentum", momentum=0.9)
    spec = replace(
        specification(1, workers, 1, computation.size, rule=rule, rate=0.01),
        plan=plan,
        correction=CorrectionSettings(correction),
        consistency=consistency or ConsistencySettings(),
    )
    ran = simulated(spec, replace(SimulateSettings(), latency_seconds=0.0), computation, computation.initial())
    weights_N = torch.empty(computation.size)
    ran.simulation.read(False, weights_N)
    return computation.error(weights_N)


def test_thirty_workers_fail_at_the_rate_of_one_and_learn_at_alpha_over_tau() -> None:
    few = error(1, "none", epochs=4)
    assert few < 0.2
    assert error(30, "none", epochs=4) > FAILED
    assert error(30, "staleness-rate", epochs=4) < few + 0.15


@pytest.mark.slow
@pytest.mark.parametrize("split", [15, 30])
def test_likewise_with_softsync(split: int) -> None:
    softsync = ConsistencySettings("softsync", split=split)
    few = error(1, "none")
    assert few < 0.1
    assert error(30, "none", softsync) > FAILED
    assert error(30, "staleness-rate", softsync) < few + 0.05
