"""Fused optimizers on a CPU take no notice of strides: what they get must lie as the parameters do."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_loop_contract import fresh, trained
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from toy_data import toy_batch

from pipeline import methods
from pipeline.core.batch import Clock, ImageSpec
from pipeline.core.layout import lay_moments, lies_alike
from pipeline.core.loop import descend
from pipeline.core.state import State
from pipeline.core.world import World

SHAPE = (4, 3, 2, 2)
MAKERS = {
    "adam": lambda p: Adam(p, lr=0.1, fused=True),
    "adamw": lambda p: AdamW(p, lr=0.1, fused=True),
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
}


def other(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in the other memory format."""
    last = tensor.is_contiguous()
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_formats_are_told_apart_and_sizes_of_one_do_not_count() -> None:
    maps = torch.randn(SHAPE)
    assert lies_alike(maps, maps.clone()) and not lies_alike(maps, other(maps))
    single = torch.randn(4, 1, 2, 2)
    assert lies_alike(single, single.contiguous(memory_format=torch.channels_last))


def stepped(make: Any, moments: Any) -> torch.Tensor:
    """A parameter after a second step; between the two, ``moments`` does something to the optimizer."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(SHAPE).contiguous(memory_format=torch.channels_last))
    optimizer: Optimizer = make([parameter])
    for _ in range(2):
        parameter.grad = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last)
        optimizer.step()
        moments(optimizer)
    return parameter.detach()


def in_the_other_format(optimizer: Optimizer) -> None:
    for slots in optimizer.state.values():
        for name, value in slots.items():
            if value is not None and value.ndim == 4:
                slots[name] = other(value)


@pytest.mark.parametrize("name", MAKERS)
def test_moments_are_laid_as_their_parameters(name: str) -> None:
    expected = stepped(MAKERS[name], lambda optimizer: None)
    assert not torch.equal(stepped(MAKERS[name], in_the_other_format), expected), "torch minds strides now"

    def mended(optimizer: Optimizer) -> None:
        in_the_other_format(optimizer)
        lay_moments(optimizer)

    assert torch.equal(stepped(MAKERS[name], mended), expected)


def test_a_checkpoint_of_another_format_goes_on_to_the_bit() -> None:
    through = trained("dcgan", fresh("dcgan"), 4)
    first = trained("dcgan", fresh("dcgan"), 2)
    saved = copy.deepcopy(first.state_dict())
    moved = 0
    for optimizer in saved["optimizers"].values():
        for slots in optimizer["state"].values():
            for name, value in slots.items():
                if value.ndim == 4 and not lies_alike(value, other(value)):
                    slots[name], moved = other(value), moved + 1
    for part in ("nets", "ema"):
        saved[part] = {key: other(value) if value.ndim == 4 else value for key, value in saved[part].items()}
    assert moved >= 4
    second = fresh("dcgan", seed=99)
    second.load_state_dict(saved)
    trained("dcgan", second, 2)
    for key, value in through.nets.state_dict().items():
        assert torch.equal(second.nets.state_dict()[key], value), key


def test_weights_to_begin_from_may_lie_otherwise() -> None:
    method, spec = methods.load("dcgan", width=8, latent=4), ImageSpec(channels=3, size=16)
    weights = State.fresh(method, spec, 1, torch.device("cpu")).nets.state_dict()
    found = []
    for initial in (weights, {key: other(value) if value.ndim == 4 else value for key, value in weights.items()}):
        state = State.fresh(method, spec, 0, torch.device("cpu"), initial=initial)
        for phase in state.phases:
            clock, batch = Clock(seen=0, total=10), toy_batch(channels=3)
            descend(phase, state.nets, state.optimizers[phase.name], batch, clock, World())
        found.append(state.nets.state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_a_gradient_set_in_another_format_is_refused_with_its_name() -> None:
    state = State.fresh(
        methods.load("dcgan", width=8, latent=4), ImageSpec(channels=3, size=16), 0, torch.device("cpu")
    )

    def set_others(parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.ndim == 4 and parameter.grad is not None:
                parameter.grad = other(parameter.grad)

    phase = replace(state.phases[0], before=set_others)
    with pytest.raises(RuntimeError, match=r"generator\.layers.*weight: its gradient lies.*grad\.copy_"):
        clock, batch = Clock(seen=0, total=10), toy_batch(channels=3)
        descend(phase, state.nets, state.optimizers[phase.name], batch, clock, World())
