"""Update rules in three ways: against torch and a written-out reference, bitwise repeatable, converging on a quadratic.

Besides: cutting a vector into segments and shards changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ps.errors import BadInput
from ps.layout import Layout, Segment, TensorSpec
from ps.rules import RULES, Adagrad, AdamW, Momentum, Nesterov, Rmsprop, Rule, RuleSettings, Sgd, Step
from ps.streams import torch_stream
from ps.updates import Update, apply

STEPS = 50
RATE = 0.037

ALL = [
    Sgd(), Momentum(0.9), Momentum(0.0), Nesterov(0.9), Adagrad(1e-8), AdamW(0.9, 0.999, 1e-8),
    Rmsprop(0.9, 0.99, 1e-8),
]  # fmt: skip

Optimizer = Callable[..., torch.optim.Optimizer]


def sgd(groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, foreach=False, fused=False)


def adagrad(groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(groups, eps=1e-8, foreach=False, fused=False)


def adamw(groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, foreach=False, fused=False)


SAME_EQUATION = [(Sgd(), sgd), (Adagrad(1e-8), adagrad), (AdamW(0.9, 0.999, 1e-8), adamw)]


def start(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, generator=torch_stream(0, f"weights/{n}"), dtype=dtype)


def gradients(n: int, dtype: torch.dtype = torch.float32, steps: int = STEPS) -> Iterator[Tensor]:
    stream = torch_stream(0, f"gradients/{n}")
    for _ in range(steps):
        yield torch.randn(n, generator=stream, dtype=dtype)


def whole(n: int) -> tuple[Segment, ...]:
    return (Segment(0, n, 1.0, 1.0),)


def zeros(rule: Rule, like_N: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(like_N) for _ in rule.slots)


def update(
    rule: Rule,
    segments: tuple[Segment, ...],
    rate: float,
    decay: float,
    number: int,
    w_N: Tensor,
    g_N: Tensor,
    slots: tuple[Tensor, ...],
    out_N: Tensor | None = None,
) -> None:
    apply(segments, w_N, slots, (Update(rule, rate, decay, number, g_N, out_N),))


def run(rule: Rule, n: int, decay: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """The weights and slots after STEPS updates of one shard that holds everything."""
    w_N = start(n, dtype)
    slots = zeros(rule, w_N)
    for number, g_N in enumerate(gradients(n, dtype), start=1):
        update(rule, whole(n), RATE, decay, number, w_N, g_N, slots)
    return (w_N, *slots)


def run_torch(optimizer: Optimizer, w_N: Tensor) -> Tensor:
    w_N.requires_grad_()
    made = optimizer([{"params": [w_N]}])
    for g_N in gradients(w_N.numel(), w_N.dtype):
        w_N.grad = g_N
        made.step()
    return w_N.detach()


# --- against torch and a reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("n", [7, 1000])
@pytest.mark.parametrize(("rule", "optimizer"), SAME_EQUATION)
def test_equal_equations_give_equal_bits(rule: Rule, optimizer: Optimizer, n: int, decay: float) -> None:
    theirs_N = run_torch(lambda groups: optimizer([{**groups[0], "lr": RATE, "weight_decay": decay}]), start(n))
    ours_N = run(rule, n, decay)[0]
    assert not torch.equal(ours_N, start(n))
    assert torch.equal(ours_N, theirs_N)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("rule", [Momentum(0.9), Nesterov(0.9)])
def test_momentum_is_torchs_while_the_rate_is_constant(
    rule: Rule, decay: float, dtype: torch.dtype, tolerance: float
) -> None:
    nesterov = isinstance(rule, Nesterov)
    theirs_N = run_torch(
        lambda groups: torch.optim.SGD(groups, RATE, 0.9, weight_decay=decay, nesterov=nesterov), start(1000, dtype)
    )
    torch.testing.assert_close(run(rule, 1000, decay, dtype)[0], theirs_N, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", [Momentum(0.9), Momentum(0.0), Nesterov(0.9)])
def test_momentum_follows_its_equation_while_the_rate_changes(rule: Momentum | Nesterov) -> None:
    n, decay, mu = 100, 0.01, rule.momentum
    w_N = start(n)
    slots = zeros(rule, w_N)
    w, v = w_N.double().numpy(), np.zeros(n)
    for number, g_N in enumerate(gradients(n), start=1):
        alpha = RATE / number
        h = g_N.double().numpy() + decay * w
        v = mu * v - alpha * h
        w = w + (mu * v - alpha * h if isinstance(rule, Nesterov) else v)
        update(rule, whole(n), alpha, decay, number, w_N, g_N, slots)
    np.testing.assert_allclose(slots[0].numpy(), v, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(w_N.numpy(), w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_rmsprop_follows_its_equation_while_the_rate_changes(decay: float) -> None:
    n, rule = 100, Rmsprop(0.9, 0.99, 1e-8)
    w_N = start(n)
    slots = zeros(rule, w_N)
    w, v, s = w_N.double().numpy(), np.zeros(n), np.zeros(n)
    for number, g_N in enumerate(gradients(n), start=1):
        alpha, g = RATE / number, g_N.double().numpy()
        s = 0.99 * s + 0.01 * g**2
        v = 0.9 * v - alpha * (g / (np.sqrt(s / (1 - 0.99**number)) + 1e-8) + decay * w)
        w = w + v
        update(rule, whole(n), alpha, decay, number, w_N, g_N, slots)
    np.testing.assert_allclose(slots[0].numpy(), v, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(w_N.numpy(), w, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_without_momentum_rmsprop_is_adamw_without_its_own(decay: float) -> None:
    ours_N, adamw_N = run(Rmsprop(0.0, 0.99, 1e-8), 1000, decay)[0], run(AdamW(0.0, 0.99, 1e-8), 1000, decay)[0]
    torch.testing.assert_close(ours_N, adamw_N, rtol=1e-4, atol=1e-5)


def test_momentum_and_torchs_part_when_the_rate_changes() -> None:
    """The near miss: after the rate falls to 0, our velocity still carries w on; torch multiplies its own by 0."""
    w_N, velocity_N = torch.zeros(16), torch.zeros(16)
    for rate in (1.0, 0.0):
        update(Momentum(0.5), whole(16), rate, 0.0, 1, w_N, torch.full((16,), rate), (velocity_N,))
    assert torch.equal(w_N, torch.full((16,), -1.5))


# --- bitwise repeatable, however the vector is cut -------------------------------------------------------------------


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_a_run_repeats_to_the_bit(rule: Rule) -> None:
    for first_N, again_N in zip(run(rule, 1003, 0.01), run(rule, 1003, 0.01), strict=True):
        assert torch.equal(first_N, again_N)


@pytest.mark.parametrize("rate", [1.0, 0.037, 1e-3, 1e-7, 1e-11, 0.0])
@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_whole_lines_and_ragged_ends_round_alike(rule: Rule, rate: float) -> None:
    """For momentum this compares torch's fused kernel with the three operations it stands for."""
    n = 16 * 64
    results = []
    for width in (n, 7):
        w_N = start(n)
        slots = zeros(rule, w_N)  # so that no large velocity hides how a small rate was rounded
        for number, g_N in enumerate(gradients(n, steps=5), start=1):
            for a in range(0, n, width):
                piece = slice(a, a + width)
                rule.apply(Step(rate, 0.01, number), w_N[piece], g_N[piece], tuple(slot_N[piece] for slot_N in slots))
        results.append((w_N, *slots))
    for whole_N, pieces_N in zip(*results, strict=True):
        assert torch.equal(whole_N, pieces_N)


