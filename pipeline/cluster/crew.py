"""Ray workers that a list of chunks is handed to, one process each, and what becomes of a chunk whose worker is lost.

An actor of a crew has a method ``run`` of a chunk, which returns what is found in it.
"""

import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.cluster import nodes
from pipeline.config import Cluster
from pipeline.errors import UserError
from pipeline.training.memory import out_of_memory

if TYPE_CHECKING:
    from pipeline.cluster.parcel import Parcel
    from pipeline.evaluate.chunks import Chunk, Part

START_SECONDS = 300.0
POLL_SECONDS = 0.5
AT_ONCE = 2  # chunks that a worker has: while it examines one, the next is on its way

_log = logging.getLogger(__name__)


ChunkT = TypeVar("ChunkT")
PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Unfit:
    """What a worker returns in the place of a part, or when it starts: its node can't do this, others may.

    Attributes:
        reason: why not, with the node's name.
    """

    reason: str


class Worker:
    """Examines chunks in a process that Ray starts, and keeps weights and extractors from one chunk to the next."""

    def prepare(self, parcel: "Parcel", threads: int, on_gpu: bool, driver: dict[str, str]) -> None:
        """Load everything.

        Args:
            parcel: the files.
            threads: of the CPU.
            on_gpu: whether this process has one.
            driver: the driver's versions by package.

        Raises:
            UserError: versions here differ, or a file is missing or damaged.
        """
        import ray
        import torch

        host = socket.gethostname()
        if other := nodes.differences(nodes.versions(), driver):
            raise UserError(f"node {host} has {other}; install requirements.lock there.")
        torch.set_num_threads(threads)
        with parcel.opened(host, ray.get) as (materials, elsewhere):
            self.examiner = materials.examiner(torch.device("cuda" if on_gpu else "cpu"), elsewhere)

    def run(self, chunk: "Chunk") -> "Part":
        """Return what is found in a chunk."""
        return self.examiner.examine(chunk)


@dataclass(eq=False)
class _Hand:
    """A worker as the driver knows it. chunks: numbers of those it has; heard: when it last did something."""

    actor: Any
    heard: float
    ready: bool = False
    chunks: dict[Any, int | None] = field(default_factory=dict)


class Crew(Generic[ChunkT, PartT]):
    """Hands chunks to workers, and gives those of a lost worker to others.

    Args:
        start: starts a worker and returns it with a reference that is ready when the worker is.
        size: how many.
        cluster: how many may be lost, and how long one may say nothing.
        ahead: chunks that may be begun before the first one of them is taken; None: any number.
    """

    def __init__(
        self, start: Callable[[], tuple[Any, Any]], size: int, cluster: Cluster, ahead: int | None = None
    ) -> None:
        self._start, self._size, self._cluster, self._ahead = start, size, cluster, ahead
        self._hands: list[_Hand] = []
        self._lost, self._unfit = 0, Unfit("")
        self._heard = time.monotonic()

    def run(self, chunks: Sequence[ChunkT]) -> Generator[PartT | Unfit, None, None]:
        """Have chunks worked on; blocks until a part is there.

        Args:
            chunks: of what the workers have loaded.

        Yields:
            What was found in each, in order; why not where the worker said so, or no worker is left. A worker that
            said so gets no other chunk.

        Raises:
            UserError: more workers were lost than cluster.max_failures, none starts, or one was told what is wrong.
            MemoryError: a worker ran out of memory.
        """
        waiting, found, following = deque(range(len(chunks))), dict[int, PartT | Unfit](), 0
        try:
            while following < len(chunks):
                while len(self._hands) < min(self._size, len(chunks) - following):
                    self._add()
                self._hand_out(waiting, chunks, following)
                for hand, reference in self._finished():
                    if hand in self._hands:  # not lost or retired since
                        self._take(hand, reference, waiting, found)
                self._replace_hung(waiting)
                if not self._size:
                    found |= dict.fromkeys(waiting, self._unfit)
                while following in found:
                    yield found.pop(following)
                    following += 1
        finally:
            for hand in self._hands:
                _kill(hand)

    def _add(self) -> None:
        actor, ready = self._start()
        self._hands.append(_Hand(actor, time.monotonic(), chunks={ready: None}))

    def _hand_out(self, waiting: deque[int], chunks: Sequence[ChunkT], following: int) -> None:
        end = len(chunks) if self._ahead is None else following + self._ahead
        for depth in range(1, AT_ONCE + 1):  # each gets one before any gets two
            for hand in self._hands:
                if waiting and waiting[0] < end and hand.ready and len(hand.chunks) < depth:
                    number = waiting.popleft()
                    hand.heard = hand.heard if hand.chunks else time.monotonic()
                    hand.chunks[hand.actor.run.remote(chunks[number])] = number

    def _finished(self) -> list[tuple[_Hand, Any]]:
        import ray

        by_reference = {reference: hand for hand in self._hands for reference in hand.chunks}
        ray.wait(list(by_reference), num_returns=1, timeout=POLL_SECONDS)
        # All of them: whoever takes the parts may have taken long, and a worker whose part lies here is not hung.
        done, _ = ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0)
        return [(by_reference[reference], reference) for reference in done]

    def _take(self, hand: _Hand, reference: Any, waiting: deque[int], found: dict[int, PartT | Unfit]) -> None:
        import ray

        try:
            part = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if line := out_of_memory(error):
                raise MemoryError(line) from error
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
        except ray.exceptions.RayError as error:
            self._lose(hand, waiting, error)
            return
        hand.heard = self._heard = time.monotonic()
        number = hand.chunks.pop(reference)
        if number is not None:
            found[number] = part
        if isinstance(part, Unfit):
            self._retire(hand, waiting, part)
        else:
            hand.ready = True

    def _retire(self, hand: _Hand, waiting: deque[int], why: Unfit) -> None:
        """Take a worker's chunks back and start none in its place."""
        self._release(hand, waiting)
        self._size, self._unfit = self._size - 1, why
        _log.warning("a worker is not used: %s", why.reason)

    def _release(self, hand: _Hand, waiting: deque[int]) -> None:
        _kill(hand)
        self._hands.remove(hand)
        waiting.extendleft(sorted((n for n in hand.chunks.values() if n is not None), reverse=True))

    def _lose(self, hand: _Hand, waiting: deque[int], why: BaseException | str) -> None:
        """Take a worker's chunks back; another one is started in its place."""
        self._release(hand, waiting)
        self._lost += 1
        reason = str(why).strip().splitlines()[-1].strip()[:300]
        if self._lost <= self._cluster.max_failures:
            _log.warning("a worker was lost (%s); others get what it had", reason)
            return
        if isinstance(why, BaseException) and (line := out_of_memory(why)):
            raise MemoryError(line) from why
        raise UserError(
            f"{self._lost} workers were lost, one more than params.yaml: cluster.max_failures, the last one with: "
            f"{reason} Fix the cause and run `dvc repro` again."
        )

    def _replace_hung(self, waiting: deque[int]) -> None:
        now = time.monotonic()
        for hand in list(self._hands):
            if hand.ready and hand.chunks and now - hand.heard > self._cluster.stall_seconds:
                self._lose(hand, waiting, f"no word for {self._cluster.stall_seconds} s, cluster.stall_seconds.")
        if not any(hand.ready for hand in self._hands) and now - self._heard > START_SECONDS:
            raise UserError(
                f"params.yaml: cluster: no worker has started within {START_SECONDS:.0f} s. `ray status` shows what "
                "the cluster is busy with; wait for it, or ask for less."
            )


def _kill(hand: _Hand) -> None:
    import ray

    ray.kill(hand.actor)
