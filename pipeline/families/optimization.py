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

# The learning rate's share at a time, in [0, 1].
SCHEDULES: dict[Schedule, Callable[[Clock], float]] = {
    "constant": lambda clock: 1.0,
    "late_linear": lambda clock: min(1.0, 2.0 - 2.0 * clock.fraction),
    "linear": lambda clock: 1.0 - clock.fraction,
    "cosine": lambda clock: 0.5 + 0.5 * math.cos(math.pi * clock.fraction),
}


@dataclass(frozen=True, kw_only=True)
class Optimized(Method):
    """The optimizer of each phase, and what shapes its gradients.

    l1, clip_value and clip_norm act, in that order, on gradients already averaged over the workers; the logged
    gradient norm is from before.

    Attributes:
        optimizer: of every phase; torch's own.
        lr: learning rate after the warm-up.
        beta1: Adam's decay of the mean gradient.
        beta2: Adam's decay of the mean square; for rmsprop its alpha.
        momentum: of sgd and rmsprop.
        weight_decay: L2 penalty; for adamw decoupled.
        l1: weight of the sum of absolute weights.
        clip_norm: bound of the norm of a phase's gradients; null: none.
        clip_value: bound of each element of a gradient; null: none.
        schedule: of the learning rate: linear and cosine fall to zero at the end of the budget, late_linear begins to
            fall at its half.
        warm_up: images over which the learning rate rises linearly.
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
        """Return a phase whose steps are those of the params.

        Args:
            name: prefix of its logs.
            trains: the nets that move.
            loss: what is minimised.
            repeats: steps per iteration of the loop.
            lr: the phase's own learning rate, if not the method's.
            after: restores a constraint after each step.

        Returns:
            The phase.
        """
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

    def uses_budget(self) -> bool:
        return self.schedule != "constant"

    def settings(self, clock: Clock) -> dict[str, Any]:
        """Return further settings of the optimizer at a time; a declared hook, by default none."""
        return {}

    def rate(self, clock: Clock) -> float:
        """Return the learning rate at a time, as a share of ``lr``."""
        warm = min(1.0, (clock.seen + 1) / self.warm_up) if self.warm_up else 1.0
        return warm * SCHEDULES[self.schedule](clock)

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
