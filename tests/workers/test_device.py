"""Where gradients are computed: the same path with copies as without, and what is said where there is no GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from ps.errors import BadInput
from ps.layout import Layout
from ps.leases import LeasePlan
from ps.messages import Lease
from workers import device
from workers.device import CPU, OnDevice, device_for, pin
from workers.gradient import GradientFunction, Losses
from workers.inception import initialise
from workers.models import build

CLASSES, SIDE, BATCH = 10, 16, 4
LEASE = LeasePlan(examples=8, batch_size=BATCH, epochs=1, seed=0).lease(1, 0, 9.0)


@dataclass
class Recorder:
    """Stands for a function on a device: says what it was given, and gives a gradient of sevens."""

    given: list[Tensor] = field(default_factory=list)

    def compute(self, weights_N: Tensor, lease: Lease, images: Tensor, labels: Tensor, gradient_N: Tensor) -> Losses:
        self.given = [weights_N.clone(), weights_N, images, labels, gradient_N]
        gradient_N.fill_(7.0)
        return Losses(0.5, (), 1, True)


def test_what_is_computed_with_was_copied_and_what_comes_of_it_is_copied_back() -> None:
    function = Recorder()
    weights_N, gradient_N = torch.arange(5.0), torch.zeros(5)
    there = OnDevice(function, CPU, 5)
    assert there.compute(weights_N, LEASE, torch.ones(1, 1, 2, 2), torch.ones(1), gradient_N).main == 0.5
    seen_N, theirs_N, _, _, made_N = function.given
    assert torch.equal(seen_N, weights_N)
    assert {theirs_N.data_ptr(), made_N.data_ptr()}.isdisjoint({weights_N.data_ptr(), gradient_N.data_ptr()})
    assert gradient_N.tolist() == [7.0] * 5


def test_everything_is_on_the_device_when_it_is_computed() -> None:
    class Stop(Exception):  # noqa: N818 -- a device without values gives none back
        pass

    class Looks(Recorder):
        def compute(self, *given: Any) -> Losses:
            self.given = [tensor for tensor in given if isinstance(tensor, Tensor)]
            raise Stop

    function = Looks()
    with pytest.raises(Stop):
        OnDevice(function, torch.device("meta"), 5).compute(
            torch.zeros(5), LEASE, torch.ones(1, 1, 2, 2), torch.ones(1), torch.zeros(5)
        )
    assert [tensor.device.type for tensor in function.given] == ["meta"] * 4


def test_a_real_gradient_has_the_same_bits_on_either_path() -> None:
    network = build("inception-mini", CLASSES, 1, SIDE)
    initialise(network, 0)
    layout = Layout.of(network.named_parameters(), 1)
    weights_N = torch.empty(layout.size)
    layout.flatten({name: parameter.detach() for name, parameter in network.named_parameters()}, weights_N)
    images, labels = torch.linspace(-1, 1, BATCH * SIDE * SIDE).view(BATCH, 1, SIDE, SIDE), torch.arange(BATCH)
    gradients = []
    for copied in (False, True):
        function: device.Function = GradientFunction(build("inception-mini", CLASSES, 1, SIDE), layout, 0)
        if copied:
            function = OnDevice(function, CPU, layout.size)
        gradient_N = torch.empty(layout.size)
        losses = function.compute(weights_N, LEASE, images, labels, gradient_N)
        gradients.append((gradient_N, losses))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert gradients[0][1] == gradients[1][1]


def test_no_share_of_a_gpu_is_the_cpu() -> None:
    assert device_for(0.0) == CPU


@pytest.mark.parametrize(("built", "why"), [(None, "this build of torch has no CUDA"), ("12.8", "torch sees no GPU")])
def test_a_gpu_that_is_not_there_is_one_line(built: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(BadInput, match=rf"^cluster.gpus_per_worker: got 0.5, expected 0 \(compute on cores\): {why}"):
        device_for(0.5)


def test_one_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(0.5) == torch.device("cuda")


def test_memory_is_registered_with_the_runtime_and_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    class Runtime:
        def cudaHostRegister(self, *given: object) -> int:
            calls.append(("register", *given))
            return 0

        def cudaHostUnregister(self, *given: object) -> int:
            calls.append(("unregister", *given))
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda code: None)
    vector_N = torch.zeros(6)
    unpin = pin(vector_N)
    assert calls == [("register", vector_N.data_ptr(), 24, 0)]
    unpin()
    assert calls[1:] == [("unregister", vector_N.data_ptr())]
