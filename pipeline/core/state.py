"""Everything that training changes, and nothing else: what a checkpoint must hold to resume bit-equal.

There is no generator state in it: random numbers and the order of the data are functions of the
seed and of the images seen (noise.py, data/stream.py).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.core import transfer
from pipeline.core.batch import ImageSpec
from pipeline.core.method import Method, Nets, Phase
from pipeline.core.shard import UNSHARDED, Shards
from pipeline.core.world import World

# The average forgets its random beginning: its half-life is at most this share of the images seen
# (the ramp-up of Karras et al., "Training generative adversarial networks with limited data", 2020).
RAMP_UP = 0.05


@dataclass
class State:
    """nets: what trains; ema: moving averages of the sampled ones; optimizers by phase; seen: images.

    shards: what of the nets' parameters and averages this rank keeps, if not all.
    """

    nets: Nets
    ema: Nets
    optimizers: dict[str, Optimizer]
    seen: int = 0
    phases: tuple[Phase, ...] = field(default=(), repr=False)
    shards: Shards = field(default=UNSHARDED, repr=False)

    @classmethod
    def fresh(
        cls,
        method: Method,
        spec: ImageSpec,
        seed: int,
        device: torch.device,
        *,
        initial: Mapping[str, Tensor] | None = None,
        freeze: Sequence[str] = (),
    ) -> "State":
        """Seeded nets in channels-last memory; the same on every rank.

        initial: tensors by "<net>.<parameter or buffer>" to begin from, as far as name and shape match
        (transfer.py says what did). freeze: nets, or patterns of parameter names, that stay as they are.
        """
        torch.manual_seed(seed)
        nets = method.build(spec).to(device)
        transfer.load(nets, initial or {})
        for module in nets.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(memory_format=torch.channels_last)
        for net in nets.values():
            net.register_forward_hook(_returns_float32)
        ema = nn.ModuleDict({name: copy.deepcopy(nets[name]) for name in method.sampled})
        phases = method.phases()
        moving = transfer.moving(nets, phases, freeze)
        optimizers = {phase.name: phase.optimizer(moving[phase.name]) for phase in phases}
        transfer.still(nets.train(), freeze)
        return cls(nets, ema.eval().requires_grad_(False), optimizers, phases=phases)

    def shard(self, world: World) -> None:
        """From now on each rank keeps a share of every parameter, average, gradient and moment. Called before the
        first step or ``load_state_dict``; in a world of one nothing changes."""
        if world.size > 1:
            self.shards = Shards([*self.nets.parameters(), *self.ema.parameters()], world)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text only, so that ``torch.load(weights_only=True)`` reads it back.

        The same whether sharded or not; sharded, all ranks must call, and only rank 0's is complete.
        """
        return {
            "nets": self._saved(self.nets),
            "ema": self._saved(self.ema),
            "optimizers": {name: self._saved_steps(optimizer) for name, optimizer in self.optimizers.items()},
            "seen": self.seen,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores in place; a state of other nets raises."""
        for name, nets in (("nets", self.nets), ("ema", self.ema)):
            with self.shards.whole([nets]):
                nets.load_state_dict(saved[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(self._loaded_steps(optimizer, saved["optimizers"][name]))
        self.seen = saved["seen"]

    def _saved(self, nets: Nets) -> dict[str, Tensor]:
        found: dict[str, Tensor] = nets.state_dict(keep_vars=True)
        for name, value in found.items():
            found[name] = self.shards.joined(value, value.detach())
        return found

    def _saved_steps(self, optimizer: Optimizer) -> dict[str, Any]:
        return _with_moments(optimizer, optimizer.state_dict(), self.shards.joined)

    def _loaded_steps(self, optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        return _with_moments(optimizer, saved, self.shards.cut)

    def update_average(self, images: int, half_life: float) -> None:
        """Moves the average by a batch of ``images``; half_life in images, 0: the average is the net."""
        half_life = min(half_life, self.seen * RAMP_UP)
        keep = 0.5 ** (images / half_life) if half_life > 0 else 0.0
        for name, average in self.ema.items():
            floats, others = _paired(average, self.nets[name])
            if floats:
                torch._foreach_lerp_([mean for mean, _ in floats], [new for _, new in floats], 1.0 - keep)
            for mean, new in others:
                mean.copy_(new)

    def averaged(self) -> Nets:
        """The nets that sampling uses: the average where one is kept, the net elsewhere (shared, not copied)."""
        return nn.ModuleDict({name: self.ema[name] if name in self.ema else net for name, net in self.nets.items()})

    def synchronize(self, world: World) -> None:
        """Averages the float buffers (batch statistics drift per rank), so that all ranks hold one state."""
        with torch.no_grad():
            for nets in (self.nets, self.ema):
                world.average([buffer for buffer in nets.buffers() if buffer.is_floating_point()])


def _with_moments(
    optimizer: Optimizer, saved: dict[str, Any], change: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    """An optimizer's state with ``change(parameter, moment)`` in place of each moment; steps are counted as before."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {
            key: change(parameters[index], value) if isinstance(value, Tensor) and key != "step" else value
            for key, value in slots.items()
        }
        for index, slots in saved["state"].items()
    }
    return saved | {"state": state}


def _returns_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook: under autocast a net computes in bfloat16, but what a loss sees is float32."""
    if isinstance(output, Tensor):
        return output.float() if output.dtype == torch.bfloat16 else output
    if isinstance(output, tuple | list):
        return type(output)(_returns_float32(module, inputs, item) for item in output)
    return output


def _paired(average: nn.Module, net: nn.Module) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """(average, net) pairs of parameters and buffers: the floating ones, and the rest (counters)."""
    pairs = list(zip(_tensors(average), _tensors(net), strict=True))
    return [p for p in pairs if p[0].is_floating_point()], [p for p in pairs if not p[0].is_floating_point()]


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    yield from (parameter.data for parameter in net.parameters())
    yield from net.buffers()
