"""The training loop: a generator without I/O, and the only caller of backward and step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.core.batch import Batch, Clock
from pipeline.core.method import Method, Nets, Phase, nothing_after
from pipeline.core.shard import UNSHARDED, Shards
from pipeline.core.state import State
from pipeline.core.world import World


def fit(
    method: Method,
    state: State,
    batches: Iterator[Batch],
    world: World,
    *,
    seed: int,
    total: int,
    ema_half_life: float,
    precision: str = "fp32",
    skip_non_finite: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Trains until ``total`` images were seen; yields each turn's logs (0-d tensors on the device).

    A turn runs every phase once, ``repeats`` steps each, on as many fresh global batches as the
    longest phase needs: with five critic steps the generator uses the first of the five. ``batches``
    begins at ``state.seen``. Seeds torch's global generator before each turn, for what draws from it
    (dropout); everything else draws from the batch's own noise. precision: fp32, or bf16: the nets
    compute under autocast, and what they return is float32 again, so losses and penalties stay in fp32.
    skip_non_finite: a step whose gradients are not all finite is left out; asks the device at each step.
    """
    draws = max(phase.repeats for phase in state.phases)
    while state.seen < total:
        fresh = [next(batches) for _ in range(draws)]
        if state.seen == 0:
            with state.shards.whole(state.nets.values()):
                method.initialize(state.nets, fresh[0], world)
            state.update_average(0, half_life=0.0)  # the average begins where the nets do
        shown = draws * len(fresh[0]) * world.size
        clock = Clock(seen=state.seen, total=total, turn=state.seen // shown)
        torch.manual_seed(_turn_seed(seed, state.seen, world.rank))
        method.set_progress(state.nets, clock)
        logs: dict[str, Tensor] = {}
        for phase in state.phases:
            for batch in fresh[: phase.repeats]:
                optimizer = state.optimizers[phase.name]
                logs |= descend(
                    phase, state.nets, optimizer, batch, clock, world, precision, state.shards, skip_non_finite
                )
        state.seen += shown
        state.update_average(shown, ema_half_life)
        method.set_progress(state.ema, Clock(seen=state.seen, total=total))
        yield logs


def descend(
    phase: Phase,
    nets: Nets,
    optimizer: Optimizer,
    batch: Batch,
    clock: Clock,
    world: World,
    precision: str = "fp32",
    shards: Shards = UNSHARDED,
    skip_non_finite: bool = False,
) -> dict[str, Tensor]:
    """One optimizer step of a phase on one batch; returns its logs, the loss and the gradient's norm.

    What moves is what the optimizer holds: the nets that the phase trains, without their frozen parameters.
    """
    nets.requires_grad_(False)
    parameters: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        group.update(phase.settings(clock))
        parameters += group["params"]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with shards.whole(nets.values()):
        with torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss, logs = phase.loss(nets, batch.stream(phase.name), clock)
        optimizer.zero_grad(set_to_none=True)
        with world.averaging(parameters):
            loss.backward()
    norm = shards.norm([p.grad for p in parameters if p.grad is not None])
    if not skip_non_finite or norm.isfinite():
        phase.before(parameters, shards.norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if phase.after is not nothing_after:
        with torch.no_grad(), shards.whole(nets[name] for name in phase.trains):
            phase.after(nets, world)
    named = {"loss": loss, **logs, "gradient_norm": norm}
    return {f"{phase.name}/{key}": value.detach() for key, value in named.items()}


def _turn_seed(seed: int, seen: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, seen, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
