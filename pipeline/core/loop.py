"""The training loop: a generator without I/O, and the only caller of backward and step."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.core.batch import Batch, Clock
from pipeline.core.layout import check_gradients
from pipeline.core.method import Method, Nets, Phase
from pipeline.core.state import State
from pipeline.core.world import World


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How steps are computed, whatever the method.

    Attributes:
        precision: "fp32", or "bf16": nets compute under autocast, but what they return is float32 again, so losses and
            penalties stay in float32.
        skip_non_finite: skip a step whose gradients are not all finite. Synchronizes the device at every step.
    """

    precision: str = "fp32"
    skip_non_finite: bool = False


def fit(
    method: Method,
    state: State,
    batches: Iterator[Batch],
    world: World,
    *,
    seed: int,
    total: int,
    ema_half_life: float,
    settings: Settings | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Train until ``total`` images were seen; yield each iteration's logs.

    An iteration runs every phase once, ``repeats`` steps each, on as many fresh global batches as the longest phase
    needs: with five critic steps, the generator uses the first of the five. torch's global generator is seeded before
    each iteration, for what draws from it (dropout); everything else draws from the batch's own noise. Collective: all
    ranks of ``world`` must take the same iterations.

    Args:
        method: the paper that says what is trained on what.
        state: what training changes, in place.
        batches: this rank's shards of global batches, beginning at image ``state.seen``.
        world: the ranks that train together.
        seed: of torch's global generator.
        total: images to see, counted over all ranks; the method gets to know it only if it ``uses_budget``.
        ema_half_life: of the moving average, in images.
        settings: how steps are computed; None: the defaults.

    Yields:
        Logs by name, 0-d tensors on the device.
    """
    nets = state.together()
    steps = [_Step(phase, nets, state.optimizers[phase.name], world, settings) for phase in state.phases]
    draws = max(phase.repeats for phase in state.phases)
    budget = total if method.uses_budget() else None
    while state.seen < total:
        fresh = [next(batches) for _ in range(draws)]
        if state.seen == 0:
            method.initialize(state.nets, fresh[0], world)
            state.update_average(0, half_life=0.0)  # the average begins where the nets do
        shown = draws * len(fresh[0]) * world.size
        clock = Clock(seen=state.seen, total=budget, iteration=state.seen // shown)
        _seed(world.device, f"{seed} {state.seen} {world.rank}")
        method.set_progress(state.nets, clock)
        taken = [step.take(batch, clock) for step in steps for batch in fresh[: step.phase.repeats]]
        state.seen += shown
        state.update_average(shown, ema_half_life)
        method.set_progress(state.ema, Clock(seen=state.seen, total=budget))
        yield {name: value for logs in taken for name, value in logs.items()}


def descend(
    phase: Phase,
    nets: Nets,
    optimizer: Optimizer,
    batch: Batch,
    clock: Clock,
    world: World,
    settings: Settings | None = None,
) -> dict[str, Tensor]:
    """Take one optimizer step of a phase on one batch. Collective.

    Args:
        phase: what is differentiated.
        nets: all nets that the loss uses (``State.together``); those that the phase does not train are frozen here.
        optimizer: of the parameters that move: the phase's nets without their frozen parameters.
        batch: this rank's shard of the global batch.
        clock: progress, for the phase's settings and its loss.
        world: the ranks over which gradients are averaged.
        settings: how the step is computed; None: the defaults.

    Returns:
        The phase's logs, its loss and its gradient's norm, as "<phase>/<name>": 0-d tensors on the device.
    """
    return _Step(phase, nets, optimizer, world, settings).take(batch, clock)


class _Step:
    """A phase's optimizer step, and which parameters it moves: the same ones each time."""

    def __init__(self, phase: Phase, nets: Nets, optimizer: Optimizer, world: World, settings: Settings | None) -> None:
        self.phase, self.nets, self.optimizer = phase, nets, optimizer
        self.world, self.settings, self.checked = world, settings or Settings(), False
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moved = set(map(id, self.parameters))
        self.others = [parameter for parameter in nets.parameters() if id(parameter) not in moved]

    def take(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Take the step; arguments and result as for ``descend``."""
        phase, parameters, world, settings = self.phase, self.parameters, self.world, self.settings
        self._prepare(clock)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss, logs = phase.loss(self.nets, batch.stream(phase.name), clock)
        with world.averaging(parameters):
            loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.to(world.device)  # where a loss reaches no parameter there is none, and torch's 0 lies on the CPU
        if not settings.skip_non_finite or norm.isfinite():
            phase.before(parameters)
            self._check_once()
            self.optimizer.step()
        for parameter in parameters:
            parameter.grad = None
        with torch.no_grad():
            phase.after(self.nets, world)
        named = {"loss": loss, **logs, "gradient_norm": norm}
        return {f"{phase.name}/{key}": value.detach() for key, value in named.items()}

    def _check_once(self) -> None:
        """See that gradients lie as their parameters do, which stays so from the first step on."""
        if not self.checked:
            check_gradients(self.nets.named_parameters())  # what is not moved has none
            self.checked = True

    def _prepare(self, clock: Clock) -> None:
        """Give the optimizer its settings of the time; nothing but what it moves takes gradients, which begin anew."""
        for group in self.optimizer.param_groups:
            group.update(self.phase.settings(clock))
        for parameter in self.others:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
        for parameter in self.parameters:
            parameter.grad = None
            if not parameter.requires_grad:
                parameter.requires_grad_(True)


def _seed(device: torch.device, what: str) -> None:
    """Seed torch's generator of the device, and no other's: that would take longer than a small step."""
    seed = int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), "little") >> 1
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
