"""Which params may change in the middle of a training: those that leave its nets, their beginning and its data alone.

A member of a population goes on from another one's weights, optimizers and place in the data, with its own params. So a
param must decide neither the nets' shapes, nor what they begin with (it would have no effect any more, as what is taken
over stands in its place), nor how many images an iteration takes, nor which optimizer there is.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipeline.config import Run
from pipeline.config.validation import field_names
from pipeline.core.batch import ImageSpec
from pipeline.core.method import Method
from pipeline.core.transfer import trainable_parameters

OF_RUN = ("ema_half_life", "flip", "crop", "rotation")  # all others decide the data's order, or where things are made


def fixed(name: str, run: Run, values: Mapping[Any, Method], spec: ImageSpec) -> str | None:
    """Say why a param cannot change in the middle of a training.

    Args:
        name: of the param.
        run: one run of the search.
        values: by each value of the param that is tried, the method with it.
        spec: of the data.

    Returns:
        What it decides; None if it may change.
    """
    if name in field_names(Run):
        return None if name in OF_RUN else "is the whole run's"
    (begin, first), *others = values.items()
    for value, method in others:
        if what := _difference(first, method, run, spec):
            return f"decides {what}: {begin} and {value} differ in that"
    return None


def _difference(one: Method, other: Method, run: Run, spec: ImageSpec) -> str | None:
    """Return in what two methods' trainings differ so that a state of one is no state of the other."""
    (steps, kinds, tensors), (other_steps, other_kinds, other_tensors) = (
        _signature(method, run, spec) for method in (one, other)
    )
    shapes, other_shapes = ({key: t.shape for key, t in of.items()} for of in (tensors, other_tensors))
    if steps != other_steps:
        return "the steps of an iteration, and so which images it takes"
    if shapes != other_shapes:
        return "the nets' shapes"
    if kinds != other_kinds:
        return "the optimizer and what it keeps"
    if any(not torch.equal(tensors[key], other_tensors[key]) for key in tensors):
        return "what the nets begin with"
    return None  # in nothing that matters


def _signature(
    method: Method, run: Run, spec: ImageSpec
) -> tuple[list[tuple[str, tuple[str, ...], int]], list[tuple[str, int, bool]], dict[str, Tensor]]:
    """Return the phases, their optimizers' kinds and groups, and the nets' tensors before the first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        nets = method.build(spec)
    phases = method.phases()
    trainable = trainable_parameters(nets, phases, run.freeze)
    optimizers = [phase.optimizer(trainable[phase.name]) for phase in phases]
    steps = [(phase.name, phase.trains, phase.repeats) for phase in phases]
    return steps, [_kept(optimizer) for optimizer in optimizers], dict(nets.state_dict())


def _kept(optimizer: Optimizer) -> tuple[str, int, bool]:
    """Return what decides which state an optimizer keeps: its kind, its groups, and whether it has momentum."""
    groups = optimizer.param_groups
    return type(optimizer).__name__, len(groups), any(group.get("momentum") for group in groups)
