"""Update rules: what one gradient does to one shard.

A rule maps parameters w and its slots, with one gradient g, to their next values, in place. It knows no clock, no
network, no random number, so live, simulated and replayed runs share it and can be compared bit for bit. Every rule is
element-wise: how the vector is cut into shards changes no bit of the result. The gradient is only read: it may lie in
memory that its worker shares with the shard, and the worker may have to push it again.

    alpha   learning rate, for the mean loss of a lease         lambda   weight decay, on the shard's current w

Operations come in the order in which torch.optim (foreach=False, fused=False) has them, so that equal equations give
equal bits.

torch is imported when the first rule is applied, so that the settings can be read without it.

Shape suffix: N = parameters held by this shard, or a piece of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from msgspec import Struct

from ps.errors import BadInput, nearest, require
from ps.layout import LINE

if TYPE_CHECKING:
    from torch import Tensor

RULES = ("sgd", "momentum", "nesterov", "adagrad", "adamw", "rmsprop")
WITH_MOMENTUM = ("momentum", "nesterov", "rmsprop")


class Step(Struct, frozen=True):
    """The numbers of one update.

    Attributes:
        rate: Learning rate alpha.
        decay: Weight decay lambda.
        update: Which update of the shard this is, from 1.
    """

    rate: float
    decay: float
    update: int


class Rule(Protocol):
    """One update rule.

    Attributes:
        slots: Names of the state vectors it keeps beside w, all zero before the first update.
    """

    slots: ClassVar[tuple[str, ...]]

    def apply(self, step: Step, w_N: Tensor, g_N: Tensor, slots: tuple[Tensor, ...]) -> None:
        """Update w and the slots in place.

        Args:
            w_N, g_N: float32, contiguous, of one length; g is only read.
            slots: One vector like w_N per name in `self.slots`, in that order.
        """


@dataclass(frozen=True, slots=True)
class Sgd:
    """Plain gradient descent.

    w <- w - alpha * (g + lambda * w)               torch.optim.SGD with momentum 0: the same
    """

    slots: ClassVar[tuple[str, ...]] = ()

    def apply(self, step: Step, w_N: Tensor, g_N: Tensor, slots: tuple[Tensor, ...]) -> None:
        w_N.add_(_decayed(step, w_N, g_N), alpha=-step.rate)


@dataclass(frozen=True, slots=True)
class Momentum:
    """Classical momentum; the velocity carries the rates under which its gradients came.

    v <- mu * v - alpha * (g + lambda * w)          torch.optim.SGD instead:   v <- mu * v + (g + lambda * w)
    w <- w + v                                                                 w <- w - alpha * v
                                                    (equal only while alpha is constant)

    Source: Szegedy et al. 2014, section 6 (momentum 0.9). Which of the two forms it used is not said; this one is ours,
    and Caffe's.
    """

    momentum: float
    slots: ClassVar[tuple[str, ...]] = ("velocity",)

    def apply(self, step: Step, w_N: Tensor, g_N: Tensor, slots: tuple[Tensor, ...]) -> None:
        (v_N,) = slots
        alpha = self.alpha(step)
        fused_agrees = self.momentum > 0 and w_N.numel() % LINE == 0  # not at mu = 0 nor at an end within a vector
        if fused_agrees:
            _fused_momentum(self.momentum, alpha, step.decay, w_N, g_N, v_N)
        else:
            v_N.mul_(self.momentum).add_(_decayed(step, w_N, g_N), alpha=-alpha)
            w_N.add_(v_N)

    @staticmethod
    def alpha(step: Step) -> float:
        """The rate as torch's fused kernel rounds it, so that every way to make the update agrees to the last bit."""
        return (1.0 + step.rate) - 1.0


@dataclass(frozen=True, slots=True)
class Nesterov:
    """Nesterov's momentum, in the velocity form: w is where the next gradient is taken.

    h <- g + lambda * w                             torch.optim.SGD(nesterov=True) instead:
    v <- mu * v - alpha * h                                     v <- mu * v + h
    w <- w + mu * v - alpha * h                                 w <- w - alpha * (h + mu * v)
                                                    (equal only while alpha is constant)

    Source: Sutskever et al. 2013, equations 3 and 4, in the variable w + mu * v of Bengio et al. 2013, equation 7.
    """

    momentum: float
    slots: ClassVar[tuple[str, ...]] = ("velocity",)

    def apply(self, step: Step, w_N: Tensor, g_N: Tensor, slots: tuple[Tensor, ...]) -> None:
        (v_N,) = slots
        h_N = _decayed(step, w_N, g_N)
        v_N.mul_(self.momentum).add_(h_N, alpha=-step.rate)
        w_N.add_(v_N, alpha=self.momentum).add_(h_N, alpha=-step.rate)


