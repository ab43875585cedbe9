"""Purity: every known way to break a gradient's being a function of weights and lease is found before a run starts."""

# ruff: noqa: TID251 -- these modules do what no module should

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ps.errors import BadInput
from ps.layout import Layout
from ps.leases import LeasePlan
from workers.images import Traits
from workers.models import ModelSettings, initial
from workers.own import named
from workers.own_data import OwnData
from workers.purity import Purity, check_data


def examples(count: int = 12) -> list[tuple[Tensor, int]]:
    return [(torch.linspace(-1, 1, 8) * (index + 1) / count, index % 3) for index in range(count)]


def check(factory: Callable[[], Any], given: Any = None, loss: Callable[..., Any] | None = None) -> None:
    dataset = OwnData.of(given or examples(), "mine:data", "train", 3)
    settings = ModelSettings(named(factory, "")[0], loss=named(loss, "")[0] if loss else "")
    model = initial(settings, Traits.of(dataset), 0)
    layout = Layout.of(model.named_parameters(), 1)
    weights_N = torch.empty(layout.size)
    layout.flatten(dict(model.named_parameters()), weights_N)
    Purity(settings, dataset, LeasePlan(len(dataset), 4, 1, 0), layout, weights_N).check()


def refusal(factory: Callable[[], Any], **given: Any) -> str:
    with pytest.raises(BadInput) as caught:
        check(factory, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mlp(*between: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(8, 8), *between, nn.Linear(8, 3))


class Forward(nn.Module):
    """A linear layer and something done to its result."""

    def __init__(self, then: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.then = then
        self.seen = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.linear(x))


# --- what is well -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU()],
)
def test_layers_without_memory(layer: nn.Module) -> None:
    check(mlp(layer))


def test_more_that_is_well() -> None:
    check(lambda: Forward(lambda _, x: x + torch.randn_like(x)))
    check(mlp(), loss=lambda logits, labels: nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    tied = nn.Linear(8, 8)
    check(lambda: nn.Sequential(tied, nn.ReLU(), tied, nn.Linear(8, 3)))
    check(mlp(nn.Linear(8, 8).requires_grad_(False)))


def test_initial_values_come_from_the_seed_and_from_nothing_else() -> None:
    settings = ModelSettings(named(mlp(), "")[0])
    dataset = OwnData.of(examples(), "mine:data", "train", 3)
    before = torch.default_generator.get_state()
    first, again, other = (initial(settings, Traits.of(dataset), seed) for seed in (1, 1, 2))
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert torch.equal(torch.default_generator.get_state(), before)


# --- what is not ------------------------------------------------------------------------------------------------------


def test_running_statistics() -> None:
    message = refusal(mlp(nn.BatchNorm1d(8)))
    assert (
        "which changes its buffers while it computes (1.running_mean, 1.running_var, ...); expected no stat" in message
    )
    assert message.endswith(
        "GroupNorm or LayerNorm in the place of BatchNorm, or BatchNorm with track_running_stats=False"
    )


def test_random_numbers_of_python_and_numpy() -> None:
    for name, draw in (("Python's random", random.random), ("numpy.random", np.random.random)):
        message = refusal(lambda draw=draw: Forward(lambda _, x: x * draw()))
        assert f"which draws from {name}, which all workers of a process share; expected draw with torch's" in message


def test_a_generator_of_its_own() -> None:
    generator = torch.Generator().manual_seed(1)
    message = refusal(lambda: Forward(lambda _, x: x + torch.randn(x.shape, generator=generator)))
    assert "which gives another gradient after another batch; expected no memory and no draws of its own" in message


def test_memory_in_an_attribute() -> None:
    def remember(module: Any, x: Tensor) -> Tensor:
        module.seen += 1
        return x * module.seen

    assert "which gives another gradient after another batch" in refusal(lambda: Forward(remember))


def test_seeding() -> None:
    def seeded(_: Any, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return x

    assert "torch.manual_seed was called: inside a worker" in refusal(lambda: Forward(seeded))

    def factory() -> nn.Module:
        torch.manual_seed(3)
        return nn.Linear(8, 3)

    assert "torch.manual_seed was called: inside a worker" in refusal(factory)


def test_a_factory_that_makes_another_model_each_time() -> None:
    made = iter(range(100))

    def factory() -> nn.Module:
        scale = float(next(made))
        return Forward(lambda _, x: x * scale)

    assert "which gives another gradient when it is built again" in refusal(factory)


def test_a_module_that_does_not_fit_the_data() -> None:
    assert "(4, 2) for images of shape (4, 8); expected logits of shape (4, 3)" in refusal(lambda: nn.Linear(8, 2))
    assert "which raised RuntimeError on images of shape (4, 8) (mat1 and" in refusal(lambda: nn.Linear(7, 3))
    assert "which raised IndexError on images of shape (4, 8)" in refusal(mlp(), loss=lambda *_: [][0])
    assert "which returns list; expected a torch.nn.Module" in refusal(list)
    assert "got pickle:" in refusal(lambda: nn.Linear(8, 3).double())
    assert "without arguments that returns a torch module" in refusal(lambda classes: nn.Linear(8, classes))


class Restless:
    """Data that change between two reads."""

    def __init__(self, change: str) -> None:
        self.change, self.reads = change, 0

    def __len__(self) -> int:
        return 12 + (self.reads > 20 if self.change == "length" else 0)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        image, label = examples()[index % 12]
        image += self.reads if self.change == "image" else 0
        return image, (label + (self.reads if self.change == "label" else 0)) % 3


@pytest.mark.parametrize("change", ["image", "label"])
def test_data_whose_items_change(change: str) -> None:
    with pytest.raises(BadInput, match=r"mine:data\[11\]: got another example when asked again, expected the same"):
        check_data(OwnData.of(Restless(change), "mine:data", "train", 3))


def test_data_whose_length_changes() -> None:
    with pytest.raises(BadInput, match=r"mine:data: got the length 12, then 13; expected data that do not change"):
        check_data(OwnData.of(Restless("length"), "mine:data", "train", 3))


def test_an_augmentation_that_draws_from_elsewhere() -> None:
    class Augmented(list):  # type: ignore[type-arg]
        def augment(self, image: Any, generator: Any) -> Any:
            return image * random.random()

    assert "got other images from augment when asked again" in refusal(mlp(), given=Augmented(examples()))
