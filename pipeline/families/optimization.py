"""The steps of every method, as params: optimizer, learning rate over time, decay and clipping."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from pipeline.config import Count, NonNegative, PositiveFloat, Unit
from pipeline.core.batch import Clock
from pipeline.core.method import Loss, Method, Nets, Phase, nothing_after
from pipeline.core.world import World

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop"]
Schedule = Literal["constant", "linear", "late_linear", "cosine"]

# What remains of the learning rate at a fraction of the budget, in [0, 1].
SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "constant": lambda fraction: 1.0,
    "late_linear": lambda fraction: min(1.0, 2.0 - 2.0 * fraction),
    "linear": lambda fraction: 1.0 - fraction,
    "cosine": lambda fraction: 0.5 + 0.5 * math.cos(math.pi * fraction),
}


@dataclass(frozen=True, kw_only=True)
class Optimized(Method):
    """optimizer: sgd, adam, adamw or rmsprop; beta1, beta2: Adam's (rmsprop: beta2 is its alpha); momentum: of
    sgd and rmsprop. lr: after the warm-up, which rises linearly over ``warm_up`` images; schedule: constant,
    or linear or cosine to zero at the end of the budget, or late_linear, which starts to fall at its half.

    weight_decay: L2 (adamw: decoupled); l1: weight of the sum of absolute weights. clip_value, clip_norm:
    bounds of each gradient and of their common norm. l1 and both bounds act on gradients already averaged
    over the workers, in that order; the logged gradient norm is from before.
    """

    optimizer: OptimizerName = "adam"
    lr: PositiveFloat = 2e-4
    beta1: Unit = 0.9
    beta2: Unit = 0.999
    momentum: Unit = 0.0
    weight_decay: NonNegative = 0.0
    l1: NonNegative = 0.0
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    schedule: Schedule = "constant"
    warm_up: Count = 0

    def phase(
        self,
        name: str,
        trains: tuple[str, ...],
        loss: Loss,
        *,
        repeats: int = 1,
        lr: float | None = None,
        after: Callable[[Nets, World], None] = nothing_after,
    ) -> Phase:
        """A phase with these steps; lr: its own learning rate."""
        rate = lr or self.lr
        return Phase(
            name=name,
            trains=trains,
            loss=loss,
            optimizer=lambda parameters: OPTIMIZERS[self.optimizer](self, parameters, rate),
            repeats=repeats,
            settings=lambda clock: {"lr": rate * self.rate(clock)} | self.settings(clock),
            before=self._shape_gradients,
            after=after,
        )

    def settings(self, clock: Clock) -> dict[str, Any]:
        """Return further settings of the optimizer at a time; a declared hook, by default none."""
        return {}

    def rate(self, clock: Clock) -> float:
        """The learning rate at a time, as a share of ``lr``."""
        warm = min(1.0, (clock.seen + 1) / self.warm_up) if self.warm_up else 1.0
        return warm * SCHEDULES[self.schedule](clock.fraction)

    def _shape_gradients(self, parameters: list[nn.Parameter]) -> None:
        if self.l1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=self.l1)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)


Parameters = Iterable[nn.Parameter]


def _sgd(method: Optimized, parameters: Parameters, lr: float) -> Optimizer:
    return SGD(parameters, lr=lr, momentum=method.momentum, weight_decay=method.weight_decay, fused=True)


def _adam(method: Optimized, parameters: Parameters, lr: float) -> Optimizer:
    return Adam(parameters, **_adams(method, lr))


def _adamw(method: Optimized, parameters: Parameters, lr: float) -> Optimizer:
    return AdamW(parameters, **_adams(method, lr))


def _adams(method: Optimized, lr: float) -> dict[str, Any]:
    betas = (method.beta1, method.beta2)
    return {"lr": lr, "betas": betas, "weight_decay": method.weight_decay, "fused": True}


def _rmsprop(method: Optimized, parameters: Parameters, lr: float) -> Optimizer:
    decay, momentum = method.weight_decay, method.momentum
    return RMSprop(parameters, lr=lr, alpha=method.beta2, momentum=momentum, weight_decay=decay, foreach=True)


# torch's own; fused where torch has it.
OPTIMIZERS: dict[OptimizerName, Callable[[Optimized, Parameters, float], Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
}