@pytest.mark.parametrize("shards", [2, 5])
@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_shards_together_do_what_one_shard_does(rule: Rule, shards: int) -> None:
    specs = (TensorSpec("weight", (3, 99_991)), TensorSpec("bias", (1013,), 2.0, 0.0))  # more than two blocks, ragged
    one = Layout(specs, 1)
    w_N = start(one.size)
    results = []
    for layout in (one, Layout(specs, shards)):
        held_N = w_N.clone()
        slots = zeros(rule, held_N)
        for number, g_N in enumerate(gradients(one.size, steps=3), start=1):
            for shard in range(layout.shards):
                part = layout.bounds(shard)
                parts = tuple(slot_N[part] for slot_N in slots)
                update(rule, layout.segments(shard), RATE, 0.01, number, held_N[part], g_N[part], parts)
        results.append((held_N, *slots))
    for unsharded_N, sharded_N in zip(*results, strict=True):
        assert torch.equal(unsharded_N, sharded_N)


@pytest.mark.parametrize(("rule", "optimizer"), SAME_EQUATION)
def test_segments_are_torchs_parameter_groups(rule: Rule, optimizer: Optimizer) -> None:
    layout = Layout((TensorSpec("weight", (10, 9)), TensorSpec("bias", (13,), 2.0, 0.0)), 2)
    ours_N = start(layout.size)
    slots = zeros(rule, ours_N)
    theirs = {name: view.clone().requires_grad_() for name, view in layout.views(ours_N).items()}
    groups = [
        {"params": [theirs["weight"]], "lr": RATE, "weight_decay": 0.01},
        {"params": [theirs["bias"]], "lr": RATE * 2.0, "weight_decay": 0.0},
    ]
    made = optimizer(groups)
    for number, g_N in enumerate(gradients(layout.size), start=1):
        for name, view in layout.views(g_N).items():
            theirs[name].grad = view.clone()
        made.step()
        for shard in range(layout.shards):
            part = layout.bounds(shard)
            parts = tuple(slot_N[part] for slot_N in slots)
            update(rule, layout.segments(shard), RATE, 0.01, number, ours_N[part], g_N[part], parts)
    for name, view in layout.views(ours_N).items():
        assert torch.equal(view, theirs[name].detach()), name


