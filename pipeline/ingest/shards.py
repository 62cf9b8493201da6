"""Shards of normalized images, each made once and kept until the dataset is whole.

A shard's name is a hash of all that decides it: the images in it, the normalization and the code. Killed work goes on
at the shard where it stopped, and a new image changes only the shard that it falls into: images that may be added to
are cut into shards where an image's own hash says so (content-defined chunking), so that what comes before and after
stays as it was. Published datasets, which never grow, are cut evenly.

    <scratch>/shards/<key>.npy     uint8 (n, h, w, c), until the dataset has it; later it is taken from DVC's cache
    <scratch>/shards/<key>.json    of how many images it was made, the sizes of those kept, what is wrong with the rest

What is decoded and resized at a time is a piece of a shard. Whoever makes pieces, this process or others (``Make``),
returns them in order, and this one writes them.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import SHARD_BYTES, new_array
from pipeline.files import atomic_file, link_or_copy, locked, write_packed_json
from pipeline.ingest.source import LeftOut, RawSplit, Report, UnreadableError

_MEAN_BYTES = 16 * 2**20  # of a shard of a dataset that may grow
_MOST_BYTES = 64 * 2**20
_PIECE_BYTES = 16 * 2**20
_PIECE_IMAGES = 512  # done before a worker counts as hung (cluster.stall_seconds), though each may take a second
MOST_THREADS = 8  # a decoded photograph may take some hundred MB in each
_STEP = 32  # images that a thread does before it turns to the next
_AHEAD = 2  # pieces that are begun while one is written

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
class Piece:
    """Images of one split that are normalized together: a shard, or a part of one.

    Attributes:
        split: the split's name.
        members: int64 (n,), their numbers in it.
        content: hash that tells whether another process has the same images under these numbers.
    """

    split: str
    members: NDArray[np.int64]
    content: str


@dataclass(frozen=True)
class Part:
    """What was made of a piece.

    Attributes:
        images: uint8 (k, h, w, c), those that could be used.
        sizes: int32 (k, 2), their widths and heights before.
        left_out: number among the piece's images, kind and detail of the others.
    """

    images: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    left_out: Sequence[tuple[int, str, str]]


_Outcome = tuple[int, int] | UnreadableError  # an image's width and height, or why it can't be used

Tell = Callable[[str, int], None]
"""Called with a split's name and how many more of its images are done."""

Make = Callable[[Sequence[Piece], Tell], Generator[Part, None, None]]
"""Makes pieces and yields what became of each, in order, a few of them ahead of whoever takes them."""


@dataclass(frozen=True)
class _Planned:
    """A shard that is wanted: its split, its file, and the numbers of the images in it."""

    split: str
    file: Path
    members: NDArray[np.int64]


@dataclass(frozen=True)
class _Shard:
    """Of a shard's images the sizes of those kept, int32 (k, 2), and number, kind and detail of the others."""

    sizes: NDArray[np.int32]
    left_out: Sequence[tuple[int, str, str]]


