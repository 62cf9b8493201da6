"""One run, ready to be trained by any process, and what training says of itself as it goes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

from torch import Tensor

from pipeline.config import Run
from pipeline.core.method import Method
from pipeline.data.dataset import ImageStore
from pipeline.storage.checkpoint import Checkpoints
from pipeline.storage.store import Store
from pipeline.watch.alarms import Alarm


class Row(TypedDict):
    """One log window.

    Attributes:
        seen: images seen at its end.
        time: when it ended, in ms since 1970.
        values: each metric's mean over the window and the ranks.
        snapshot: the name of the picture made at its end, if one was.
        watched: what measures said at its end, by name; absent where nobody looked.
        warnings: what was found for the first time at that look.
    """

    seen: int
    time: int
    values: dict[str, float]
    snapshot: str | None
    watched: NotRequired[dict[str, float]]
    warnings: NotRequired[list[Alarm]]


class WindowContents(TypedDict):
    """A log window that is not over.

    Attributes:
        begin: images seen at its beginning.
        iterations: so far.
        seconds: so far.
        sums: of each metric over the iterations, averaged over the ranks; 0-d tensors on the CPU.
        counts: of each metric's finite values, likewise; none where all count.
    """

    begin: int
    iterations: int
    seconds: float
    sums: dict[str, Tensor]
    counts: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run's settings, its method, and absolute folders.

    Attributes:
        key: of the training's course: the hash of all that determines its states (dependencies/key.py).
        run: the settings that every run has.
        method: the method with its own.
        data: the folder of the data set.
        store: the folder of checkpoints and snapshots.
        url: where checkpoints and snapshots are kept too; None if all nodes see the folder ``store``.
        until: images seen where this training is to end; None: where the budget is spent.
        shard: whether the processes share out the optimizer's state (cluster.shard).
        elsewhere: where a split's images are, by its name, if not in ``data``.
        data_on_device: share of a GPU's free memory that the images may take (cluster.data_on_device).
        product: what decides the number of threads (threads.product_of); None: it is not counted yet.
    """

    key: str
    run: Run
    method: Method
    data: str
    store: str
    url: str | None = None
    until: int | None = None
    shard: bool = False
    elsewhere: Callable[[str], ImageStore] | None = None
    data_on_device: float = 0.0
    product: float | None = None

    @property
    def storage(self) -> Store:
        """The run's checkpoints and snapshots."""
        return Store(Path(self.store), self.key, self.url)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints that this node has."""
        return self.storage.checkpoints

    @property
    def finished_at(self) -> int:
        """Images seen when the budget is spent: whole iterations, so at least the budget."""
        step = self.run.batch_size * max(phase.repeats for phase in self.method.phases())
        return -(-self.run.images // step) * step

    @property
    def goal(self) -> int:
        """Images seen where this training is to end."""
        return self.finished_at if self.until is None else self.until

    @property
    def snapshots(self) -> Path:
        """The folder of pictures made in training."""
        return Path(self.store) / "snapshots"

    @property
    def initial(self) -> Path:
        """A copy of the weights that training begins from, if there are any."""
        return Path(self.store) / "initial.safetensors"


@dataclass
class Progress:
    """What a checkpoint holds besides the state.

    Attributes:
        history: all rows so far.
        seconds: spent training so far.
        waited: seconds of these in which rank 0 waited for images.
        peak_memory_bytes: the most that a process has used.
        device: the name of the GPU, or cpu.
        worlds: pairs of images seen and the number of processes from there on.
        threads: of each process; 0: not decided yet.
        ends: images seen where a budget ended, whose checkpoints are kept.
        last: the window that closed at the end of the budget, for a training that goes on from there.
    """

    history: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0
    peak_memory_bytes: int = 0
    device: str = "cpu"
    worlds: list[tuple[int, int]] = field(default_factory=list)
    threads: int = 0
    ends: list[int] = field(default_factory=list)
    last: WindowContents | None = None

    def end(self, window: WindowContents) -> None:
        """Note that the budget ends here, with the last row, and in which window."""
        self.ends.append(self.history[-1]["seen"])
        self.last = window


class DivergedError(Exception):
    """A loss or gradient is no longer finite; the last checkpoint is from before."""