@dataclass(frozen=True, slots=True)
class Adagrad:
    """Adagrad as in Downpour: the sums are local to the shard.

    h <- g + lambda * w                             torch.optim.Adagrad with its default lr_decay 0: the same
    s <- s + h ** 2                                 Dean et al. print neither lambda nor epsilon
    w <- w - alpha * h / (sqrt(s) + epsilon)        RMSprop instead:   s <- rho * s + (1 - rho) * h ** 2

    Source: Dean et al. 2012, section 4.1; Duchi et al. 2011.
    """

    epsilon: float
    slots: ClassVar[tuple[str, ...]] = ("squares",)

    def apply(self, step: Step, w_N: Tensor, g_N: Tensor, slots: tuple[Tensor, ...]) -> None:
        (s_N,) = slots
        h_N = _decayed(step, w_N, g_N)
        s_N.addcmul_(h_N, h_N, value=1)
        w_N.addcdiv_(h_N, s_N.sqrt().add_(self.epsilon), value=-step.rate)


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay.

    w <- w - alpha * lambda * w                     torch.optim.AdamW: the same
    m <- beta1 * m + (1 - beta1) * g                torch.optim.Adam instead:   g <- g + lambda * w, then as here
    s <- beta2 * s + (1 - beta2) * g ** 2           (so that sqrt(s) divides the decay too)
    w <- w - alpha / (1 - beta1 ** t) * m / (sqrt(s / (1 - beta2 ** t)) + epsilon)

    where t counts the shard's updates, from 1.

    Source: Loshchilov and Hutter 2019, algorithm 2, with its schedule multiplier in alpha.
    """

    beta1: float
    beta2: float
    epsilon: float
    slots: ClassVar[tuple[str, ...]] = ("mean", "squares")

    def apply(self, step: Step, w_N: Tensor, g_N: Tensor, slots: tuple[Tensor, ...]) -> None:
        m_N, s_N = slots
        if step.decay != 0:
            w_N.mul_(1 - step.rate * step.decay)
        m_N.lerp_(g_N, 1 - self.beta1)
        s_N.mul_(self.beta2).addcmul_(g_N, g_N, value=1 - self.beta2)
        corrected_rate = step.rate / (1 - self.beta1**step.update)
        correction = (1 - self.beta2**step.update) ** 0.5
        scale_N = s_N.sqrt().div_(correction).add_(self.epsilon)
        w_N.addcdiv_(m_N, scale_N, value=-corrected_rate)


def _decayed(step: Step, w_N: Tensor, g_N: Tensor) -> Tensor:
    """g + lambda * w."""
    return g_N if step.decay == 0 else g_N.add(w_N, alpha=step.decay)


def _fused_momentum(mu: float, alpha: float, decay: float, w_N: Tensor, g_N: Tensor, v_N: Tensor) -> None:
    """Momentum in one pass over memory instead of three, in half the time.

    The kernel of torch.optim.SGD(fused=True) computes v <- mu * v + (1 - dampening) * h; w <- w - lr * v.
    """
    import torch

    torch._fused_sgd_(
        [w_N],
        [g_N],
        [v_N],
        weight_decay=decay,
        momentum=mu,
        lr=-1.0,
        dampening=1.0 + alpha,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


@dataclass(frozen=True, slots=True)
class Rmsprop:
    """Momentum of gradients that are divided by their typical size; the decay is decoupled from that size.

    s <- beta2 * s + (1 - beta2) * g ** 2                               torch.optim.RMSprop instead: s uncorrected for
    v <- mu * v - alpha * (g / (sqrt(s / (1 - beta2 ** t)) + epsilon)   its start at zero, v without alpha, lambda * w
                           + lambda * w)                                added to g
    w <- w + v                                                          AdamW instead: the momentum is inside the ratio

    where t counts the shard's updates, from 1. With mu = 0 it is AdamW with beta1 = 0. The size is the shard's, of all
    workers' gradients, so with one velocity per worker (see ps.corrections.Dana) they still agree on what a step is.

    Source: Tieleman and Hinton 2012, lecture 6.5, with momentum as in Szegedy et al. 2016 (Inception-v3), section 8;
    bias correction: Kingma and Ba 2015; decoupled decay: Loshchilov and Hutter 2019.
    """

    momentum: float
    beta2: float
    epsilon: float
    slots: ClassVar[tuple[str, ...]] = ("velocity", "squares")

    def apply(self, step: Step, w_N: Tensor, g_N: Tensor, slots: tuple[Tensor, ...]) -> None:
        v_N, s_N = slots
        s_N.mul_(self.beta2).addcmul_(g_N, g_N, value=1 - self.beta2)
        correction = (1 - self.beta2**step.update) ** 0.5
        scale_N = s_N.sqrt().div_(correction).add_(self.epsilon)
        v_N.mul_(self.momentum).addcdiv_(g_N, scale_N, value=-step.rate)
        if step.decay != 0:
            v_N.add_(w_N, alpha=-step.rate * step.decay)
        w_N.add_(v_N)


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """What a user chooses about the update rule.

    Attributes:
        rule: One of RULES.
        momentum: mu of momentum, nesterov and rmsprop.
        weight_decay: lambda, before the biases' multiplier.
        bias_rate_multiplier: For every bias; 2 in the Caffe recipe.
        bias_decay_multiplier: For every bias; 0 in the Caffe recipe.
        epsilon: Of adagrad, adamw and rmsprop.
        beta1: Of adamw.
        beta2: Of adamw and rmsprop.

    Raises:
        BadInput: A setting is out of its range, or the rule is unknown.
    """

    rule: str = "momentum"
    momentum: float = 0.9
    weight_decay: float = 0.0
    bias_rate_multiplier: float = 1.0
    bias_decay_multiplier: float = 0.0
    epsilon: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BadInput(
                f'rule.rule: got "{self.rule}", expected one of {", ".join(RULES)}{nearest(self.rule, RULES)}'
            )
        for name in ("momentum", "beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"rule.{name}", value, "at least 0 and below 1")
        for name in ("weight_decay", "bias_rate_multiplier", "bias_decay_multiplier"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"rule.{name}", value, "a finite number, at least 0")
        require(0 < self.epsilon < math.inf, "rule.epsilon", self.epsilon, "a finite number above 0")

    def build(self) -> Rule:
        """The rule that these settings name."""
        match self.rule:
            case "sgd":
                return Sgd()
            case "momentum":
                return Momentum(self.momentum)
            case "nesterov":
                return Nesterov(self.momentum)
            case "adagrad":
                return Adagrad(self.epsilon)
            case "rmsprop":
                return Rmsprop(self.momentum, self.beta2, self.epsilon)
            case _:
                return AdamW(self.beta1, self.beta2, self.epsilon)
