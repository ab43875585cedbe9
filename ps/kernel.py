"""Kernel: sgd, momentum and nesterov as compiled code, which reads and writes memory once whatever is due.

It is there if a compiler was when this was installed, and in use if the processor has the instructions and a trial
gives torch's bits: a run may be replayed where only torch can do the work.

Shape suffix: N = parameters held by this shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch

from ps.rules import Momentum, Nesterov, Rule, Sgd, Step

try:
    from ps import _kernel
except ImportError:  # not compiled, or not for this processor
    _kernel = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

    from ps.updates import Update

COMPILED, TORCH = "compiled", "torch"

_KINDS: dict[type[Rule], int] = {Sgd: 0, Momentum: 1, Nesterov: 2}
_TRIAL_WHOLE = 16 * 8  # whole lines: torch's own fused kernel is tried too
_TRIAL_ELEMENTS = _TRIAL_WHOLE + 5  # and an end within one


@cache
def in_use() -> str:
    """What makes the updates of the rules above: COMPILED or TORCH."""
    tried: tuple[Rule, ...] = (Sgd(), Momentum(0.9), Momentum(0.0), Nesterov(0.9))
    return COMPILED if _kernel is not None and all(_agrees(rule) for rule in tried) else TORCH


def of(rule: Rule) -> str:
    """What makes the updates of this rule."""
    return in_use() if type(rule) in _KINDS else TORCH


def serves(w_N: Tensor, updates: Sequence[Update]) -> bool:
    """Whether `apply` can make these updates."""
    kinds = {type(update.rule) for update in updates}
    return len(kinds) == 1 and kinds <= _KINDS.keys() and w_N.dtype is torch.float32 and in_use() == COMPILED


def apply(
    piece: slice, w_N: Tensor, slots: tuple[Tensor, ...], updates: Sequence[Update], steps: Sequence[Step]
) -> None:
    """Make these updates on one stretch of the vectors, with these steps; see ps.updates.apply."""
    at = piece.start * w_N.element_size()
    v = slots[0].data_ptr() + at if slots else 0
    numbers = tuple(
        (
            *_numbers(update.rule, step),
            update.gradient_N.data_ptr() + at,
            0 if update.out_N is None else update.out_N.data_ptr() + at,
        )
        for update, step in zip(updates, steps, strict=True)
    )
    _kernel.update(_KINDS[type(updates[0].rule)], w_N.data_ptr() + at, v, piece.stop - piece.start, numbers)


def _numbers(rule: Rule, step: Step) -> tuple[float, float, float]:
    """mu, alpha and lambda."""
    match rule:
        case Momentum():
            return rule.momentum, rule.alpha(step), step.decay
        case Nesterov():
            return rule.momentum, step.rate, step.decay
        case _:
            return 0.0, step.rate, step.decay


def _agrees(rule: Rule) -> bool:
    """Whether kernel and torch give the same bits on a trial, the second step with decay."""
    g_N = torch.arange(_TRIAL_ELEMENTS).mul(0.7).sin()
    ours, torchs = ([g_N.cos(), *(torch.zeros_like(g_N) for _ in rule.slots)] for _ in range(2))
    for number, decay in enumerate((0.0, 0.01), start=1):
        step = Step(0.037, decay, number)
        for part in (slice(_TRIAL_WHOLE), slice(_TRIAL_WHOLE, None)):
            rule.apply(step, torchs[0][part], g_N[part], tuple(slot_N[part] for slot_N in torchs[1:]))
        vectors = [vector_N.data_ptr() for vector_N in ours]
        numbers = ((*_numbers(rule, step), g_N.data_ptr(), 0),)
        _kernel.update(_KINDS[type(rule)], vectors[0], vectors[-1], _TRIAL_ELEMENTS, numbers)
    return all(torch.equal(our_N, torchs_N) for our_N, torchs_N in zip(ours, torchs, strict=True))
