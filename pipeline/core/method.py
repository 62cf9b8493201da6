"""The contract between a paper and the loop: a method names its nets, its phases and how it samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.shard import Norm
from pipeline.core.world import World

Nets = nn.ModuleDict
Logs = Mapping[str, Tensor]
Loss = Callable[[Nets, Batch, Clock], tuple[Tensor, Logs]]


def constant_settings(clock: Clock) -> dict[str, Any]:
    """No schedule: the optimizer keeps what it was made with."""
    return {}


def nothing_before(parameters: list[nn.Parameter], norm: Norm) -> None:
    """The step takes the gradients as they are."""


def nothing_after(nets: Nets, world: World) -> None:
    """No constraint to restore after a step."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is differentiated, with respect to which nets.

    name: prefix of its logs. trains: the nets that move; every other one is frozen.
    loss: a mean over the batch's samples, never a sum over ranks. optimizer: made once per phase.
    repeats: steps per turn, each on a fresh batch. settings: optimizer settings at a time (lr, betas).
    before: changes the parameters' averaged gradients before the step (clipping). Where parameters are sharded it
    sees shares of one dimension, and only ``norm`` knows the norm of gradients over all ranks.
    after: restores a constraint once the step is done (weight clipping, a codebook's update). It may touch the
    parameters of the nets that the phase trains, and buffers of all nets.
    """

    name: str
    trains: tuple[str, ...]
    loss: Loss
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    repeats: int = 1
    settings: Callable[[Clock], dict[str, Any]] = field(default=constant_settings)
    before: Callable[[list[nn.Parameter], Norm], None] = field(default=nothing_before)
    after: Callable[[Nets, World], None] = field(default=nothing_after)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One paper. Subclasses are frozen dataclasses whose fields are the params.

    sampled: the nets that sampling needs; of them a moving average is kept, evaluated and published.
    needs: what the data must bring: "labels" (two classes or more), "other" (a second domain).
    starts_from: nets that this method does not train: they must come from another run's weights.
    """

    sampled: ClassVar[tuple[str, ...]]
    needs: ClassVar[frozenset[str]] = frozenset()
    starts_from: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def build(self, spec: ImageSpec) -> Nets:
        """Fresh nets for the data; the caller has seeded torch's generator."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The phases of one turn, in order."""

    @abstractmethod
    def sample(self, nets: Nets, like: Batch) -> Tensor:
        """(n, c, h, w) in [-1, 1], one image per sample of ``like``, from its labels and its noise alone
        (and its images, where a method translates). The caller has set the nets to evaluation mode."""

    # Declared no-op hooks: the only implemented behaviour that a method may replace.

    def initialize(self, nets: Nets, batch: Batch, world: World) -> None:
        """Once, before the first step: data-dependent initialisation, the same on every rank."""

    def set_progress(self, nets: Nets, clock: Clock) -> None:
        """Before every turn: what depends on time inside the nets."""

    def panels(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Pictures worth looking at, by name: (rows, columns, c, h, w) in [-1, 1]."""
        return {}

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Per-sample scores beyond FID and IS, by name: (n,) each; their mean is reported."""
        return {}
