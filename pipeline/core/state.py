"""Everything that training changes, and nothing else: what a checkpoint must hold to resume bit-equal.

There is no generator state in it: random numbers and the order of the data are functions of the
seed and of the images seen (noise.py, data/stream.py).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.core import sharding, transfer
from pipeline.core.batch import ImageSpec
from pipeline.core.method import Method, Nets, Phase
from pipeline.core.world import World

# The average forgets its random beginning: its half-life is at most this fraction of the images seen
# (the ramp-up of Karras et al., "Training generative adversarial networks with limited data", 2020).
RAMP_UP = 0.05


@dataclass
class State:
    """The state of a training.

    Attributes:
        nets: what trains.
        ema: moving averages of the sampled nets.
        optimizers: by the phase's name.
        seen: images seen, over all ranks.
        phases: of the method.
        pretrained: nets that its losses use and nothing changes; in no checkpoint.
    """

    nets: Nets
    ema: Nets
    optimizers: dict[str, Optimizer]
    seen: int = 0
    phases: tuple[Phase, ...] = field(default=(), repr=False)
    pretrained: Nets = field(default_factory=nn.ModuleDict, repr=False)
    _averaged: "_Averaged | None" = field(default=None, repr=False)

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
        """Make seeded nets in channels-last memory, and their optimizers; the same on every rank.

        Raises ValueError, as ``transfer.trainable_parameters`` does, if ``freeze`` leaves a phase nothing to train.

        Args:
            method: what to build.
            spec: the data's shape.
            seed: of torch's global generator.
            device: where everything lies.
            initial: tensors by "<net>.<parameter or buffer>" to begin from, as far as name and shape match
                (``transfer.compare`` reports what does).
            freeze: nets, or patterns of parameter names, that stay as they are.

        Returns:
            The state before the first step.
        """
        torch.manual_seed(seed)
        nets = method.build(spec).to(device)
        transfer.load(nets, initial or {})
        _prepare(nets)
        ema = nn.ModuleDict({name: copy.deepcopy(nets[name]) for name in method.sampled})
        phases = method.phases()
        trainable = transfer.trainable_parameters(nets, phases, freeze)
        optimizers = {phase.name: phase.optimizer(trainable[phase.name]) for phase in phases}
        transfer.freeze_statistics(nets.train(), freeze)
        given = pretrained_nets(method, spec, device)
        return cls(nets, ema.eval().requires_grad_(False), optimizers, phases=phases, pretrained=given)

    def shard(self, world: World) -> None:
        """Share out the optimizers' state among the ranks; in a world of one nothing changes.

        Weights, gradients and averages stay whole on each. To be called by all ranks before the first step or
        ``load_state_dict``.
        """
        if world.size == 1:
            return
        for phase in self.phases:
            groups = self.optimizers[phase.name].param_groups
            parameters = [parameter for group in groups for parameter in group["params"]]
            self.optimizers[phase.name] = sharding.shard(phase.optimizer, parameters)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and text only, so that ``torch.load(weights_only=True)`` reads it back.

        Collective if sharded. It is the same then, but only rank 0's has the optimizers' state.
        """
        return {
            "nets": self.nets.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {name: sharding.gather_state(optimizer) for name, optimizer in self.optimizers.items()},
            "seen": self.seen,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore in place, whether ``saved`` was sharded or this state is. Not collective.

        ``saved`` is what rank 0's ``state_dict`` returned; torch raises RuntimeError if it is of other nets.
        """
        self.nets.load_state_dict(saved["nets"])
        self.ema.load_state_dict(saved["ema"])
        for name, optimizer in self.optimizers.items():
            sharding.load_state(optimizer, saved["optimizers"][name])
        self.seen = saved["seen"]

    def update_average(self, images: int, half_life: float) -> None:
        """Move the average by a batch of ``images``; half_life in images, 0: copy the nets."""
        half_life = min(half_life, self.seen * RAMP_UP)
        keep = 0.5 ** (images / half_life) if half_life > 0 else 0.0
        if self._averaged is None:
            self._averaged = _Averaged.of(self.ema, self.nets)
        self._averaged.move(1.0 - keep)

    def averaged(self) -> Nets:
        """Return the nets that sampling uses: the average if one is kept, else the net itself, not a copy."""
        return nn.ModuleDict({name: self.ema[name] if name in self.ema else net for name, net in self.nets.items()})

    def together(self) -> Nets:
        """Return all nets that a loss sees: those that train and the pretrained ones, not copies."""
        return joined(self.nets, self.pretrained)

    def synchronize(self, world: World) -> None:
        """Average the float buffers (batch statistics drift per rank) so that all ranks hold one state. Collective."""
        with torch.no_grad():
            for nets in (self.nets, self.ema):
                world.average([buffer for buffer in nets.buffers() if buffer.is_floating_point()])


def pretrained_nets(method: Method, spec: ImageSpec, device: torch.device) -> Nets:
    """Make a method's pretrained nets, frozen and in evaluation mode; torch's generator stays as it was.

    They are made on the CPU, even for the meta device, to which no file can be read.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        nets = method.pretrained(spec)
    nets.to(device).eval().requires_grad_(False)
    _prepare(nets)
    return nets


def joined(nets: Nets, pretrained: Nets) -> Nets:
    """Return nets and pretrained ones as those that a loss sees, not copies; ValueError if they share a name."""
    if shared := nets.keys() & pretrained.keys():
        raise ValueError(f"a pretrained net is called like one that trains: {', '.join(sorted(shared))}")
    return nn.ModuleDict({**nets, **pretrained})


def _prepare(nets: Nets) -> None:
    """Bring convolutions into channels-last memory, and what nets return to float32."""
    for module in nets.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)
    for net in nets.values():
        net.register_forward_hook(_returns_float32)


def _returns_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return a net's output as float32 (a forward hook): under autocast nets compute in bfloat16, losses do not."""
    if isinstance(output, Tensor):
        return output.float() if output.dtype == torch.bfloat16 else output
    if isinstance(output, tuple | list):
        return type(output)(_returns_float32(module, inputs, item) for item in output)
    return output


@dataclass(frozen=True)
class _Averaged:
    """Tensors of averages beside those that they are of: floats, and others (counters), which are copied."""

    means: list[Tensor]
    news: list[Tensor]
    others: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, ema: Nets, nets: Nets) -> "_Averaged":
        """Return all pairs; they stay the same tensors as long as training goes on."""
        pairs = [pair for name in ema for pair in zip(_tensors(ema[name]), _tensors(nets[name]), strict=True)]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        others = [pair for pair in pairs if not pair[0].is_floating_point()]
        return cls([mean for mean, _ in floats], [new for _, new in floats], others)

    @torch.no_grad()
    def move(self, weight: float) -> None:
        """Move each average by a share of its distance to the new value."""
        if self.means:
            torch._foreach_lerp_(self.means, self.news, weight)
        for mean, new in self.others:
            mean.copy_(new)


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    yield from net.parameters()
    yield from net.buffers()
