"""Laws of the shared steps: optimizers, schedules, decay, clipping, precision."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from toy_data import toy_batch

from pipeline import methods
from pipeline.config.validation import validated
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.loop import Settings, descend
from pipeline.core.method import Logs, Nets, Phase
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.families.optimization import OPTIMIZERS, SCHEDULES, Optimized

CPU = torch.device("cpu")
START = torch.tensor([1.0, -2.0, 0.5])
GRADIENT = torch.tensor([3.0, 0.0, -4.0])


class Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(START.clone())


class Linear(Optimized):
    """A loss whose gradient is GRADIENT everywhere."""

    sampled = ("vector",)

    def build(self, spec: ImageSpec) -> Nets:
        return nn.ModuleDict({"vector": Vector()})

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("fall", ("vector",), self._loss),)

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return like.images

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        return (nets["vector"].weight * GRADIENT).sum(), {}


def stepped(steps: int = 1, clock: Clock | None = None, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    method = Linear(**settings)
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, CPU)
    logs: dict[str, Tensor] = {}
    for _ in range(steps):
        clock = clock or Clock(seen=0, total=100)
        logs = descend(state.phases[0], state.nets, state.optimizers["fall"], toy_batch(2), clock, World())
    return state.nets["vector"].weight.detach(), logs


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
        ("adam", lambda p: Adam(p, lr=0.1, betas=(0.5, 0.9), weight_decay=0.01)),
        ("adamw", lambda p: AdamW(p, lr=0.1, betas=(0.5, 0.9), weight_decay=0.01)),
        ("rmsprop", lambda p: RMSprop(p, lr=0.1, alpha=0.9, momentum=0.9, weight_decay=0.01)),
    ],
)
def test_a_named_optimizer_is_torchs_own(name: str, reference: Any) -> None:
    settings = {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "momentum": 0.9, "weight_decay": 0.01}
    found, _ = stepped(3, optimizer=name, **settings)
    weight = nn.Parameter(START.clone())
    optimizer = reference([weight])
    for _ in range(3):
        weight.grad = GRADIENT.clone()
        optimizer.step()
    torch.testing.assert_close(found, weight.detach(), rtol=1e-6, atol=1e-7)


def test_every_optimizer_is_tested() -> None:
    assert set(OPTIMIZERS) == {"sgd", "adam", "adamw", "rmsprop"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("late_linear", [1.0, 1.0, 1.0, 0.5, 0.0]),
        ("cosine", [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0]),
    ],
)
def test_schedules_have_their_values(name: str, values: list[float]) -> None:
    assert [SCHEDULES[name](Clock(seen=k, total=4)) for k in range(5)] == pytest.approx(values, abs=1e-12)
    method = Linear(lr=0.2, schedule=name)
    assert [method.rate(Clock(seen=25 * k, total=100)) for k in range(5)] == pytest.approx(values, abs=1e-12)


def test_every_schedule_is_tested() -> None:
    assert set(SCHEDULES) == {"constant", "linear", "late_linear", "cosine"}


def test_the_warm_up_rises_to_the_schedule() -> None:
    method = Linear(warm_up=100, schedule="linear")
    rates = [method.rate(Clock(seen=seen, total=1000)) for seen in (0, 49, 99, 500)]
    assert rates == pytest.approx([0.01, 0.5 * 0.951, 0.901, 0.5], abs=1e-12)


def test_the_learning_rate_of_the_clock_is_the_one_that_is_used() -> None:
    found, _ = stepped(optimizer="sgd", lr=0.1, schedule="linear", clock=Clock(seen=75, total=100))
    torch.testing.assert_close(found, START - 0.025 * GRADIENT)


def test_l1_adds_the_weights_signs() -> None:
    found, _ = stepped(optimizer="sgd", lr=0.1, l1=0.5)
    torch.testing.assert_close(found, START - 0.1 * (GRADIENT + 0.5 * START.sign()))


def test_clipping_by_value_and_by_norm() -> None:
    by_value, _ = stepped(optimizer="sgd", lr=0.1, clip_value=2.0)
    torch.testing.assert_close(by_value, START - 0.1 * GRADIENT.clamp(-2, 2))
    by_norm, logs = stepped(optimizer="sgd", lr=0.1, clip_norm=1.0)
    torch.testing.assert_close(by_norm, START - 0.1 * GRADIENT / 5, rtol=0, atol=1e-6)
    torch.testing.assert_close(logs["fall/gradient_norm"], torch.tensor(5.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": "adamm"},
            "optimizer: expected 'sgd', 'adam', 'adamw' or 'rmsprop', got 'adamm'. Did you mean 'adam'",
        ),
        ({"schedule": "step"}, "schedule: expected 'constant', .* or 'cosine', got 'step'"),
        ({"lr": 0.0}, "lr: expected a number greater than 0, got 0.0"),
        ({"clip_norm": 0.0}, "clip_norm: expected a number greater than 0 or null, got 0.0"),
        ({"l1": -1.0}, "l1: expected a number of at least 0, got -1.0"),
        ({"lr": math.nan}, "lr: expected a number greater than 0, got nan"),
        ({"beta1": 1.0}, "beta1: expected a number"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validated(Linear, settings)


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "vae"])
def test_bf16_is_near_fp32_and_its_losses_are_float32(name: str) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        method = replace(methods.load(name), width=16, latent=8)  # type: ignore[call-arg]
        state = State.fresh(method, ImageSpec(channels=1, size=16, classes=10), 0, CPU)
        phase = state.phases[0]
        found[precision] = descend(
            phase,
            state.nets,
            state.optimizers[phase.name],
            toy_batch(),
            Clock(seen=0, total=100),
            World(),
            Settings(precision=precision),
        )
    for key, exact in found["fp32"].items():
        rough = found["bf16"][key]
        assert rough.dtype == torch.float32, key
        torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02, msg=lambda text, key=key: f"{key}: {text}")
    assert any(not torch.equal(found["fp32"][key], found["bf16"][key]) for key in found["fp32"]), "bf16 was not used"


def test_a_step_that_is_not_finite_is_left_out_where_asked() -> None:
    method = Linear(optimizer="sgd")
    state = State.fresh(method, ImageSpec(channels=1, size=16), 0, CPU)
    optimizer, clock, batch = state.optimizers["fall"], Clock(seen=0, total=100), toy_batch(2)
    spoilt = replace(state.phases[0], loss=lambda *all: (state.phases[0].loss(*all)[0] * math.inf, {}))
    skipping, before = Settings(skip_non_finite=True), state.nets["vector"].weight.detach().clone()
    logs = descend(spoilt, state.nets, optimizer, batch, clock, World(), skipping)
    assert not logs["fall/gradient_norm"].isfinite()
    assert torch.equal(state.nets["vector"].weight, before)
    descend(state.phases[0], state.nets, optimizer, batch, clock, World(), skipping)
    assert not torch.equal(state.nets["vector"].weight, before)
    descend(spoilt, state.nets, optimizer, batch, clock, World())
    assert not state.nets["vector"].weight.isfinite().all()


def test_a_schedule_over_the_budget_must_be_declared() -> None:
    """Checkpoints of another budget would else be taken for this one's."""
    for schedule in SCHEDULES:
        method = Linear(schedule=schedule)
        assert method.uses_budget() == (schedule != "constant")
        unknown = Clock(seen=5, total=None)
        if method.uses_budget():
            with pytest.raises(RuntimeError, match="uses_budget"):
                method.rate(unknown)
        else:
            assert method.rate(unknown) == 1.0
