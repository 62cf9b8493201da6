"""The contract between a paper and the loop: a method names its nets, its phases and how it samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.world import World

Nets = nn.ModuleDict
Logs = Mapping[str, Tensor]
Loss = Callable[[Nets, Batch, Clock], tuple[Tensor, Logs]]

TWO_DOMAINS = frozenset({"other", "pair"})  # of Method.needs: with either there is a Batch.other


def constant_settings(clock: Clock) -> dict[str, Any]:
    """Keep the settings that the optimizer was made with."""
    return {}


def nothing_before(parameters: list[nn.Parameter]) -> None:
    """Leave the gradients as they are."""


def nothing_after(nets: Nets, world: World) -> None:
    """Restore nothing after a step."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is differentiated, with respect to which nets.

    Attributes:
        name: prefix of its logs.
        trains: the nets that move; every other one is frozen.
        loss: (nets, batch, clock) -> the loss, a mean over the batch's samples and never a sum over ranks, and logs. It
            gets all nets, pretrained ones too.
        optimizer: makes the optimizer of given parameters or parameter groups; called once per phase and process.
        repeats: steps per iteration, each on a fresh batch.
        settings: the optimizer's settings at a time (lr, betas).
        before: changes the parameters' gradients, already averaged over the ranks, before the step (clipping).
        after: restores a constraint after the step (weight clipping, a codebook's update). It may change parameters of
            the nets that the phase trains, and buffers of all nets, to the same values on every rank.
    """

    name: str
    trains: tuple[str, ...]
    loss: Loss
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    repeats: int = 1
    settings: Callable[[Clock], dict[str, Any]] = field(default=constant_settings)
    before: Callable[[list[nn.Parameter]], None] = field(default=nothing_before)
    after: Callable[[Nets, World], None] = field(default=nothing_after)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One paper. Subclasses are frozen dataclasses whose fields are the params.

    Attributes:
        sampled: the nets that sampling needs; their moving averages are kept, evaluated and published.
        needs: what the data must have: "labels" (two classes or more), "other" (a second domain), "pair" (a second
            domain, in which every image has its partner).
        views: domains besides classes that it takes: by name, how they are computed from uint8 images (n, h, w, c).
        starts_from: nets that this method does not train; their weights must come from another run.
        encodes: names of what ``encode`` returns; empty if the method cannot encode.
        decodes: those of them from which alone ``decode`` makes the image again, the usual one first.
        directions: of ``translate``, that of ``sample`` first; empty if the method does not translate.
        criticizes: whether it trains a critic, which ``criticize`` asks.
    """

    sampled: ClassVar[tuple[str, ...]]
    needs: ClassVar[frozenset[str]] = frozenset()
    views: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]] = {}
    starts_from: ClassVar[tuple[str, ...]] = ()
    encodes: ClassVar[tuple[str, ...]] = ()
    decodes: ClassVar[tuple[str, ...]] = ()
    directions: ClassVar[tuple[str, ...]] = ()
    criticizes: ClassVar[bool] = False

    @abstractmethod
    def build(self, spec: ImageSpec) -> Nets:
        """Make the nets for data of this shape; the caller has seeded torch's generator."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of one iteration, in order."""

    @abstractmethod
    def sample(self, nets: Nets, like: Batch) -> Tensor:
        """Return images (n, c, h, w) in [-1, 1], one for each sample of ``like``.

        They depend on the sample's labels and noise alone (and on its images, if the method translates). The caller has
        set the nets to evaluation mode.
        """

    # Declared no-op hooks: the only implemented behaviour that a method may replace.

    def uses_budget(self) -> bool:
        """Return whether the way of training depends on where it will end (``Clock.total``), as a decay to zero does.

        If not, a training of some images is the beginning of every longer one.
        """
        return False

    def pretrained(self, spec: ImageSpec) -> Nets:
        """Make the nets that have their weights from outside of any run; by default there are none.

        A loss finds them among its nets, by names of their own. They are fixed: in evaluation mode, moved by no phase,
        and in no checkpoint, moving average or weights file; each training makes them anew. Nothing else gets them, so
        what is published needs none of them. UserError if their weights are not at hand.
        """
        return nn.ModuleDict()

    def initialize(self, nets: Nets, batch: Batch, world: World) -> None:
        """Initialize from data, once before the first step, to the same values on every rank."""

    def set_progress(self, nets: Nets, clock: Clock) -> None:
        """Set what depends on time inside the nets; called before every iteration."""

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return what the batch's images are encoded to, by the names of ``encodes``: (n, ...) each."""
        return {}

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return images (n, c, h, w) in [-1, 1] from one entry of ``encode``, of a name in ``decodes``."""
        raise NotImplementedError(f"{type(self).__name__} decodes nothing")

    def translate(self, nets: Nets, images: Tensor, direction: str) -> Tensor:
        """Return images (n, c, h, w) in [-1, 1] translated in one of ``directions``."""
        raise NotImplementedError(f"{type(self).__name__} translates nothing")

    def criticize(self, nets: Nets, images: Tensor, labels: Tensor) -> Tensor:
        """Return the critic's scores (n,) of images (n, c, h, w) in [-1, 1]: the higher, the more like real ones."""
        raise NotImplementedError(f"{type(self).__name__} has no critic")

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """Return scores per sample besides FID and IS, by name: (n,) each; their means are reported."""
        return {}

    def overflow_remedy(self) -> str:
        """Say which params keep samples finite, if sound weights can overflow in ``sample``; for a message."""
        return ""
