"""Shards of normalized images, each made once and kept until the dataset is whole.

A shard's name is a hash of all that decides it: the images in it, the normalization and the code. Killed work goes on
at the shard where it stopped, and a new image changes only the shard that it falls into: images that may be added to
are cut into shards where an image's own hash says so (content-defined chunking), so that what comes before and after
stays as it was. Published datasets, which never grow, are cut evenly.

    <scratch>/shards/<key>.npy     uint8 (n, h, w, c), until the dataset has it; later it is taken from DVC's cache
    <scratch>/shards/<key>.json    of how many images it was made, the sizes of those kept, what is wrong with the rest
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import SHARD_BYTES, save_array
from pipeline.files import atomic_file, link_or_copy, locked, write_json
from pipeline.ingest.source import LeftOut, RawSplit, Report, UnreadableError

_MEAN_BYTES = 16 * 2**20  # of a shard of a dataset that may grow
_MOST_BYTES = 64 * 2**20
_MOST_THREADS = 8  # a decoded photograph may take some hundred MB in each
_STEP = 64  # images that a thread does before it turns to the next

Normalize = Callable[[Image.Image], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where shards are made.

    Attributes:
        folder: keeps them until the dataset is whole, and then those that it consists of.
        identity: of the code and of published files; with the images and the normalization it names a shard.
        finished: returns the shard with this MD5 where DVC keeps it, or None, so that nothing is kept twice.
        mean_bytes: of shards of a dataset that may grow, on average.
        most_bytes: of any such shard.
    """

    folder: Path
    identity: str
    finished: Callable[[str], Path | None] = lambda md5: None
    mean_bytes: int = _MEAN_BYTES
    most_bytes: int = _MOST_BYTES

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder; waits for them."""
        announce = f"waiting for another process that normalizes into {self.folder}"
        with locked(self.folder / "lock", wait=None, announce=announce):
            yield

    def clear(self, files: Iterable[Path]) -> None:
        """Remove all shards once the dataset has them; what they consist of stays, for those that it consists of."""
        kept = {file.stem for file in files}
        for file in self.folder.iterdir():
            if file.suffix == ".npy" or (file.suffix == ".json" and file.stem not in kept):
                file.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A split whose shards are made.

    Attributes:
        files: the shards, in order.
        labels: int64 (n,) of the images in them.
        names: of the images, by which people know them.
        digests: hex hashes of their files; empty where they are published ones.
        sizes: int32 (n, 2), their widths and heights before.
        left_out: images that could not be used.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    names: Sequence[str]
    digests: Sequence[str]
    sizes: NDArray[np.int32]
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class _Shard:
    """Which images of those that a shard is made of are in it.

    Attributes:
        kept: their numbers among these.
        sizes: (width, height) of each of them.
        left_out: number, kind and detail of the others.
    """

    kept: list[int]
    sizes: list[tuple[int, int]]
    left_out: list[tuple[int, str, str]] = field(default_factory=list)


def fingerprint(raw: Path, *, whole: bool) -> str:
    """Identify the files of out/raw for the names of shards.

    Args:
        raw: the folder.
        whole: published files, which are checked when they are downloaded: by their names and sizes. Otherwise each
            image's own hash is part of the shard's name, and nothing is needed.

    Returns:
        The hash; empty where nothing is needed.
    """
    if not whole:
        return ""
    files = sorted((path.relative_to(raw).as_posix(), path.stat().st_size) for path in raw.rglob("*") if path.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()


def make_shards(split: RawSplit, name: str, normalize: Normalize, spec: ImageSpec, work: Work, report: Report) -> Made:
    """Make the shards of a split that are not there yet.

    Args:
        split: the images.
        name: of the split, for the progress.
        normalize: makes an image uint8 (size, size, channels); its text is part of a shard's name.
        spec: shape of the normalized images.
        work: where the shards are.
        report: called with the progress.

    Returns:
        The split.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    order = _order(split)
    files: list[Path] = []
    rows: list[int] = []
    sizes: list[tuple[int, int]] = []
    left_out: list[LeftOut] = []
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        done = 0
        for members in _cut(order, split, spec, work):
            file = work.folder / f"{_key(members, split, name, normalize, work)}.npy"
            shard = _read(file, len(members), work)
            if shard is None:

                def tell(count: int, before: int = done) -> None:
                    report(f"normalizing {name}", before + count, len(order))

                shard = _make(file, members, split, normalize, spec, pool, tell)
            done += len(members)
            report(f"normalizing {name}", done, len(order))
            rows += [int(members[number]) for number in shard.kept]
            sizes += shard.sizes
            left_out += [
                LeftOut(name=split.name(int(members[number])), kind=kind, detail=detail)
                for number, kind, detail in shard.left_out
            ]
            if shard.kept:
                files.append(file)
    return Made(
        files=tuple(files),
        labels=split.labels[rows],
        names=[split.name(number) for number in rows],
        digests=[split.digests[number] if split.digests else "" for number in rows],
        sizes=np.array(sizes, dtype=np.int32).reshape(-1, 2),
        left_out=tuple(left_out),
    )


