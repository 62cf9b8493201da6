"""Published datasets of large archives: read where they were downloaded, never copied, unpacked or held in memory.

out/raw holds only what they are. The archives themselves stay in the folder for downloads, or in that of a mirror; a
compressed tar is decompressed once, in the folder for downloads, which then keeps the tar in its place.
"""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from pipeline.files import locked, write_json
from pipeline.ingest.archives import BROKEN, Archive, open_archive, plain_tar
from pipeline.ingest.decode import decode
from pipeline.ingest.remote_file import RemoteFile, fetch
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, unusable

_FILES = "files.json"
_PACKED = (".tar.gz", ".tgz")


@dataclass(frozen=True)
class Opened:
    """A dataset's files, opened.

    Attributes:
        archives: those that are archives, by the file's name.
        paths: all files, by the file's name.
        closing: closes what is open when the dataset is.
    """

    archives: Mapping[str, Archive]
    paths: Mapping[str, Path]
    closing: ExitStack


@dataclass(frozen=True, kw_only=True)
class ArchivedDataset(Source):
    """A source of large archives.

    Attributes:
        files: the archives, and other files that are needed.
        read: makes the dataset of the opened files; the second argument is ``data.labels``. KeyError, OSError and
            ValueError say that they are not as published.
        classes: names by label, if they are known beforehand.
        by_hand: what a person has to do, where no program may download the files.
        by_labels: ``data.labels`` decides what the classes are.
    """

    files: tuple[RemoteFile, ...]
    read: Callable[[Opened, str], RawDataset]
    classes: tuple[str, ...] | None = None
    by_hand: str = ""
    by_labels: bool = False

    def download(self, origin: Origin, raw: Path) -> None:
        self._places(origin)
        write_json(raw / _FILES, self._described())
        if self.by_labels:
            write_json(raw / "labels.json", origin.labels)

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...] | None:
        return self.classes

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        """Open the archives; what is gone since the download is downloaded again."""
        try:
            described = json.loads((raw / _FILES).read_text())
        except (OSError, ValueError) as error:
            raise unusable(raw, error) from error
        if described != self._described():
            raise unusable(raw, "they are another dataset's")
        paths = dict(zip(described, self._places(origin), strict=True))
        with ExitStack() as stack:
            try:
                archives = {
                    name: stack.enter_context(open_archive(path, origin.downloads))
                    for name, path in paths.items()
                    if name.endswith((".tar", ".zip", *_PACKED))
                }
                dataset = self.read(Opened(archives, paths, stack), origin.labels)
            except (*BROKEN, OSError, KeyError, ValueError) as error:
                raise unusable(raw, repr(error)) from error
            yield dataset

    def _described(self) -> dict[str, str]:
        return {file.name: file.digest for file in sorted(self.files, key=lambda file: file.name)}

    def _places(self, origin: Origin) -> list[Path]:
        """Return where the files are, in the order of their names; missing ones are downloaded, several at a time."""
        files = sorted(self.files, key=lambda file: file.name)
        waiting = f"waiting for another process that downloads to {origin.downloads}"
        with locked(origin.downloads / "lock", wait=None, announce=waiting):  # what one has unpacked it removes
            missing = [file for file in files if not _plain(file, origin).exists()]
            found = dict(zip(missing, fetch(missing, origin, self.by_hand, large=True), strict=True))
            return [_unpacked(file, found[file], origin) if file in found else _plain(file, origin) for file in files]


def split_of(archive: Archive, images: Iterable[tuple[str, int]]) -> RawSplit:
    """Return a split of images in an archive, mixed in a fixed order: any first part of it is a fair sample.

    Args:
        archive: an open one.
        images: name and label of each.

    Returns:
        The split, which decodes one image at a time.

    Raises:
        ValueError: the archive lacks an image; the message names it.
    """
    known, names, labels = archive.members(), list[str](), array("q")
    for name, label in images:
        if name not in known:
            raise ValueError(f"no member {name} in the archive")
        names.append(name)
        labels.append(label)
    if not names:
        raise ValueError("no images in the archive")
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__))
    order = by_name[np.random.default_rng(0).permutation(len(names))]
    mixed = [names[number] for number in order]
    return RawSplit(
        labels=np.array(labels, dtype=np.int64)[order],
        decode=lambda number: decode(archive.read(mixed[number])),
        names=mixed,
    )


def lines(archive: Archive, name: str) -> Iterator[list[str]]:
    """Yield the words of each line of a text in an archive."""
    for line in StringIO(archive.read(name).decode()):
        if line.strip():
            yield line.split()


def _plain(file: RemoteFile, origin: Origin) -> Path:
    """Return the tar that a compressed tar is unpacked to; its name has the hash of what it was made from."""
    return origin.downloads / f"{file.digest.partition(':')[2]}.tar"


def _unpacked(file: RemoteFile, found: Path, origin: Origin) -> Path:
    """Return where a checked file is read: itself, or the tar that takes its place."""
    if not file.name.endswith(_PACKED):
        return found
    plain = plain_tar(found, origin.downloads, _plain(file, origin).name)
    if found.is_relative_to(origin.downloads):
        found.unlink(missing_ok=True)
    return plain
