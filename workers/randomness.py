"""Randomness: every torch draw on this thread comes from the generators given, and nothing else can.

torch's global generator is shared by all threads of a process: as soon as two workers share one, no gradient could be
computed again. So inside `drawing_from(generator)` each draw of this thread is intercepted, whoever asks for it:
`nn.Dropout`, `torch.rand`, initialisers, attention, distributions, a user's module. Other threads are not concerned.

    1. torch's dispatcher has a key that no kernel uses and that a thread can switch on for itself. Every operator which
       torch tags `nondeterministic_seeded` has a kernel of ours there, which hands the generator on: as an argument,
       through the overload that takes one, or by a decomposition; else it raises `HiddenRandomness`. Other operators
       pass the key at no cost, and so do threads that have not switched it on.
    2. torch's own door to the global state is watched: seeding is refused, `get_rng_state` and `set_rng_state` act on
       the generator given (so that activation checkpointing recomputes the same masks).
    3. What gets past all this moves the global generator, whose state is compared at the end: `HiddenRandomness` again.

A torch function mode, with a dispatch mode around the functions that draw, can do most of this at six times the cost.
Not seen: Python's and numpy's random numbers, and generators that a module makes and seeds for itself.

Source: ours.
"""

# ruff: noqa: TID251 -- torch.random is watched here, and never drawn from

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.random
from torch import Tensor
from torch._ops import OpOverload

from ps.errors import DistbeliefError

aten = torch.ops.aten


class HiddenRandomness(DistbeliefError):  # noqa: N818 -- names what happened, as its siblings do
    """A module draws random numbers that do not come from its lease: its gradients cannot be computed again."""


class SeedingRefused(DistbeliefError):  # noqa: N818
    """A module seeds torch's global generator, which all threads of the process share."""


@contextmanager
def drawing_from(*generators: torch.Generator) -> Iterator[None]:
    """Every torch draw of this thread comes from these generators, until the end of the block.

    Args:
        generators: One per kind of device that may draw. They are advanced by the draws.

    Raises:
        HiddenRandomness: Something draws that cannot be given a generator, or has drawn past the interception (found at
            the end).
        SeedingRefused: The global generator is seeded.
        RuntimeError: The thread is inside such a block already.
    """
    if _lease():
        raise RuntimeError(
            "drawing_from inside drawing_from: got two sources for one draw, expected one block a thread"
        )
    watched = [_default_generator(generator.device) for generator in generators]
    before = [(default.get_state(), default.initial_seed()) for default in watched]
    _thread.generators = {generator.device.type: generator for generator in generators}
    try:
        with torch._C._IncludeDispatchKeyGuard(_KEY):
            yield
    finally:
        _thread.generators = {}
    for default, (state, seed) in zip(watched, before, strict=True):
        if default.initial_seed() != seed:
            raise SeedingRefused(
                f"torch's global generator got the seed {default.initial_seed()} meanwhile: {_SEEDING}"
            )
        if not torch.equal(default.get_state(), state):
            raise HiddenRandomness(
                f"torch's global generator ({default.device}) moved: something drew past the interception on this "
                "thread, or drew on another one; expected draws through torch's functions, on a worker's thread"
            )


_thread = threading.local()  # .generators: by kind of device, what this thread draws from


def _lease() -> Mapping[str, torch.Generator]:
    """This thread's generators by kind of device; empty outside `drawing_from`."""
    return getattr(_thread, "generators", {})


# --- interception of draws --------------------------------------------------------------------------------------------

_KEY_NAME = "TESTING_ONLY_GenericMode"  # of all keys that a thread can switch on, the one reserved for nobody's kernels
_KEY = torch._C._dispatch_key_parse(_KEY_NAME)
_KEYS = torch._C.DispatchKeySet(_KEY)

# Operators of torch that draw, without their overloads. A test holds them against its tags.
_NAMES = """
    bernoulli bernoulli_ binomial cauchy cauchy_ exponential exponential_ geometric geometric_ log_normal log_normal_
    multinomial normal normal_ normal_functional poisson rand rand_like randint randint_like randn randn_like random
    random_ randperm uniform uniform_ _sample_dirichlet _standard_gamma
    native_dropout _fused_dropout rrelu rrelu_ rrelu_with_noise rrelu_with_noise_ rrelu_with_noise_functional
    scaled_dot_product_attention _cudnn_attention_forward _efficient_attention_forward _flash_attention_forward
    _flash_attention_forward_no_dropout_inplace _scaled_dot_product_cudnn_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_fused_attention_overrideable
    _scaled_dot_product_attention_math_for_mps _triton_scaled_dot_attention _fill_mem_eff_dropout_mask_
    _cudnn_rnn _cudnn_init_dropout_state _lstm_mps miopen_rnn
"""
DRAWING = frozenset(_NAMES.split())


