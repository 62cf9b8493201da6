"""Two domains without pairs, for methods that translate one to the other: the classes of a run's ``domains``.

data.path is two paths, each of images of one kind: folders, zips, tars, Parquet files, .npz archives or several
WebDataset shards. The classes are named as the paths are; A and B, where these are no names. Or it is one folder or
archive with the folders trainA, trainB, testA and testB, whose classes are A and B.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.ingest.listing import Listed, read_listing, write_listing
from pipeline.ingest.source import LeftOut, Origin, RawDataset, RawSplit, Source
from pipeline.ingest.sources.image_folder import SOURCE as IMAGE_FOLDER
from pipeline.ingest.sources.npz import SOURCE as NPZ
from pipeline.ingest.sources.parquet import SOURCE as PARQUET
from pipeline.ingest.sources.webdataset import SOURCE as WEBDATASET

logger = logging.getLogger(__name__)
LETTERS = ("A", "B")
_LISTING = "listing.csv"


@dataclass(frozen=True)
class Unpaired(Source):
    """Leaves each domain to the source that reads its files."""

    own: ClassVar[bool] = True

    def download(self, origin: Origin, raw: Path) -> None:
        if len(origin.paths) == 1:
            return IMAGE_FOLDER.download(origin, raw)
        if len(origin.paths) != 2:
            raise UserError(f"params.yaml: data.path: {len(origin.paths)} paths. Name two, one for each domain.")
        assert origin.listing is not None, "a source of the user's own files"
        listed = read_listing(origin.listing)
        for number, letter in enumerate(LETTERS):
            (raw / letter).mkdir()
            mine = [replace(one, path=0) for one in listed if one.path == number]
            write_listing(raw / letter / _LISTING, mine)
            _reader(mine).download(_part(origin, number, raw), raw / letter)

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...] | None:
        return domains_of(origin.paths) if len(origin.paths) == 2 else LETTERS

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        with ExitStack() as stack:
            if len(origin.paths) == 1:
                yield stack.enter_context(IMAGE_FOLDER.open(raw, origin))
                return
            parts = []
            for number, letter in enumerate(LETTERS):
                source = _reader(read_listing(raw / letter / _LISTING))
                parts.append(stack.enter_context(source.open(raw / letter, _part(origin, number, raw))))
            yield _two(parts, domains_of(origin.paths))


def domains_of(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the names of two domains, by their paths: those of the folders or files, or A and B."""
    names = [PurePosixPath(path.rstrip("/")).name.partition(".")[0] for path in paths]
    plain = all(names) and len(set(names)) == 2 and not set("".join(names)) & set("*?[]{}")
    return tuple(names) if plain else LETTERS


def _part(origin: Origin, number: int, raw: Path) -> Origin:
    """Return where the files of one domain are from."""
    listing = raw / LETTERS[number] / _LISTING
    return replace(origin, paths=(origin.paths[number],), listing=listing, labels="none")


def _reader(listed: Sequence[Listed]) -> Source:
    """Return the source that reads such files."""
    names = [one.name.lower() for one in listed]
    readers: tuple[tuple[str, Source], ...] = ((".parquet", PARQUET), (".npz", NPZ))
    for suffix, source in readers:
        if any(name.endswith(suffix) for name in names):
            return source
    shards = sum(name.endswith((".tar", ".tar.gz", ".tgz")) for name in names)
    return WEBDATASET if shards > 1 else IMAGE_FOLDER


def _two(parts: Sequence[RawDataset], classes: tuple[str, ...]) -> RawDataset:
    with_test = ["test" in part.splits for part in parts]
    if any(with_test) and not all(with_test):
        logger.warning("Only %s has a test split, so one is held out of both.", classes[with_test.index(True)])
    names = ("train", "test") if all(with_test) else ("train",)
    splits = {name: _joined([_whole(part, name, all(with_test)) for part in parts]) for name in names}
    left_out = [
        LeftOut(name=f"{name}/{one.name}", kind=one.kind, detail=one.detail, of=name)
        for name, part in zip(classes, parts, strict=True)
        for one in part.left_out
    ]
    return RawDataset(classes=classes, splits=splits, left_out=tuple(left_out))


def _whole(part: RawDataset, name: str, as_split: bool) -> list[RawSplit]:
    return [part.splits[name]] if as_split else list(part.splits.values())


def _joined(domains: Sequence[Sequence[RawSplit]]) -> RawSplit:
    """Return the images of all domains, each with the number of its domain as its label."""
    pieces = [(number, split) for number, splits in enumerate(domains) for split in splits]
    starts = np.cumsum([0, *(len(split.labels) for _, split in pieces)])

    def decode(number: int) -> Image.Image:
        piece = int(np.searchsorted(starts, number, side="right")) - 1
        return pieces[piece][1].decode(number - int(starts[piece]))

    return RawSplit(
        labels=np.concatenate([np.full(len(split.labels), label, dtype=np.int64) for label, split in pieces]),
        decode=decode,
        names=[f"{LETTERS[label]}/{split.name(row)}" for label, split in pieces for row in range(len(split.labels))],
        digests=[digest for _, split in pieces for digest in split.digests or ()],
    )


SOURCE = Unpaired()