def test_an_update_stays_inside_its_segments() -> None:
    w_N, g_N, v_N = torch.zeros(100), torch.ones(100), torch.zeros(100)
    update(Momentum(0.9), (Segment(5, 70, 1.0, 1.0),), 1.0, 0.0, 1, w_N, g_N, (v_N,))
    expected_N = torch.zeros(100)
    expected_N[5:70] = -1.0
    assert torch.equal(w_N, expected_N)
    assert torch.equal(v_N, expected_N)


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_the_gradient_is_left_alone_and_the_copy_is_what_the_shard_holds(rule: Rule) -> None:
    n = 300_007  # more than two blocks, ragged
    segments = (Segment(0, n - 1013, 1.0, 1.0), Segment(n - 1013, n, 2.0, 0.0))
    w_N, out_N = start(n), torch.full((n,), math.nan)
    slots = zeros(rule, w_N)
    for number, g_N in enumerate(gradients(n, steps=2), start=1):
        before_N = g_N.clone()
        update(rule, segments, RATE, 0.01, number, w_N, g_N, slots, out_N)
        assert torch.equal(g_N, before_N)
        assert torch.equal(out_N, w_N)
    assert not torch.equal(w_N, start(n))


# --- converges on a quadratic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "rate"),
    [
        (Sgd(), 0.1),
        (Momentum(0.9), 0.02),
        (Nesterov(0.9), 0.02),
        (Adagrad(1e-8), 0.5),
        (AdamW(0.9, 0.999, 1e-8), 0.05),
        (Rmsprop(0.9, 0.999, 1e-8), 0.001),
    ],
    ids=repr,
)
def test_it_converges_on_a_quadratic(rule: Rule, rate: float) -> None:
    """Gradient a * (w - target), with curvatures a from 0.1 to 10."""
    n = 20
    curvature_N, target_N = torch.logspace(-1, 1, n), start(n)
    w_N = torch.zeros(n)
    slots = zeros(rule, w_N)
    for number in range(1, 1001):
        update(rule, whole(n), rate, 0.0, number, w_N, curvature_N * (w_N - target_N), slots)
    assert (w_N - target_N).abs().max() < 1e-2 * target_N.abs().max()


def test_adamws_decay_pulls_towards_zero_without_a_gradient() -> None:
    rule = AdamW(0.9, 0.999, 1e-8)
    w_N = torch.ones(16)
    update(rule, whole(16), 0.1, 0.5, 1, w_N, torch.zeros(16), zeros(rule, w_N))
    assert torch.equal(w_N, torch.full((16,), 0.95))


# --- settings --------------------------------------------------------------------------------------------------------


def test_every_name_builds_its_rule_with_its_settings() -> None:
    settings = {"momentum": 0.8, "epsilon": 1e-6, "beta1": 0.7, "beta2": 0.9}
    built = [RuleSettings(rule=name, **settings).build() for name in RULES]
    assert built == [Sgd(), Momentum(0.8), Nesterov(0.8), Adagrad(1e-6), AdamW(0.7, 0.9, 1e-6), Rmsprop(0.8, 0.9, 1e-6)]
    assert RuleSettings().build() == Momentum(0.9)


@pytest.mark.parametrize(("got", "meant"), [("momentm", "momentum"), ("adam", "adamw"), ("nestorov", "nesterov")])
def test_an_unknown_rule_suggests_the_nearest(got: str, meant: str) -> None:
    with pytest.raises(BadInput, match=rf'^rule\.rule: got "{got}", expected one of .* \(did you mean "{meant}"\?\)$'):
        RuleSettings(rule=got)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", math.nan),
        ("weight_decay", -1e-4),
        ("weight_decay", math.inf),
        ("bias_rate_multiplier", -1.0),
        ("bias_decay_multiplier", math.nan),
        ("epsilon", 0.0),
        ("beta1", 1.0),
        ("beta2", 1.5),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"^rule\.{name}: got {value}, expected "):
        RuleSettings(**{name: value})
