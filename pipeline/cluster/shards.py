"""Normalizing images on the nodes of a Ray cluster that see them: the same shards as in one process.

Each worker opens the source once, as the stage normalize does, and makes the pieces that it is handed; the driver takes
them in order and writes the shards. So a lost worker costs the pieces that it had, a lost driver the shards that it has
not written, and however large the dataset is, only some pieces of at most 16 MiB are under way at a time.

Actors of a crew, not Ray Data: its pools of actors would give the stream and its backpressure too, but not that a hung
worker is replaced, a worker whose node turns out unfit leaves its piece to others, and pixels come as arrays in shared
memory, without a passage through Arrow's blocks. The crew does, for samples and features already.
"""

import logging
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster import nodes
from pipeline.cluster.connect import PREFLIGHT_SECONDS, connect
from pipeline.cluster.crew import Crew, Unfit
from pipeline.cluster.driver import rays_environment
from pipeline.config import Cluster
from pipeline.core.batch import ImageSpec
from pipeline.errors import UserError
from pipeline.files import sha256_of
from pipeline.ingest import sources
from pipeline.ingest.listing import FILES, is_url
from pipeline.ingest.normalize import Normalization, with_test_split
from pipeline.ingest.originals import originals
from pipeline.ingest.shards import MOST_THREADS, Make, Part, Piece, Tell, content_of, make_here
from pipeline.ingest.source import Origin, RawSplit, silent

ALONE_SECONDS = 30.0  # of this process's own, before it asks the cluster, whose workers need as long to start
PACKAGES = ("numpy", "pillow")  # decide the pixels
_AHEAD = 64  # pieces that wait for one before them
_WITNESSES = 64  # files by which a node is asked whether it sees the images

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be normalized.

    Attributes:
        source: its name.
        raw: the folder of the stage download.
        origin: where the images are.
        normalization: what is done to each.
        test_fraction: how much is held out if there is no test split.
        classes: the chosen ones; None: all.
    """

    source: str
    raw: Path
    origin: Origin
    normalization: Normalization
    test_fraction: float
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Sent:
    """A job as any node can open it.

    Attributes:
        job: with the driver's paths, absolute.
        files: of out/raw, by their relative paths: the hash of each and a reference to its bytes.
        witnesses: some of the large files that are read in their place, by path the size.
        versions: the driver's, by package.
    """

    job: Job
    files: Mapping[str, tuple[str, Any]]
    witnesses: Mapping[Path, int]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, job: Job, put: Callable[[bytes], Any]) -> "Sent":
        """Read the files of out/raw, one at a time.

        Args:
            job: on the driver.
            put: stores bytes and returns a reference.

        Returns:
            What can be sent.
        """
        job = replace(job, raw=job.raw.absolute(), origin=replace(job.origin, report=silent))
        files = sorted(path for path in job.raw.rglob("*") if path.is_file())
        return cls(
            job=job,
            files={str(path.relative_to(job.raw)): (sha256_of(path), put(path.read_bytes())) for path in files},
            witnesses={path: path.stat().st_size for path in _large_files(job) if path.is_file()},
            versions=nodes.versions(PACKAGES),
        )

    def unfit(self) -> str:
        """Say why this node can't make the same images; empty if it can, as far as a look at some files tells."""
        here = nodes.versions(PACKAGES)
        if other := nodes.differences(here, dict(self.versions)):
            return f"has {other}; install requirements.lock there"
        for path, size in self.witnesses.items():
            if not path.is_file():
                return f"does not see {path}"
            if path.stat().st_size != size:
                return f"sees another {path}"
        return ""

    @contextmanager
    def opened(self, get: Callable[[Any], bytes]) -> Iterator[Mapping[str, RawSplit]]:
        """Open the source on this node; out/raw is sent here unless the node sees it.

        Args:
            get: turns a reference into bytes.

        Yields:
            The splits, as the stage normalize has them.

        Raises:
            UserError: the files are not those that the driver has.
        """
        with ExitStack() as stack:
            raw = self.job.raw
            if any(
                not (raw / name).is_file() or sha256_of(raw / name) != known for name, (known, _) in self.files.items()
            ):
                raw = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genloom-")))
                for name, (_, reference) in self.files.items():
                    (raw / name).parent.mkdir(parents=True, exist_ok=True)
                    (raw / name).write_bytes(get(reference))
            dataset = stack.enter_context(sources.find(self.job.source).open(raw, self.job.origin))
            yield with_test_split(dataset.of_classes(self.job.classes), self.job.test_fraction)


