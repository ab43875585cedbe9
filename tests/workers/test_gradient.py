"""A gradient depends on weights and lease, and on nothing else: not on process, neighbours or what came before."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ps.layout import Layout
from ps.messages import Lease
from ps.streams import torch_stream
from workers.gradient import GradientFunction, Losses
from workers.inception import Network, initialise
from workers.models import build
from workers.randomness import HiddenRandomness, SeedingRefused, drawing_from

SEED = 7


def lease(id: int, attempt: int = 0, weight: float = 1.0) -> Lease:
    return Lease(id, attempt, epoch=0, first=0, count=8, weight=weight, deadline=math.inf)


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    images_BCHW = torch.randn(size, 1, 16, 16, generator=torch_stream(SEED, "images"))
    return images_BCHW, torch.arange(size) % 10


class Setting:
    """A gradient function for a module, with weights and a gradient buffer."""

    def __init__(self, model: nn.Module | None = None, precision: str = "float32", clip_norm: float = 0.0) -> None:
        self.model = build("inception-mini", 10, 1, 16) if model is None else model
        if isinstance(self.model, Network):
            initialise(self.model, SEED)
        self.layout = Layout.of(self.model.named_parameters(), shards=2)
        self.weights_N = torch.empty(self.layout.size)
        self.layout.flatten(dict(self.model.named_parameters()), self.weights_N)
        self.gradient_N = torch.full((self.layout.size,), math.nan)
        self.function = GradientFunction(self.model, self.layout, SEED, precision, clip_norm)

    def compute(self, lease: Lease) -> tuple[Losses, Tensor]:
        before = self.weights_N.clone()
        losses = self.function.compute(self.weights_N, lease, *batch(), self.gradient_N)
        assert torch.equal(self.weights_N, before)
        return losses, self.gradient_N.clone()


def fingerprint(precision: str) -> str:
    """Of lease 5's gradient, for comparison between processes."""
    torch.set_num_threads(1)
    losses, gradient_N = Setting(precision=precision).compute(lease(5))
    return sha256(gradient_N.numpy().tobytes() + repr(losses).encode()).hexdigest()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = torch.default_generator.get_state()
    yield
    assert torch.equal(torch.default_generator.get_state(), before)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_bits_in_another_process(precision: str) -> None:
    program = f"from tests.workers.test_gradient import fingerprint; print(fingerprint('{precision}'))"
    root = Path(__file__).parents[2]
    elsewhere = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == fingerprint(precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_bits_beside_other_threads(precision: str) -> None:
    _, alone = Setting(precision=precision).compute(lease(0))
    settings = [Setting(precision=precision) for _ in range(4)]
    gradients: dict[int, list[Tensor]] = {}

    def work(worker: int) -> None:
        torch.set_num_threads(1)
        gradients[worker] = [settings[worker].compute(lease(worker if turn % 2 else 0))[1] for turn in range(6)]

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(gradients[worker][turn], alone) for worker in range(4) for turn in (0, 2, 4))
    assert not torch.equal(gradients[1][1], alone)


def test_repeated_equal_another_attempt_equal_another_lease_different() -> None:
    setting = Setting()
    losses, gradient_N = setting.compute(lease(1))
    other_losses, other_N = setting.compute(lease(2))
    again, again_N = setting.compute(lease(1, attempt=3))
    assert (again, torch.equal(again_N, gradient_N)) == (losses, True)
    assert other_losses != losses
    assert not torch.equal(other_N, gradient_N)