def fingerprint(raw: Path) -> str:
    """Hash the names and sizes of published files, which were checked when they were downloaded, to name shards by."""
    files = sorted((path.relative_to(raw).as_posix(), path.stat().st_size) for path in raw.rglob("*") if path.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()


def make_shards(
    splits: Mapping[str, RawSplit],
    normalize: Normalize,
    spec: ImageSpec,
    work: Work,
    report: Report,
    elsewhere: Callable[[Make], Make] = lambda here: here,
) -> dict[str, Made]:
    """Make the shards of all splits that are not there yet.

    Args:
        splits: the images, by the split's name.
        normalize: makes an image uint8 (size, size, channels); its text is part of a shard's name.
        spec: shape of the normalized images.
        work: where the shards are.
        report: called with the progress.
        elsewhere: returns what makes pieces in other processes, or what it is given, which makes them in this one.

    Returns:
        The splits, by name.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    planned = [plan for name, split in splits.items() for plan in _planned(name, split, normalize, spec, work)]
    found: dict[Path, _Shard] = {}
    done = dict.fromkeys(splits, 0)

    def tell(split: str, count: int) -> None:
        done[split] += count
        report(f"normalizing {split}", done[split], len(splits[split].labels))

    missing: dict[Path, list[Piece]] = {}
    for plan in planned:
        shard = _read(plan, work)
        if shard:
            found[plan.file] = shard
        if shard or plan.file in missing:  # two splits of the same images have one shard
            tell(plan.split, len(plan.members))
        else:
            missing[plan.file] = _pieces(plan, splits[plan.split], spec)
    if missing:
        make = elsewhere(make_here(splits, normalize, spec, threads=min(MOST_THREADS, os.cpu_count() or 1)))
        with closing(make([piece for pieces in missing.values() for piece in pieces], tell)) as parts:
            for file, pieces in missing.items():
                found[file] = _write(file, pieces, [next(parts) for _ in pieces])
    return {
        name: _made(split, [(plan, found[plan.file]) for plan in planned if plan.split == name])
        for name, split in splits.items()
    }


def make_here(splits: Mapping[str, RawSplit], normalize: Normalize, spec: ImageSpec, threads: int) -> Make:
    """Return what makes pieces in this process, in several threads: PIL releases Python's lock while it decodes.

    Args:
        splits: the images, by the split's name.
        normalize: see ``make_shards``.
        spec: shape of the normalized images.
        threads: how many.

    Returns:
        The function. It has at most three pieces in memory, and its caller those of a shard.
    """

    def fill(split: RawSplit, members: NDArray[np.int64], images: NDArray[np.uint8]) -> list[_Outcome]:
        found: list[_Outcome] = []
        for row, number in enumerate(members):
            try:
                image = split.decode(int(number))
                images[row] = normalize(image)
                found.append(image.size)
            except UnreadableError as error:
                found.append(error)
        return found

    def make(pieces: Sequence[Piece], tell: Tell) -> Generator[Part, None, None]:
        begun: deque[tuple[Piece, NDArray[np.uint8], list[Future[list[_Outcome]]]]] = deque()
        with _threads(threads) as pool:
            for piece in pieces:
                images = np.empty((len(piece.members), spec.size, spec.size, spec.channels), dtype=np.uint8)
                steps = [slice(start, start + _STEP) for start in range(0, len(images), _STEP)]
                split = splits[piece.split]
                begun.append(
                    (piece, images, [pool.submit(fill, split, piece.members[step], images[step]) for step in steps])
                )
                if len(begun) > _AHEAD:
                    yield _part(*begun.popleft(), tell)
            while begun:
                yield _part(*begun.popleft(), tell)

    return make


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _part(piece: Piece, images: NDArray[np.uint8], futures: Iterable[Future[list[_Outcome]]], tell: Tell) -> Part:
    """Wait for a piece."""
    outcomes: list[_Outcome] = []
    for future in futures:
        outcomes += future.result()
        tell(piece.split, len(future.result()))
    left_out = [(row, why.kind, why.detail) for row, why in enumerate(outcomes) if isinstance(why, UnreadableError)]
    sizes = [size for size in outcomes if not isinstance(size, UnreadableError)]
    kept = np.delete(images, [row for row, _, _ in left_out], axis=0) if left_out else images
    return Part(kept, np.array(sizes, dtype=np.int32).reshape(-1, 2), left_out)


def _made(split: RawSplit, shards: Sequence[tuple[_Planned, _Shard]]) -> Made:
    left_out = [
        LeftOut(name=split.name(int(plan.members[row])), kind=kind, detail=detail)
        for plan, shard in shards
        for row, kind, detail in shard.left_out
    ]
    kept = [np.delete(plan.members, [row for row, _, _ in shard.left_out]) for plan, shard in shards]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *kept])
    return Made(
        files=tuple(plan.file for plan, shard in shards if len(shard.sizes)),
        labels=split.labels[rows],
        names=[split.name(number) for number in rows.tolist()],
        digests=[split.digests[number] if split.digests else "" for number in rows.tolist()],
        sizes=np.concatenate([np.empty((0, 2), dtype=np.int32), *(shard.sizes for _, shard in shards)]),
        left_out=tuple(left_out),
    )


def _planned(name: str, split: RawSplit, normalize: Normalize, spec: ImageSpec, work: Work) -> Iterator[_Planned]:
    for members in _cut(_order(split), split, spec, work):
        key = hashlib.sha256(f"{work.identity}\n{normalize}\n{content_of(name, split, members)}".encode())
        yield _Planned(name, work.folder / f"{key.hexdigest()}.npy", members)


def content_of(name: str, split: RawSplit, members: NDArray[np.int64]) -> str:
    """Identify the images of a split under some numbers.

    Args:
        name: of the split.
        split: the images.
        members: int64 (n,), n > 0.

    Returns:
        A hex hash: of the images' own hashes, where there are any; of their numbers in a published dataset, whose files
        are the same.
    """
    if split.digests is None:
        what = f"{name} {members[0]} {members[-1]} of {len(split.labels)}"
        if split.numbers is not None:  # else two choices of as many images would be taken for one
            what += f" {hashlib.sha256(split.numbers[members].astype('<i8').tobytes()).hexdigest()}"
    else:
        what = "\n".join(split.digests[number] for number in members)
    return hashlib.sha256(what.encode()).hexdigest()


def _pieces(plan: _Planned, split: RawSplit, spec: ImageSpec) -> list[Piece]:
    step = max(1, min(_PIECE_IMAGES, _PIECE_BYTES // (spec.size * spec.size * spec.channels)))
    cut = [plan.members[start : start + step] for start in range(0, len(plan.members), step)]
    return [Piece(plan.split, members, content_of(plan.split, split, members)) for members in cut]


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


def _write(file: Path, pieces: Sequence[Piece], parts: Sequence[Part]) -> _Shard:
    starts = np.cumsum([0, *(len(piece.members) for piece in pieces)]).tolist()
    shard = _Shard(
        sizes=np.concatenate([part.sizes for part in parts]),
        left_out=[
            (start + row, kind, detail)
            for start, part in zip(starts, parts, strict=False)
            for row, kind, detail in part.left_out
        ],
    )
    with atomic_file(file) as temporary:
        shape = (len(shard.sizes), *parts[0].images.shape[1:])
        with new_array(temporary, shape, np.dtype(np.uint8)) as opened:
            for part in parts:
                opened.write(np.ascontiguousarray(part.images).data)
    about = {
        "of": starts[-1],
        "md5": _md5(file),
        "left_out": shard.left_out,
        "sizes": shard.sizes.reshape(-1).tolist(),
    }
    write_packed_json(file.with_suffix(".json"), about)  # last: with it the shard is whole
    return shard


def _read(plan: _Planned, work: Work) -> _Shard | None:
    """Return what a whole shard consists of; None if it has to be made."""
    file, count = plan.file, len(plan.members)
    try:
        about = json.loads(file.with_suffix(".json").read_text())
        if not file.exists():
            found = work.finished(about["md5"])
            if found is None or _md5(found) != about["md5"]:
                return None
            link_or_copy(found, file)
        left_out = [(int(row), str(kind), str(detail)) for row, kind, detail in about["left_out"]]
        sizes = np.array(about["sizes"], dtype=np.int32).reshape(-1, 2)
        shape = np.load(file, mmap_mode="r", allow_pickle=False).shape
        if about["of"] != count or not shape[0] == len(sizes) == count - len(left_out):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _Shard(sizes, left_out)


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
