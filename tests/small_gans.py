"""What the tests of the large GANs share: small nets, shaken weights."""

from typing import Any

import torch
from torch import Tensor
from toy_data import toy_batch

from pipeline import methods
from pipeline.core.batch import Clock, ImageSpec
from pipeline.core.loop import Settings, descend
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.nets.shapes import PyramidShape

SMALL: dict[str, dict[str, Any]] = {
    "progan": {},
    "biggan": {"embedding": 4},
    "stylegan2": {"mapping_layers": 1},
    "r3gan": {"blocks": 1},
}
START = Clock(seen=0, total=1000)
SHAPE = PyramidShape(channels=1, size=16, width=4, max_width=8)


def made(name: str, **settings: Any) -> Any:
    return methods.load(name, **{"width": 4, "max_width": 16, "latent": 6, **SMALL[name], **settings})


def fresh(method: Any, channels: int = 1, size: int = 16) -> State:
    spec = ImageSpec(channels=channels, size=size, classes=10)
    return State.fresh(method, spec, 0, torch.device("cpu"))


def stepped(method: Any, clock: Clock = START, precision: str = "fp32") -> tuple[State, dict[str, Tensor]]:
    """A fresh state after one step of each phase, and the logs."""
    state = fresh(method)
    logs: dict[str, Tensor] = {}
    for phase in state.phases:
        logs |= descend(
            phase, state.nets, state.optimizers[phase.name], toy_batch(), clock, World(), Settings(precision=precision)
        )
    return state, logs


def latents(count: int = 6, size: int = 6) -> Tensor:
    return Noise(0, torch.arange(count)).normal("latents", size)


def shaken(net: Any) -> Any:
    """Every parameter away from the zeros that it may have begun at."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net