def test_another_buffer_at_another_place_gives_the_same_bits() -> None:
    setting = Setting()
    _, expected_N = setting.compute(lease(1))
    weights_N = torch.empty(setting.layout.size + 16)[16:].copy_(setting.weights_N)
    gradient_N = torch.empty(setting.layout.size + 48)[48:]
    setting.function.compute(weights_N, lease(1), *batch(), gradient_N)
    assert torch.equal(gradient_N, expected_N)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_against_straightforward_torch(weight: float) -> None:
    setting = Setting()
    losses, gradient_N = setting.compute(lease(3, weight=weight))
    model = build("inception-mini", 10, 1, 16)
    initialise(model, SEED)
    images_BCHW, labels_B = batch()
    with drawing_from(torch_stream(SEED, "lease/3/dropout")):
        logits = model(images_BCHW)
        main, first, second = (F.cross_entropy(head, labels_B) for head in (logits.main, *logits.auxiliary))
        (weight * (main + 0.3 * first + 0.3 * second)).backward()
    expected_N = torch.empty(setting.layout.size)
    setting.layout.flatten({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, expected_N)
    torch.testing.assert_close(gradient_N, expected_N, rtol=1e-5, atol=1e-7)
    errors = int((logits.main.argmax(1) != labels_B).sum())
    assert losses == Losses(main.item(), (first.item(), second.item()), errors, finite=True)


def test_bfloat16_is_near_float32() -> None:
    (exact, exact_N), (near, near_N) = (Setting(precision=p).compute(lease(3)) for p in ("float32", "bfloat16"))
    assert near.main == pytest.approx(exact.main, rel=0.02)
    assert near_N.dtype == torch.float32
    assert 0.98 < float(F.cosine_similarity(near_N, exact_N, dim=0)) < 1.0


def test_clipping_is_part_of_the_gradient() -> None:
    _, gradient_N = Setting().compute(lease(1))
    norm = float(gradient_N.norm())
    _, clipped_N = Setting(clip_norm=norm / 4).compute(lease(1))
    torch.testing.assert_close(clipped_N, gradient_N / 4)
    _, below_N = Setting(clip_norm=norm * 4).compute(lease(1))
    assert torch.equal(below_N, gradient_N)


def two_classes(setting: Setting) -> Losses:
    images_BCHW, labels_B = batch()
    return setting.function.compute(setting.weights_N, lease(0), images_BCHW, labels_B % 2, setting.gradient_N)


class Scaled(nn.Module):
    """One weight per class, its gradient multiplied by `scale`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 16))
        self.scale = scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK = F.linear(x_BCHW.flatten(1)[:, :16].sign() + 2, self.weight)
        if logits_BK.requires_grad:
            logits_BK.register_hook(lambda gradient: gradient * self.scale)
        return logits_BK


@pytest.mark.parametrize(("scale", "finite"), [(1.0, True), (1e37, True), (math.inf, False), (math.nan, False)])
def test_the_whole_gradient_is_checked(scale: float, finite: bool) -> None:
    setting = Setting(Scaled(scale))
    assert two_classes(setting).finite is finite
    assert bool(setting.gradient_N.isfinite().all()) is finite


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_one_bad_element_anywhere_is_found(place: int, bad: float) -> None:
    class Injects(Scaled):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            def inject(gradient: Tensor) -> Tensor:
                gradient = gradient.clone()
                gradient.view(-1)[place] = bad
                return gradient

            if self.weight.requires_grad and torch.is_grad_enabled():
                held = self.weight * 1.0
                held.register_hook(inject)
                return F.linear(x_BCHW.flatten(1)[:, :16], held)
            return F.linear(x_BCHW.flatten(1)[:, :16], self.weight)

    assert not two_classes(Setting(Injects(1.0))).finite


def test_a_finite_gradient_whose_squares_overflow_is_clipped_to_the_limit() -> None:
    setting = Setting(Scaled(1e37), clip_norm=2.0)
    assert two_classes(setting).finite
    assert float(setting.gradient_N.norm()) == pytest.approx(2.0, rel=1e-5)


def test_a_loss_that_is_not_finite_is_told() -> None:
    setting = Setting()
    setting.weights_N.fill_(math.nan)
    images_BCHW, labels_B = batch()
    losses = setting.function.compute(setting.weights_N, lease(0), images_BCHW, labels_B, setting.gradient_N)
    assert math.isnan(losses.main)
    assert not losses.finite


class TiedAndFrozen(nn.Module):
    """Encoder and decoder share one weight; the scale is frozen; gives a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(256, 10, bias=False, device="meta").to_empty(device="cpu")
        self.decode = nn.Linear(256, 10, bias=False, device="meta").to_empty(device="cpu")
        self.encode.weight.data.normal_(0, 0.1, generator=torch_stream(SEED, "encode"))
        self.decode.weight = self.encode.weight
        self.scale = nn.Parameter(torch.tensor(3.0), requires_grad=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden = self.encode(x_BCHW.flatten(1)) @ self.encode.weight
        logits_BK: Tensor = self.scale * self.decode(hidden)
        return logits_BK


def test_tied_parameters_count_once_and_frozen_ones_keep_their_values() -> None:
    setting = Setting(TiedAndFrozen())
    assert setting.layout.size == 2560
    setting.weights_N.mul_(0.5)
    losses, gradient_N = setting.compute(lease(0))
    images_BCHW, labels_B = batch()
    weight = setting.weights_N.view(10, 256).clone().requires_grad_()
    loss = F.cross_entropy(3.0 * images_BCHW.flatten(1) @ weight.T @ weight @ weight.T, labels_B)
    loss.backward()
    assert losses.auxiliary == ()
    assert losses.main == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(gradient_N.view(10, 256), weight.grad)
    assert dict(setting.model.named_parameters())["scale"].item() == 3.0


def test_buffers_carry_nothing_from_lease_to_lease() -> None:
    with drawing_from(torch_stream(SEED, "init")):
        model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.BatchNorm1d(10))
    setting = Setting(model)
    _, first_N = setting.compute(lease(0))
    logits_BK = setting.function.predict(setting.weights_N, batch()[0])
    setting.compute(lease(1))
    assert torch.equal(setting.compute(lease(0))[1], first_N)
    assert torch.equal(setting.function.predict(setting.weights_N, batch()[0]), logits_BK)


class Checkpointed(nn.Module):
    """Two dropouts, whose masks are drawn again in the backward pass if `recompute`."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.1, 0.1, 2560).view(10, 256))
        self.recompute = recompute

    def part(self, x_BI: Tensor) -> Tensor:
        return F.dropout(F.linear(F.dropout(x_BI, 0.5), self.weight).relu(), 0.2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BI = x_BCHW.flatten(1)
        logits_BK: Tensor = checkpoint(self.part, x_BI, use_reentrant=False) if self.recompute else self.part(x_BI)
        return logits_BK


def test_checkpointing_changes_no_bit() -> None:
    (losses, gradient_N), (again, again_N) = (Setting(Checkpointed(r)).compute(lease(0)) for r in (False, True))
    assert losses == again
    assert torch.equal(gradient_N, again_N)


def test_predicting_needs_no_heads_no_graph_and_no_randomness() -> None:
    setting = Setting()
    images_BCHW, _ = batch()
    logits_BK = setting.function.predict(setting.weights_N, images_BCHW)
    assert not logits_BK.requires_grad
    reference = build("inception-mini", 10, 1, 16).eval()
    initialise(reference, SEED)
    assert torch.equal(logits_BK, reference(images_BCHW).main)
    _, first_N = setting.compute(lease(0))
    setting.function.predict(setting.weights_N, images_BCHW)
    assert torch.equal(setting.compute(lease(0))[1], first_N)


def test_a_vector_of_another_length_is_refused() -> None:
    setting = Setting()
    with pytest.raises(ValueError, match="flat vector: got shape"):
        setting.function.compute(setting.weights_N[16:], lease(0), *batch(), setting.gradient_N)


def test_memory_whose_alignment_would_change_the_bits_is_refused() -> None:
    setting = Setting()
    weights_N = torch.empty(setting.layout.size + 5)[5:].copy_(setting.weights_N)
    with pytest.raises(ValueError, match="got memory 20 bytes past a multiple of 64, expected 0"):
        setting.function.compute(weights_N, lease(0), *batch(), setting.gradient_N)


class Calls(nn.Module):
    """Calls something on the way."""

    def __init__(self, call: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10, 256))
        self.call = call

    def forward(self, x_BCHW: Tensor) -> Tensor:
        assert callable(self.call)
        self.call()
        return F.linear(x_BCHW.flatten(1), self.weight)


def test_a_module_that_seeds_or_draws_past_its_lease_is_refused() -> None:
    with pytest.raises(SeedingRefused):
        Setting(Calls(lambda: torch.manual_seed(0))).compute(lease(0))  # noqa: TID251
    before = torch.default_generator.get_state()
    with pytest.raises(HiddenRandomness):
        Setting(Calls(lambda: torch.rand(1, generator=torch.default_generator))).compute(lease(0))
    torch.default_generator.set_state(before)


def test_a_buffer_that_the_caller_drops_is_freed() -> None:
    setting = Setting()
    weights_N = setting.weights_N.clone()
    dropped = weakref.ref(weights_N)
    setting.function.compute(weights_N, lease(0), *batch(), setting.gradient_N)
    del weights_N
    gc.collect()
    assert dropped() is None
    assert len(setting.function._views) == 1
