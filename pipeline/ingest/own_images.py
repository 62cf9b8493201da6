"""A person's own images for a trained model: loose files, folders, zip and tar archives, normalized as training's were.

The order is that of the paths given; within a folder or an archive, that of the relative paths, sorted by their
characters. Archives are never unpacked to the disk.
"""

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.batch import ImageSpec
from pipeline.errors import UserError
from pipeline.ingest.archives import Archive, is_archive, open_archive
from pipeline.ingest.decode import decode
from pipeline.ingest.listing import files_at, regular_problem
from pipeline.ingest.normalize import to_square
from pipeline.ingest.source import UnreadableError
from pipeline.ingest.sources.image_folder import looks_like_image

_MOST_THREADS = 8


@dataclass(frozen=True)
class OwnImages:
    """Images that were found, not yet read.

    Attributes:
        names: relative paths with slashes, each once; none leads out of a folder.
        read: by number, the bytes of the image's file; may be called from several threads at once.
        paths: by number, where it is, for messages.
    """

    names: tuple[str, ...]
    read: tuple[Callable[[], bytes], ...]
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, spec: ImageSpec, batch_size: int, numbers: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Decode and normalize images, in order.

        Args:
            spec: channels and size that the model takes.
            batch_size: images at a time.
            numbers: of the images; None for all.

        Yields:
            uint8 (n, c, h, w).

        Raises:
            UserError: a file is no readable image.
        """
        chosen = range(len(self)) if numbers is None else numbers
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
            for start in range(0, len(chosen), batch_size):
                images = list(pool.map(partial(self._square, spec), chosen[start : start + batch_size]))
                yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    def _square(self, spec: ImageSpec, number: int) -> NDArray[np.uint8]:
        try:
            return to_square(decode(self.read[number]()), spec.channels, spec.size)
        except UnreadableError as error:
            raise UserError(
                f"'{self.paths[number]}' is no readable image ({error}). Replace it or leave it out."
            ) from error


@contextmanager
def open_images(paths: Sequence[Path]) -> Iterator[OwnImages]:
    """Find the images of files, folders and archives.

    Args:
        paths: in the order that is wanted. The names are relative to a single folder or archive; of several paths
            they are relative to the folder that has all of them in it.

    Yields:
        The images; archives are closed when the block ends.

    Raises:
        UserError: a path does not exist, is of no known kind or holds no image, or two images have one name.
    """
    found: list[tuple[str, Callable[[], bytes], str]] = []
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd tags and large images
        for path, before in zip(paths, _prefixes(paths), strict=True):
            inside = list(_images_at(path, stack))
            if not inside:
                raise UserError(f"{path}: no images. Name image files, or a folder or zip archive of them.")
            found += [((before / name).as_posix(), read, where) for name, read, where in inside]
        counts = Counter(name for name, _, _ in found)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise UserError(f"'{twice[0]}' is among the images twice. Name each path once.")
        names, read, where = (tuple(column) for column in zip(*found, strict=True))
        yield OwnImages(names, read, where)


def _prefixes(paths: Sequence[Path]) -> list[PurePosixPath]:
    """Return what stands before the names of each path's images, so that those of several paths differ."""
    if len(paths) == 1:
        return [PurePosixPath()]
    whole = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (no link is followed)
    shared = os.path.commonpath([path.parent for path in whole])
    relative = [PurePosixPath(path.relative_to(shared).as_posix()) for path in whole]
    return [
        name if path.is_dir() else name.with_suffix("") if is_archive(path) else name.parent
        for path, name in zip(paths, relative, strict=True)
    ]


def _images_at(path: Path, stack: ExitStack) -> Iterator[tuple[str, Callable[[], bytes], str]]:
    """Yield name, reader and place of the images of one path."""
    if path.is_dir():
        for name in filter(looks_like_image, (name for name, _ in files_at(path))):
            yield name, partial(_read, path / name), str(path / name)
    elif is_archive(path) or path.suffix.lower() in (".zip", ".tar"):
        archive = stack.enter_context(open_archive(path, Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        for name in sorted(filter(looks_like_image, archive.members())):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise UserError(f"{path}: its member '{name}' leads out of the archive's folder. Remove it.")
            yield name, partial(_member, archive, name, path), f"{path}/{name}"
    elif path.is_file():
        yield path.name, path.read_bytes, str(path)
    else:
        raise UserError(f"{path}: there is no such file or folder. Name image files, folders or archives of them.")


def _read(path: Path) -> bytes:
    if problem := regular_problem(path):
        raise UnreadableError(problem)
    return path.read_bytes()


def _member(archive: Archive, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except UnreadableError as error:
        raise UserError(f"{path}: its member '{name}' is damaged ({error}). Replace the archive.") from error