def _large_files(job: Job) -> list[Path]:
    """Return some of the files that ``Source.open`` and its images read in their place."""
    if sources.find(job.source).own and (job.raw / FILES).exists():
        found = [one.file for one in originals(job.raw, job.origin) if not one.problem]
    else:
        mirror = job.origin.mirror
        found = _inside(Path(mirror)) if mirror and not is_url(mirror) else []
    for folder in (job.origin.downloads, job.origin.downloads / "indexes"):
        found += [path for path in _inside(folder) if path.suffix in (".tar", ".zip", ".json")]
    step = max(1, len(found) // _WITNESSES)
    return found[::step]


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


class Normalizer:
    """Makes pieces in a process that Ray starts, and keeps the source open from one to the next."""

    def prepare(self, sent: Sent, threads: int) -> Unfit | None:
        """Open the source.

        Args:
            sent: what is to be normalized.
            threads: of the CPU.

        Returns:
            None, or why this node can't.
        """
        import ray

        warnings.simplefilter("ignore")  # Pillow's, of odd tags and large images
        normalization = sent.job.normalization
        spec = ImageSpec(channels=normalization.channels, size=normalization.size, classes=1)
        self.stack = ExitStack()  # open as long as this process lives
        try:
            self.splits = self.stack.enter_context(sent.opened(ray.get))
        except UserError as error:
            return _unfit(error)
        self.make = make_here(self.splits, normalization, spec, threads)
        return None

    def run(self, piece: Piece) -> Part | Unfit:
        """Return what became of a piece, or why this node can't make it."""
        try:
            if content_of(piece.split, self.splits[piece.split], piece.members) != piece.content:
                return _unfit("it has other images")
            return _alone(self.make, piece)
        except UserError as error:
            return _unfit(error)


def _alone(make: Make, piece: Piece) -> Part:
    with closing(make([piece], lambda split, count: None)) as parts:
        return next(parts)


def _unfit(why: object) -> Unfit:
    return Unfit(f"node {socket.gethostname()}: {why}")


def on_nodes(cluster: Cluster, job: Job) -> Callable[[Make], Make]:
    """Return what gives the making of shards to the nodes of a running cluster, where that pays.

    Args:
        cluster: where. Without an address or with no workers this process makes all, else what it can in
            ``ALONE_SECONDS``.
        job: what is to be normalized.

    Returns:
        A function from what makes pieces in this process to what makes them.
    """
    return lambda here: partial(_make, cluster, job, here)


def _make(cluster: Cluster, job: Job, here: Make, pieces: Sequence[Piece], tell: Tell) -> Generator[Part, None, None]:
    """Make pieces, in order; those that no node can make are made here."""
    begin, done = time.monotonic(), 0
    with closing(here(pieces, tell)) as alone:
        for part in alone:
            yield part
            done += 1
            if cluster.address and time.monotonic() - begin > ALONE_SECONDS:
                break
    if done == len(pieces):
        return
    pieces = pieces[done:]
    with rays_environment(cluster), connect(cluster):
        import ray

        sent = Sent.of(job, ray.put)
        cpus = _fit_nodes(sent, cluster)
        if not cpus:
            _log.warning("no node sees the images; they are normalized by this process alone")
            yield from here(pieces, tell)
            return
        threads = min(cluster.cpus_per_worker or MOST_THREADS, MOST_THREADS, *cpus.values())
        size = min(sum(count // threads for count in cpus.values()), _AHEAD)
        crew = Crew[Piece, Part](partial(_start, ray.put(sent), threads, list(cpus)), size, cluster, _AHEAD)
        try:
            with closing(crew.run(pieces)) as parts:
                for piece, found in zip(pieces, parts, strict=True):
                    tell(piece.split, len(piece.members))
                    # If the images themselves have changed, making it here says so.
                    yield _alone(here, piece) if isinstance(found, Unfit) else found
        except MemoryError as error:
            raise UserError(
                f"a node has too little memory to normalize {threads} images at a time ({error}). Lower "
                "params.yaml: cluster.cpus_per_worker."
            ) from error


def _start(sent: Any, threads: int, fit: Iterable[str]) -> tuple[Any, Any]:
    import ray

    where = {"ray.io/node-id": f"in({','.join(fit)})"}
    actor: Any = ray.remote(Normalizer).options(num_cpus=threads, label_selector=where).remote()
    return actor, actor.prepare.remote(sent, threads)


def _fit_nodes(sent: Sent, cluster: Cluster) -> dict[str, int]:
    """Ask all nodes with CPUs whether they see the images, and return the CPUs of those that do by the node's id."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0)(Sent.unfit)
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]  # type: ignore[no-untyped-call]
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(sent)
        for node in alive
    ]
    fit: dict[str, int] = {}
    deadline = time.monotonic() + PREFLIGHT_SECONDS
    for node, answer in zip(alive, asked, strict=True):
        try:
            why = ray.get(answer, timeout=max(deadline - time.monotonic(), 0.1))
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError):
            why = "does not answer"
        if why:
            _log.warning("node %s is not used to normalize: it %s", node["NodeManagerAddress"], why)
        else:
            fit[node["NodeID"]] = int(node["Resources"]["CPU"])
    return fit