def _intercepting(op: OpOverload) -> Callable[..., Any]:
    """Our kernel for an operator that draws."""
    names = [argument.name for argument in op._schema.arguments]
    shares = [name for name in ("dropout_p", "dropout") if name in names]  # dropped; 0, the default, draws nothing
    form = _DECOMPOSED.get(op) or _sibling(op, {*names, "generator"})

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        without = any(not given.get(share) for share in shares)
        if op is aten.scaled_dot_product_attention.default and not without:
            composed = aten._scaled_dot_product_attention_math(*args, **kwargs)  # of operators that take a generator
            return composed[0]
        with torch._C._ExcludeDispatchKeyGuard(_KEYS):
            if without or given.get("train") is False or given.pop("generator", None) is not None:
                return op(*args, **kwargs)  # draws nothing, or from the module's own generator
            if form is None:
                raise HiddenRandomness(f"{op} draws random numbers and takes no generator: use another in the module")
            return form(**given, generator=_generator(given))

    return kernel


def _sibling(op: OpOverload, names: set[str]) -> OpOverload | None:
    """The overload with exactly these arguments."""
    packet = op.overloadpacket
    overloads: list[OpOverload] = [op, *(getattr(packet, overload) for overload in packet.overloads())]
    return next((o for o in overloads if {argument.name for argument in o._schema.arguments} == names), None)


def _generator(given: Mapping[str, Any]) -> torch.Generator | None:
    device = given.get("device") or next((value.device for value in given.values() if isinstance(value, Tensor)), "cpu")
    kind = device.type if isinstance(device, torch.device) else torch.device(device).type
    if kind == "meta":
        return None  # nothing is drawn
    if kind not in _lease():
        raise HiddenRandomness(
            f"a draw on {kind}: got generators for {', '.join(_lease()) or 'no device'} on this thread"
        )
    return _lease()[kind]


def _native_dropout(
    input: Tensor, p: float, train: bool | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    kept = torch.empty_like(input, dtype=torch.bool).bernoulli_(1.0 - p, generator=generator)
    return input * kept * (1.0 / (1.0 - p) if p < 1.0 else 0.0), kept


def _rand_like(self: Tensor, generator: torch.Generator | None, **given: Any) -> Tensor:
    like: Tensor = aten.empty_like(self, **given)
    return like.uniform_(generator=generator)


def _randn_like(self: Tensor, generator: torch.Generator | None, **given: Any) -> Tensor:
    like: Tensor = aten.empty_like(self, **given)
    return like.normal_(generator=generator)


# No torch has an overload of the first that takes a generator, and older ones have none of the others.
_DECOMPOSED: dict[OpOverload, Callable[..., Any]] = {
    aten.native_dropout.default: _native_dropout,
    aten.rand_like.default: _rand_like,
    aten.randn_like.default: _randn_like,
}


def _register() -> tuple[torch.library.Library, torch.library.Library]:
    """Put our kernels at the key, and let everything else pass it. They stay as long as what is returned lives."""
    everything = torch.library.Library("_", "IMPL", _KEY_NAME)  # type: ignore[no-untyped-call]
    everything.fallback(torch.library.fallthrough_kernel)  # type: ignore[no-untyped-call]
    drawing = torch.library.Library("aten", "IMPL", _KEY_NAME)  # type: ignore[no-untyped-call]
    for name in sorted(DRAWING):
        packet = getattr(aten, name, None)  # some exist in some versions of torch only
        for overload in packet.overloads() if packet is not None else ():
            op = getattr(packet, overload)
            if torch.Tag.nondeterministic_seeded in op.tags:
                drawing.impl(op, _intercepting(op))  # type: ignore[no-untyped-call]
    return everything, drawing


# --- the global generator, watched ------------------------------------------------------------------------------------

_SEEDING = "inside a worker every random number comes from its lease; remove the call (or seed before the run)"


class _PerThread:
    """Stands for the global generator in torch.random's functions; inside `drawing_from`, for the one given there."""

    def __getattr__(self, name: str) -> Any:
        if _lease() and name in ("manual_seed", "seed"):
            raise SeedingRefused(f"torch.{name} was called: {_SEEDING}")
        return getattr(_lease().get("cpu", torch.default_generator), name)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    return torch.cuda.default_generators[device.index or 0]


# At import, while there is one thread. torch.manual_seed, seed, get_rng_state and the like, however a module imported
# them, look up this name.
_LIBRARIES = _register()
vars(torch.random)["default_generator"] = _PerThread()