def _order(split: RawSplit) -> NDArray[np.int64]:
    """Return the images' numbers in the order of the shards: by name where images may be added."""
    count = len(split.labels)
    if split.digests is None:
        return np.arange(count)
    return np.array(sorted(range(count), key=split.name), dtype=np.int64)


def _cut(order: NDArray[np.int64], split: RawSplit, spec: ImageSpec, work: Work) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of the images of each shard."""
    size = spec.size * spec.size * spec.channels
    if split.digests is None:
        step = max(1, SHARD_BYTES // size)
        yield from (order[start : start + step] for start in range(0, len(order), step))
        return
    mean, most = max(1, work.mean_bytes // size), max(1, work.most_bytes // size)
    start = 0
    for end, number in enumerate(order, start=1):
        # The last digits: the first ones decide the split.
        if int(split.digests[number][-13:], 16) % mean == 0 or end - start == most or end == len(order):
            yield order[start:end]
            start = end


def _key(members: NDArray[np.int64], split: RawSplit, name: str, normalize: Normalize, work: Work) -> str:
    """Name a shard by all that decides its bytes."""
    digest = hashlib.sha256(f"{work.identity}\n{normalize}\n".encode())
    if split.digests is None:
        digest.update(f"{name} {members[0]} {members[-1]} of {len(split.labels)}".encode())
    else:
        digest.update("\n".join(split.digests[number] for number in members).encode())
    return digest.hexdigest()


def _make(
    file: Path,
    members: NDArray[np.int64],
    split: RawSplit,
    normalize: Normalize,
    spec: ImageSpec,
    pool: ThreadPoolExecutor,
    tell: Callable[[int], None],
) -> _Shard:
    images = np.empty((len(members), spec.size, spec.size, spec.channels), dtype=np.uint8)
    outcomes: list[tuple[int, int] | UnreadableError] = []

    def fill(start: int) -> list[tuple[int, int] | UnreadableError]:
        found: list[tuple[int, int] | UnreadableError] = []
        for row in range(start, min(start + _STEP, len(members))):
            try:
                image = split.decode(int(members[row]))
                images[row] = normalize(image)
                found.append(image.size)
            except UnreadableError as error:
                found.append(error)
        return found

    # PIL releases the GIL while it decodes and resizes.
    for some in pool.map(fill, range(0, len(members), _STEP)):
        outcomes += some
        tell(len(outcomes))
    kept = [row for row, outcome in enumerate(outcomes) if not isinstance(outcome, UnreadableError)]
    shard = _Shard(
        kept=kept,
        sizes=[outcome for outcome in outcomes if not isinstance(outcome, UnreadableError)],
        left_out=[
            (row, outcome.kind, outcome.detail)
            for row, outcome in enumerate(outcomes)
            if isinstance(outcome, UnreadableError)
        ],
    )
    with atomic_file(file) as temporary:
        save_array(temporary, images if len(kept) == len(images) else images[kept])
    about = {
        "of": len(members),
        "md5": _md5(file),
        "left_out": shard.left_out,
        "sizes": np.array(shard.sizes).reshape(-1).tolist(),
    }
    write_json(file.with_suffix(".json"), about)  # last: with it the shard is whole
    return shard


def _read(file: Path, count: int, work: Work) -> _Shard | None:
    """Return what a whole shard consists of; None if it has to be made."""
    try:
        about = json.loads(file.with_suffix(".json").read_text())
        if not file.exists():
            found = work.finished(about["md5"])
            if found is None or _md5(found) != about["md5"]:
                return None
            link_or_copy(found, file)
        left_out = [(int(row), str(kind), str(detail)) for row, kind, detail in about["left_out"]]
        wrong = {row for row, _, _ in left_out}
        kept = [row for row in range(count) if row not in wrong]
        shape = np.load(file, mmap_mode="r", allow_pickle=False).shape
        if about["of"] != count or shape[0] != len(kept):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sizes = np.array(about["sizes"]).reshape(-1, 2)
    return _Shard(kept=kept, sizes=[(int(width), int(height)) for width, height in sizes], left_out=left_out)


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
