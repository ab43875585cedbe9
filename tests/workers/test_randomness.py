"""Every draw comes from the generator given, whatever the global one holds; what cannot is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers import randomness
from workers.randomness import DRAWING, HiddenRandomness, SeedingRefused, drawing_from

aten = torch.ops.aten


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PLANES = torch.linspace(-1, 1, 2 * 8 * 8 * 8).view(2, 8, 8, 8)
SQUARE = torch.linspace(0.1, 0.9, 64).view(8, 8)
SEQUENCE = PLANES[0].clone().requires_grad_()


def lstm() -> Tensor:
    network = nn.LSTM(8, 4, num_layers=2, dropout=0.5)
    output: Tensor = network(SEQUENCE)[0]
    return output


DRAWS: dict[str, Callable[[], Tensor]] = {
    "F.dropout": lambda: F.dropout(PLANES),
    "nn.Dropout": lambda: nn.Dropout(0.3)(SEQUENCE),
    "nn.Dropout in place": lambda: nn.Dropout(0.3, inplace=True)(PLANES.clone()),
    "dropout, bfloat16": lambda: F.dropout(PLANES.bfloat16()),
    "dropout2d": lambda: F.dropout2d(PLANES),
    "alpha_dropout": lambda: F.alpha_dropout(PLANES, training=True),
    "feature_alpha_dropout": lambda: F.feature_alpha_dropout(PLANES, training=True),
    "native_dropout": lambda: torch.native_dropout(PLANES, 0.5, True)[0],
    "rand": lambda: torch.rand(9),
    "rand, out": lambda: torch.rand(9, out=torch.empty(9)),
    "randn": lambda: torch.randn(9),
    "randint": lambda: torch.randint(99, (9,)),
    "randint, low": lambda: torch.randint(2, 99, (9,)),
    "randperm": lambda: torch.randperm(99),
    "randperm, out": lambda: torch.randperm(99, out=torch.empty(99, dtype=torch.long)),
    "rand_like": lambda: torch.rand_like(SQUARE),
    "randn_like": lambda: torch.randn_like(SQUARE),
    "randint_like": lambda: torch.randint_like(SQUARE, 99),
    "randint_like, low": lambda: torch.randint_like(SQUARE, 2, 99),
    "bernoulli": lambda: torch.bernoulli(SQUARE),
    "bernoulli, p": lambda: torch.bernoulli(SQUARE, 0.5),
    "bernoulli_": lambda: SQUARE.clone().bernoulli_(),
    "bernoulli_, tensor": lambda: SQUARE.clone().bernoulli_(SQUARE),
    "normal": lambda: torch.normal(SQUARE, SQUARE),
    "normal, size": lambda: torch.normal(0.0, 1.0, (9,)),
    "normal, std": lambda: torch.normal(0.0, SQUARE),
    "normal, mean": lambda: torch.normal(SQUARE),
    "normal_": lambda: SQUARE.clone().normal_(),
    "uniform_": lambda: SQUARE.clone().uniform_(),
    "exponential_": lambda: SQUARE.clone().exponential_(),
    "geometric_": lambda: SQUARE.clone().geometric_(0.1),
    "cauchy_": lambda: SQUARE.clone().cauchy_(),
    "log_normal_": lambda: SQUARE.clone().log_normal_(),
    "random_": lambda: SQUARE.clone().random_(),
    "random_, to": lambda: SQUARE.clone().random_(99),
    "random_, from": lambda: SQUARE.clone().random_(2, 99),
    "multinomial": lambda: torch.multinomial(SQUARE, 4),
    "multinomial, replaced": lambda: torch.multinomial(SQUARE, 99, replacement=True),
    "poisson": lambda: torch.poisson(9 * SQUARE),
    "binomial": lambda: torch.binomial(torch.full_like(SQUARE, 9), SQUARE),
    "rrelu": lambda: F.rrelu(SEQUENCE, training=True),
    "rrelu in place": lambda: F.rrelu(PLANES.clone(), training=True, inplace=True),
    "attention": lambda: F.scaled_dot_product_attention(PLANES, PLANES, PLANES, dropout_p=0.4),
    "attention, positional": lambda: F.scaled_dot_product_attention(PLANES, PLANES, PLANES, None, 0.4, True),
    "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2, 0.5)(SEQUENCE, SEQUENCE, SEQUENCE)[0],
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 8)(SEQUENCE),
    "LSTM": lstm,
    "gumbel_softmax": lambda: F.gumbel_softmax(SQUARE),
    "fractional_max_pool2d": lambda: F.fractional_max_pool2d(PLANES, 2, 3),
    "Gamma": lambda: torch.distributions.Gamma(SQUARE, SQUARE).rsample(),
    "Dirichlet": lambda: torch.distributions.Dirichlet(SQUARE).rsample(),
    "Normal": lambda: torch.distributions.Normal(SQUARE, SQUARE).sample(),
    "svd_lowrank": lambda: torch.svd_lowrank(SQUARE, 2)[0],
    "trunc_normal_": lambda: nn.init.trunc_normal_(SQUARE.clone()),
    "orthogonal_": lambda: nn.init.orthogonal_(SQUARE.clone()),
    "Linear's weights": lambda: nn.Linear(9, 9).weight.detach(),
    "operator": lambda: aten.bernoulli(SQUARE),
    "operator, overload": lambda: aten.bernoulli.default(SQUARE),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_a_draw_comes_from_the_generator_given_with_the_global_ones_bits(draw: Callable[[], Tensor]) -> None:
    before = torch.default_generator.get_state()
    generator = stream(5)
    with drawing_from(generator):
        first = draw()
    assert not torch.equal(generator.get_state(), stream(5).get_state())
    assert torch.equal(torch.default_generator.get_state(), before)
    try:  # as torch itself draws from a global generator in the same state
        torch.default_generator.set_state(stream(5).get_state())
        torch.testing.assert_close(draw(), first, rtol=0, atol=0, equal_nan=True)
    finally:
        torch.default_generator.set_state(before)


def test_other_seed_other_draw_and_a_stream_goes_on() -> None:
    with drawing_from(stream(1)):
        first, second = torch.rand(9), torch.rand(9)
    with drawing_from(stream(2)):
        other = torch.rand(9)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_autocast_changes_no_mask() -> None:
    ones = torch.ones(99)
    with drawing_from(stream(1)):
        plain = F.dropout(ones)
    with drawing_from(stream(1)), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.dropout(ones), plain)


def test_the_gradient_of_dropout_knows_its_mask() -> None:
    x = torch.ones(99, requires_grad=True)
    with drawing_from(stream(1)):
        for dropped in (F.dropout(x), torch.native_dropout(x, 0.5, True)[0]):
            x.grad = None
            dropped.sum().backward()
            assert torch.equal(x.grad, dropped.detach())  # type: ignore[arg-type]
            assert 0 < int((dropped == 0).sum()) < 99


def test_threads_do_not_see_each_other() -> None:
    def draw(seed: int) -> Tensor:
        with drawing_from(stream(seed)):
            return torch.cat([F.dropout(torch.ones(99)) for _ in range(50)])

    alone = [draw(seed) for seed in range(4)]
    beside: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda seed=seed: beside.update({seed: draw(seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(beside[seed], alone[seed]) for seed in range(4))


def test_checkpointing_draws_the_same_mask_again() -> None:
    x = torch.ones(99, requires_grad=True)
    with drawing_from(stream(1)):
        state = torch.get_rng_state()
        first = F.dropout(x)
        with torch.random.fork_rng(devices=[]):  # noqa: TID251
            torch.set_rng_state(state)
            again = F.dropout(x)
        following = torch.rand(9)
    assert torch.equal(first, again)
    with drawing_from(stream(1)):
        F.dropout(x)
        assert torch.equal(torch.rand(9), following)


def test_a_modules_own_generator_is_left_to_it() -> None:
    generator = stream(1)
    with drawing_from(generator):
        assert torch.equal(torch.rand(9, generator=stream(7)), torch.rand(9, generator=stream(7)))
    assert torch.equal(generator.get_state(), stream(1).get_state())


def test_what_draws_nothing_needs_no_generator() -> None:
    generator = stream(1)
    with drawing_from(generator):
        F.dropout(PLANES, training=False)
        F.scaled_dot_product_attention(PLANES, PLANES, PLANES)
        torch.rand(3, device="meta")
    assert torch.equal(generator.get_state(), stream(1).get_state())


def test_every_operator_that_torch_tags_as_drawing_is_intercepted_or_made_of_such() -> None:
    tagged = set()
    for name in torch._C._dispatch_get_all_op_names():
        base, _, overload = name.removeprefix("aten::").partition(".")
        if name.startswith("aten::") and hasattr(getattr(aten, base), overload or "default"):
            op = getattr(getattr(aten, base), overload or "default")
            composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
            if torch.Tag.nondeterministic_seeded in op.tags and not composite:
                tagged.add(base)
    # These repeat a forward pass's draw, or choose a kernel, or are made of other operators under another key.
    draw_nothing = {name for name in tagged if name.endswith("_backward")} | {"_fused_sdp_choice"}
    assert tagged - draw_nothing - DRAWING <= {
        "_nested_tensor_softmax_with_shape",
        "_scaled_dot_product_attention_math",
    }
    assert len(tagged & DRAWING) > 40


@pytest.mark.parametrize("seeding", [lambda: torch.manual_seed(1), torch.seed], ids=["manual_seed", "seed"])  # noqa: TID251
def test_seeding_is_refused_before_it_happens(seeding: Callable[[], object]) -> None:
    before = torch.default_generator.get_state()
    with (
        pytest.raises(SeedingRefused, match=r"torch\.(manual_)?seed was called: .* remove the call"),
        drawing_from(stream(1)),
    ):
        seeding()
    assert torch.equal(torch.default_generator.get_state(), before)


def test_seeding_the_global_generator_itself_is_found() -> None:
    before = torch.default_generator.get_state()
    try:
        with pytest.raises(SeedingRefused, match="got the seed 12345 meanwhile"), drawing_from(stream(1)):
            torch.default_generator.manual_seed(12345)
    finally:
        torch.default_generator.set_state(before)


def test_outside_seeding_works_as_ever() -> None:
    before = torch.default_generator.get_state()
    with drawing_from(stream(1)):
        pass
    try:
        torch.manual_seed(3)  # noqa: TID251
        assert torch.equal(torch.rand(9), torch.rand(9, generator=stream(3)))
        assert torch.initial_seed() == 3
    finally:
        torch.default_generator.set_state(before)


def test_a_draw_past_the_interception_is_found() -> None:
    before = torch.default_generator.get_state()
    try:
        with pytest.raises(HiddenRandomness, match="moved: something drew past"), drawing_from(stream(1)):
            torch.rand(3, generator=torch.default_generator)
    finally:
        torch.default_generator.set_state(before)


def test_an_operator_that_takes_no_generator_is_refused() -> None:
    refused = pytest.raises(HiddenRandomness, match=r"aten._fill_mem_eff_dropout_mask_.default draws .* no generator")
    with refused, drawing_from(stream(1)):
        aten._fill_mem_eff_dropout_mask_(SQUARE.clone(), 0.5, 1, 0)


def test_a_draw_on_a_thread_without_a_lease_for_its_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with drawing_from(stream(1)), monkeypatch.context() as patch:
        patch.setattr(randomness._thread, "generators", {"cuda": stream(1)})
        with pytest.raises(HiddenRandomness, match="a draw on cpu: got generators for cuda on this thread"):
            torch.rand(3)
        patch.setattr(randomness._thread, "generators", {})
        with pytest.raises(HiddenRandomness, match="a draw on cpu: got generators for no device on this thread"):
            torch.rand(3)


def test_the_backward_pass_is_intercepted_too() -> None:
    x = torch.ones(9, requires_grad=True)
    drawn: list[Tensor] = []
    x.register_hook(lambda gradient: drawn.append(torch.rand(9)))
    with drawing_from(stream(1)):
        x.sum().backward()
    assert torch.equal(drawn[0], torch.rand(9, generator=stream(1)))


def test_blocks_do_not_nest() -> None:
    with drawing_from(stream(1)), pytest.raises(RuntimeError, match="drawing_from inside drawing_from"):
        drawing_from(stream(2)).__enter__()
    with drawing_from(stream(1)):
        torch.rand(1)


@pytest.mark.parametrize(("op", "draw"), [(aten.rand_like, torch.rand), (aten.randn_like, torch.randn)])
def test_decompositions_for_older_torch_agree(op: object, draw: Callable[..., Tensor]) -> None:
    decomposed = randomness._DECOMPOSED[op.default]  # type: ignore[attr-defined]
    assert torch.equal(decomposed(SQUARE, stream(3)), draw(8, 8, generator=stream(3)))
