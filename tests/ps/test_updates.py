"""Updates: however many are made together, by whatever kernel, the bits are those of one after the other by torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ps import kernel
from ps.layout import Segment
from ps.rules import Adagrad, AdamW, Momentum, Nesterov, Rule, Sgd
from ps.streams import torch_stream
from ps.updates import Update, Vectors, apply

N = 600_011  # several blocks, ragged, and a copy large enough to go past the cache
SEGMENTS = (Segment(0, 70, 1.0, 1.0), Segment(70, N - 1013, 1.0, 1.0), Segment(N - 1013, N, 2.0, 0.0))
RULES = [Sgd(), Momentum(0.9), Momentum(0.0), Nesterov(0.9), Adagrad(1e-8), AdamW(0.9, 0.999, 1e-8)]
FUSED = RULES[:4]


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "in_use", lambda: kernel.TORCH)


@pytest.fixture
def by_kernel() -> None:
    if kernel.in_use() != kernel.COMPILED:
        pytest.skip("the kernel is not compiled here")


def draw(name: str) -> Tensor:
    return torch.randn(N, generator=torch_stream(0, name))


def updates(rule: Rule, count: int = 3) -> list[Update]:
    """At falling rates, the second without a copy."""
    return [
        Update(
            rule, 0.037 / number, 0.01, number, draw(f"g/{number}"), None if number == 2 else torch.full((N,), math.nan)
        )
        for number in range(1, count + 1)
    ]


def made(rule: Rule, *batches: list[Update]) -> tuple[Tensor, ...]:
    """Weights and slots after these batches of updates."""
    w_N = draw("w")
    slots = tuple(torch.zeros(N) for _ in rule.slots)
    for batch in batches:
        apply(SEGMENTS, w_N, slots, batch)
    return (w_N, *slots)


def same(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a_N, b_N) for a_N, b_N in zip(some, others, strict=True))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_together_is_one_after_the_other_to_the_bit(rule: Rule) -> None:
    together, apart = updates(rule), updates(rule)
    assert same(made(rule, together), made(rule, *([each] for each in apart)))
    for one, other in zip(together, apart, strict=True):
        assert (one.out_N is None) == (other.out_N is None)
        assert one.out_N is None or other.out_N is None or torch.equal(one.out_N, other.out_N)


@pytest.mark.usefixtures("by_kernel")
@pytest.mark.parametrize("rule", FUSED, ids=repr)
def test_the_compiled_kernel_gives_torchs_bits(rule: Rule, request: pytest.FixtureRequest) -> None:
    ours = updates(rule)
    by_kernel = made(rule, ours)
    request.getfixturevalue("by_torch")
    torchs = updates(rule)
    assert same(by_kernel, made(rule, torchs))
    for one, other in zip(ours, torchs, strict=True):
        assert one.out_N is None or other.out_N is None or torch.equal(one.out_N, other.out_N)


@pytest.mark.usefixtures("by_kernel")
@pytest.mark.parametrize("offset", [1, 8, 16])
def test_a_copy_may_lie_anywhere(offset: int) -> None:
    rule = Momentum(0.9)
    (aligned,) = updates(rule, 1)
    room_N = torch.full((N + 2 * offset,), 7.0)
    shifted = Update(rule, aligned.rate, 0.01, 1, aligned.gradient_N, room_N[offset : offset + N])
    made(rule, [aligned])
    made(rule, [shifted])
    assert shifted.out_N is not None
    assert aligned.out_N is not None
    assert torch.equal(shifted.out_N, aligned.out_N)
    assert room_N[:offset].eq(7.0).all()
    assert room_N[offset + N :].eq(7.0).all()


def test_rules_of_two_kinds_may_be_due_together() -> None:
    mixed = [updates(Momentum(0.9), 1)[0], updates(Nesterov(0.9), 2)[1]]
    apart = made(Momentum(0.9), mixed[:1], mixed[1:])
    assert same(made(Momentum(0.9), mixed), apart)


@pytest.mark.usefixtures("by_torch")
def test_without_the_kernel_torch_does_the_work() -> None:
    assert not kernel.serves(draw("w"), updates(Momentum(0.9), 1))


def test_the_kernel_is_for_float32_and_its_own_rules() -> None:
    assert not kernel.serves(draw("w").double(), updates(Momentum(0.9), 1))
    assert not kernel.serves(draw("w"), updates(AdamW(0.9, 0.999, 1e-8), 1))


@pytest.mark.usefixtures("by_kernel")
def test_a_kernel_that_rounds_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernel._kernel.update

    class Other:
        @staticmethod
        def update(kind: int, w: int, v: int, elements: int, numbers: tuple[tuple[float, ...], ...]) -> None:
            real(kind, w, v, elements, tuple((each[0], each[1] * (1 + 1e-6), *each[2:]) for each in numbers))  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "_kernel", Other)
    assert kernel.in_use.__wrapped__() == kernel.TORCH
    monkeypatch.setattr(kernel, "_kernel", None)
    assert kernel.in_use.__wrapped__() == kernel.TORCH


@pytest.mark.usefixtures("by_kernel")
def test_nor_where_torchs_own_fused_kernel_rounds_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch._fused_sgd_  # type: ignore[attr-defined]
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *lists, lr, **more: real(*lists, lr=lr * (1 + 1e-6), **more))
    assert kernel.in_use.__wrapped__() == kernel.TORCH


# --- what is due ------------------------------------------------------------------------------------------------------


def test_what_is_due_is_made_when_somebody_looks_and_at_the_end() -> None:
    rule = Momentum(0.9)
    first, second, third = updates(rule)
    expected = made(rule, [first, second, third])
    vectors = Vectors(SEGMENTS, draw("w"), 1)
    with vectors.together():
        vectors.update(first, vectors.slots)
        assert torch.equal(vectors.w_N, draw("w"))
        assert torch.equal(vectors.settle().w_N, made(rule, [first])[0])
        vectors.update(second, vectors.slots)
        vectors.update(third, vectors.slots)
        assert torch.equal(vectors.w_N, made(rule, [first])[0])
    assert same((vectors.w_N, *vectors.slots), expected)
    vectors.update(first, vectors.slots)
    assert same((vectors.w_N, *vectors.slots), made(rule, [first, second, third, first]))


def test_an_update_of_other_slots_comes_after_what_is_due() -> None:
    rule = Momentum(0.9)
    first, second, _ = updates(rule)
    vectors, own_N = Vectors(SEGMENTS, draw("w"), 1), torch.zeros(N)
    with vectors.together():
        vectors.update(first, vectors.slots)
        vectors.update(second, (own_N,))
        expected_N = made(rule, [first])[0]
        apply(SEGMENTS, expected_N, (torch.zeros(N),), [second])
        assert torch.equal(vectors.w_N, expected_N)
