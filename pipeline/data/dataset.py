"""The format of out/data: uint8 shards that memory-map, and spec.json.

    <split>-images-00000.npy   uint8 (n, h, w, c)
    <split>-labels.npy         int64 (n,)
    spec.json                  a description of the images and the hash of their content

Shards are memory-mapped, so a node's memory holds the images once however many workers it has.

spec.json: source; channels; size; normalization (in words); classes (names, by label); splits (by name: count, shards,
class_counts by label); mean and std (per channel, of the train split's pixels in [0, 1]); digest (of
every split's images and labels, in order; independent of how they are cut into shards); paired (true where image i of
the first class is the partner of image i of the second); chosen_of (where data.classes chose some of the source's
classes: how many it has).
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.batch import ImageSpec
from pipeline.errors import UserError
from pipeline.files import atomic_folder, link_or_copy, write_json

SHARD_BYTES = 256 * 2**20
_PIECE_BYTES = 8 * 2**20  # of images to hash at a time


class ImageStore(Protocol):
    """Holds the images of one split, on this node or another."""

    def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8] | Tensor]:
        """Start reading some images; does not block.

        Args:
            rows: the images' numbers, int64 (n,).

        Returns:
            A function that blocks until the images are read and returns them, uint8 (n, h, w, c) in the order of
            ``rows``.
        """
        ...


@dataclass(frozen=True)
class ArrayStore:
    """Images in arrays on this node, in memory or memory-mapped.

    Attributes:
        arrays: uint8 (any, h, w, c) each; images are numbered across them.
    """

    arrays: tuple[NDArray[np.uint8], ...]

    def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8]]:
        """Return a function that reads the images; nothing is read before it is called."""
        return partial(self.read, rows)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images with these numbers, uint8 (n, h, w, c) in the order of ``rows``."""
        if len(self.arrays) == 1:
            return np.asarray(self.arrays[0])[rows]  # without numpy.memmap's own indexing, slower than the reading
        starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        out = np.empty((len(rows), *self.arrays[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(owner):
            chosen = owner == number
            out[chosen] = self.arrays[number][rows[chosen] - starts[number]]
        return out


@dataclass(frozen=True)
class ViewStore:
    """What is computed from each of another store's images, where they are read.

    Attributes:
        of: the images.
        view: uint8 (n, h, w, c) -> the same shape and type.
    """

    of: ImageStore
    view: Callable[[Tensor], Tensor]

    def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], Tensor]:
        """Start reading the images; the returned function blocks and returns their views, uint8 (n, h, w, c)."""
        wait = self.of.prefetch(rows)
        return lambda: self.view(torch.as_tensor(wait()))


@dataclass(frozen=True)
class Split:
    """The images and labels of one split.

    Attributes:
        store: where the images are.
        labels: int64 (n,).
        rows: the numbers in ``store`` of the split's n images; None if they are all of its images, in order.
    """

    store: ImageStore
    labels: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def prefetch(self, indices: Iterable[int] | NDArray[np.int64]) -> Callable[[], Tensor]:
        """Start reading images; the returned function blocks and returns them as ``images`` does."""
        wanted = np.asarray(indices, dtype=np.int64)
        wait = self.store.prefetch(wanted if self.rows is None else self.rows[wanted])
        return lambda: torch.as_tensor(wait()).permute(0, 3, 1, 2)

    def images(self, indices: Iterable[int] | NDArray[np.int64]) -> Tensor:
        """Read images: uint8 (n, c, h, w) in channels-last memory format, in the order of ``indices``."""
        return self.prefetch(indices)()

    def labels_of(self, indices: Iterable[int] | NDArray[np.int64]) -> Tensor:
        """Return the labels of these images, int64 (n,)."""
        return torch.from_numpy(self.labels[np.asarray(indices, dtype=np.int64)])

    def of_class(self, label: int) -> "Split":
        """Return the split of the images that have this label; shares the store."""
        rows = np.flatnonzero(self.labels == label)
        return Split(self.store, self.labels[rows], rows if self.rows is None else self.rows[rows])

    def seen_as(self, view: Callable[[Tensor], Tensor]) -> "Split":
        """Return the split of what is computed from each of these images; shares the store."""
        return replace(self, store=ViewStore(self.store, view))


@dataclass(frozen=True)
class Dataset:
    """An opened dataset.

    Attributes:
        spec: what nets need to know of the images.
        info: the content of spec.json.
        splits: by name; 'train' is always among them.
    """

    spec: ImageSpec
    info: Mapping[str, Any]
    splits: Mapping[str, Split]

    @property
    def digest(self) -> str:
        """Return the hash of all images and labels."""
        return str(self.info["digest"])

    def of_class(self, name: str) -> "Dataset":
        """Return the dataset of the images of one class; KeyError if no class has this name."""
        label = {str(known): number for number, known in enumerate(self.info["classes"])}[name]
        return replace(self, splits={key: split.of_class(label) for key, split in self.splits.items()})

    def seen_as(self, view: Callable[[Tensor], Tensor]) -> "Dataset":
        """Return the dataset of what is computed from each image, uint8 (n, h, w, c) -> the same shape and type."""
        return replace(self, splits={key: split.seen_as(view) for key, split in self.splits.items()})


def is_shard(file: Path) -> bool:
    """Return whether a file of out/data holds images."""
    return "-images-" in file.name


def open_dataset(folder: Path, elsewhere: Callable[[str], ImageStore] | None = None) -> Dataset:
    """Open out/data without reading the images.

    Args:
        folder: holds spec.json, the labels and, unless ``elsewhere`` is given, the image shards.
        elsewhere: split name to the store of its images, for a folder that holds none.

    Returns:
        The dataset; the images of the folder are memory-mapped.

    Raises:
        UserError: the folder holds no readable dataset.
    """
    try:
        info = json.loads((folder / "spec.json").read_text())
        splits = {name: _open_split(folder, name, entry, elsewhere) for name, entry in info["splits"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no readable dataset ({error!r}). Run `dvc repro normalize` to make it.") from error
    spec = ImageSpec(channels=info["channels"], size=info["size"], classes=len(info["classes"]))
    return Dataset(spec=spec, info=info, splits=splits)


def domains(
    dataset: Dataset, names: Sequence[str] | None, views: Mapping[str, Callable[[Tensor], Tensor]]
) -> tuple[Dataset, Dataset | None]:
    """Return the data of a run and its second domain.

    Args:
        dataset: all of the data.
        names: of the first and second domain: two classes or, where these are none, two views; None for a run on all of
            the data.
        views: that the run's method takes, by name.

    Returns:
        The images of both, or all of the data and None. Image i of one view is the partner of image i of the other, and
        so are those of two classes of paired data.
    """
    if names is None:
        return dataset, None
    if are_views(names, dataset.info["classes"], views):
        return dataset.seen_as(views[names[0]]), dataset.seen_as(views[names[1]])
    return dataset.of_class(names[0]), dataset.of_class(names[1])


def are_views(names: Sequence[str], classes: Sequence[object], views: Iterable[str]) -> bool:
    """Tell whether two domains are views of all images; names that are both classes' are classes."""
    return set(names) <= set(views) and not set(names) <= set(map(str, classes))


def _open_split(
    folder: Path, name: str, entry: Mapping[str, Any], elsewhere: Callable[[str], ImageStore] | None
) -> Split:
    labels = np.load(folder / f"{name}-labels.npy", allow_pickle=False)
    if elsewhere:
        return Split(elsewhere(name), labels)
    arrays = tuple(np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in entry["shards"])
    if sum(map(len, arrays)) != len(labels) or len(labels) != entry["count"]:
        raise ValueError(f"{name}: images, labels and spec.json disagree in number")
    return Split(ArrayStore(arrays), labels)


@dataclass(frozen=True)
class NewSplit:
    """A split that is yet to be written.

    Attributes:
        labels: int64 (n,).
        blocks: the n images in order, in blocks of uint8 (any, h, w, c); iterated over once.
        files: in the place of blocks, .npy files of them, each of which becomes a shard: a hard link where possible.
    """

    labels: NDArray[np.int64]
    blocks: Iterable[NDArray[np.uint8]] = ()
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class _WrittenSplit:
    """A split on the disk.

    Attributes:
        shards: file names.
        digest: hash of images and labels.
        histogram: int64 (c, 256), how often each pixel value occurs.
    """

    shards: list[str]
    digest: str
    histogram: NDArray[np.int64]


def write_dataset(
    folder: Path,
    *,
    source: str,
    spec: ImageSpec,
    classes: Iterable[str],
    splits: Mapping[str, NewSplit],
    shard_bytes: int = SHARD_BYTES,
    normalization: str | None = None,
    paired: bool = False,
    chosen_of: int | None = None,
) -> dict[str, Any]:
    """Write out/data from a stream of images, with one block in memory at a time.

    Equal images and labels make equal bytes. If writing fails, the folder stays as it was.

    Args:
        folder: is replaced.
        source: name of the source, for spec.json.
        spec: shape of every image.
        classes: names, by label.
        splits: by name; 'train' must be among them.
        shard_bytes: at most as many bytes of images go into one file; files of a split are taken as they are.
        normalization: what was done to the images, for spec.json.
        paired: whether the two classes are pairs, for spec.json.
        chosen_of: how many classes the source has, if only some are here, for spec.json.

    Returns:
        The content of spec.json.
    """
    with atomic_folder(folder) as temporary:
        written = {name: _write_split(temporary, name, split, spec, shard_bytes) for name, split in splits.items()}
        mean, std = _moments(written["train"].histogram)
        entries = {
            name: {
                "count": len(split.labels),
                "shards": written[name].shards,
                "class_counts": np.bincount(split.labels, minlength=spec.classes).tolist(),
            }
            for name, split in splits.items()
        }
        digests = "".join(f"{name} {written[name].digest}\n" for name in sorted(written))
        info = {"source": source, "channels": spec.channels, "size": spec.size, "classes": list(classes)}
        info |= {"normalization": normalization} if normalization else {}
        info |= {"paired": True} if paired else {}
        info |= {"chosen_of": chosen_of} if chosen_of else {}
        info |= {"splits": entries, "mean": mean, "std": std, "digest": hashlib.sha256(digests.encode()).hexdigest()}
        write_json(temporary / "spec.json", info)
    return info


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy file with plain writes, so that a full disk raises ENOSPC; numpy.save reports only a short write."""
    with new_array(path, array.shape, array.dtype) as file:
        file.write(np.ascontiguousarray(array).data)


def _write_split(folder: Path, name: str, split: NewSplit, spec: ImageSpec, shard_bytes: int) -> _WrittenSplit:
    shape, count = (spec.size, spec.size, spec.channels), len(split.labels)
    digest = hashlib.sha256(json.dumps([count, *shape]).encode())
    histogram = np.zeros((spec.channels, 256), dtype=np.int64)
    files: list[str] = []
    pieces = (
        _taken(folder, name, split.files, files)
        if split.files
        else _written(folder, name, split, spec, shard_bytes, files)
    )
    for piece in pieces:
        digest.update(piece.data)
        histogram += _histogram(piece)
    labels = split.labels.astype("<i8")
    save_array(folder / f"{name}-labels.npy", labels)
    digest.update(labels.data)
    return _WrittenSplit(shards=files, digest=digest.hexdigest(), histogram=histogram)


def _written(
    folder: Path, name: str, split: NewSplit, spec: ImageSpec, shard_bytes: int, files: list[str]
) -> Iterator[NDArray[np.uint8]]:
    """Write the blocks' images to shards, whose names are added to ``files``, and yield them piece by piece."""
    shape, count = (spec.size, spec.size, spec.channels), len(split.labels)
    per_shard = max(1, shard_bytes // math.prod(shape))
    pieces = _cut(split.blocks, per_shard)
    for start in range(0, count, per_shard):
        files.append(_shard_name(name, len(files)))
        length = min(per_shard, count - start)
        with new_array(folder / files[-1], (length, *shape), np.dtype(np.uint8)) as file:
            while length > 0:
                piece = next(pieces)
                length -= len(piece)
                file.write(piece.data)
                yield piece


def _taken(folder: Path, name: str, made: Sequence[Path], files: list[str]) -> Iterator[NDArray[np.uint8]]:
    """Make files shards, whose names are added to ``files``, and yield their images piece by piece."""
    for source in made:
        files.append(_shard_name(name, len(files)))
        link_or_copy(source, folder / files[-1])
        array = np.load(source, mmap_mode="r", allow_pickle=False)
        step = max(1, _PIECE_BYTES // math.prod(array.shape[1:]))
        yield from (np.ascontiguousarray(array[start : start + step]) for start in range(0, len(array), step))


def _shard_name(split: str, number: int) -> str:
    return f"{split}-images-{number:05d}.npy"


def _cut(blocks: Iterable[NDArray[np.uint8]], per_shard: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the blocks' images in order, in pieces that end where a shard does."""
    position = 0
    for block in blocks:
        while len(block):
            room = per_shard - position % per_shard
            piece, block = np.ascontiguousarray(block[:room]), block[room:]
            position += len(piece)
            yield piece


def new_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> BinaryIO:
    """Create a .npy file of this shape and return it open after the header."""
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def _histogram(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each channel has each value: int64 (c, 256)."""
    channels = [np.ascontiguousarray(images[..., number]) for number in range(images.shape[-1])]
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])


def _moments(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Compute each channel's mean and standard deviation in [0, 1] from integer sums: exact on every machine."""
    values = np.arange(256)
    count = histogram.sum(axis=1)
    mean = histogram @ values / count
    variance = histogram @ values**2 / count - mean**2
    return (mean / 255).tolist(), (np.sqrt(variance.clip(min=0)) / 255).tolist()
