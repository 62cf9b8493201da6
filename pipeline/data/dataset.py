"""The format of out/data: uint8 shards that memory-map, and spec.json.

    <split>-images-00000.npy   uint8 (n, h, w, c)
    <split>-labels.npy         int64 (n,)
    spec.json                  what the images are, and the hash of what they contain

Memory-mapped, so that however many workers a node has, the images are in its memory once.

spec.json: source; channels; size; classes (names, by label); splits (by name: count, shards, and
class_counts by label); mean and std (per channel, of the train split's pixels in [0, 1]); digest (of
every split's images and labels, in order, however they are cut into shards).
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
from pipeline.files import atomic_folder, write_json

SHARD_BYTES = 256 * 2**20


class Source(Protocol):
    """Where a split's images are."""

    def ask(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8]]:
        """For images by their numbers (n,); what it returns waits for them: (n, h, w, c) in the order asked for."""
        ...


@dataclass(frozen=True)
class Stored:
    """Images in memory or memory-mapped: (any, h, w, c) each, numbered through."""

    arrays: tuple[NDArray[np.uint8], ...]

    def ask(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8]]:
        """Reads when it is called."""
        return partial(self.read, rows)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, h, w, c), in the order asked for."""
        starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        out = np.empty((len(rows), *self.arrays[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(owner):
            chosen = owner == number
            out[chosen] = self.arrays[number][rows[chosen] - starts[number]]
        return out


@dataclass(frozen=True)
class Split:
    """One split's images and labels; rows: which of the source's images, if not all."""

    source: Source
    labels: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def ask(self, indices: Iterable[int] | NDArray[np.int64]) -> Callable[[], Tensor]:
        """For images that will be needed soon; what it returns waits for them and is as ``images``."""
        wanted = np.asarray(indices, dtype=np.int64)
        wait = self.source.ask(wanted if self.rows is None else self.rows[wanted])
        return lambda: torch.from_numpy(wait()).permute(0, 3, 1, 2)

    def images(self, indices: Iterable[int] | NDArray[np.int64]) -> Tensor:
        """(n, c, h, w) uint8 in channels-last memory, in the order asked for."""
        return self.ask(indices)()

    def labels_of(self, indices: Iterable[int] | NDArray[np.int64]) -> Tensor:
        """(n,) int64."""
        return torch.from_numpy(self.labels[np.asarray(indices, dtype=np.int64)])

    def of_class(self, label: int) -> "Split":
        """The images of one class, not copied."""
        rows = np.flatnonzero(self.labels == label)
        return Split(self.source, self.labels[rows], rows if self.rows is None else self.rows[rows])


@dataclass(frozen=True)
class Dataset:
    """spec: the shape that nets need; info: all of spec.json; splits by name."""

    spec: ImageSpec
    info: Mapping[str, Any]
    splits: Mapping[str, Split]

    @property
    def digest(self) -> str:
        """Hash of the images' and labels' content."""
        return str(self.info["digest"])

    def of_class(self, name: str) -> "Dataset":
        """The same with the images of one class alone; KeyError where no class has that name."""
        label = {str(known): number for number, known in enumerate(self.info["classes"])}[name]
        return replace(self, splits={key: split.of_class(label) for key, split in self.splits.items()})


def is_shard(file: Path) -> bool:
    """Whether a file of the folder holds images."""
    return "-images-" in file.name


def open_dataset(folder: Path, elsewhere: Callable[[str], Source] | None = None) -> Dataset:
    """Opens out/data without reading the images; where a split's are, by its name, if they are not in the folder."""
    try:
        info = json.loads((folder / "spec.json").read_text())
        splits = {name: _open_split(folder, name, entry, elsewhere) for name, entry in info["splits"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no readable dataset ({error!r}). Run `dvc repro normalize` to make it.") from error
    spec = ImageSpec(channels=info["channels"], size=info["size"], classes=len(info["classes"]))
    return Dataset(spec=spec, info=info, splits=splits)


def domains(dataset: Dataset, names: Sequence[str] | None) -> tuple[Dataset, Dataset | None]:
    """What a run trains on: all of the data, or the images of one class and, as a second domain, of another."""
    return (dataset, None) if names is None else (dataset.of_class(names[0]), dataset.of_class(names[1]))


def _open_split(folder: Path, name: str, entry: Mapping[str, Any], elsewhere: Callable[[str], Source] | None) -> Split:
    labels = np.load(folder / f"{name}-labels.npy", allow_pickle=False)
    if elsewhere:
        return Split(elsewhere(name), labels)
    arrays = tuple(np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in entry["shards"])
    if sum(map(len, arrays)) != len(labels) or len(labels) != entry["count"]:
        raise ValueError(f"{name}: images, labels and spec.json disagree in number")
    return Split(Stored(arrays), labels)


@dataclass(frozen=True)
class Unwritten:
    """One split on its way to the disk: labels (n,) int64, and its n images in blocks (any, h, w, c) of uint8."""

    labels: NDArray[np.int64]
    blocks: Iterable[NDArray[np.uint8]]


@dataclass(frozen=True)
class _Written:
    """shards: file names; digest: of images and labels; histogram: (c, 256), how often each value occurs."""

    shards: list[str]
    digest: str
    histogram: NDArray[np.int64]


def write_dataset(
    folder: Path,
    *,
    source: str,
    spec: ImageSpec,
    classes: Iterable[str],
    splits: Mapping[str, Unwritten],
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Makes out/data of a stream of images, a block in memory at a time, and returns what spec.json says.

    ``splits`` has a 'train'. The folder is complete or absent, and the same bytes for the same images.
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
        info |= {"splits": entries, "mean": mean, "std": std, "digest": hashlib.sha256(digests.encode()).hexdigest()}
        write_json(temporary / "spec.json", info)
    return info


def save_array(path: Path, array: NDArray[Any]) -> None:
    """A .npy file by plain writes: numpy's own tell nobody that the disk is full, only that they stopped."""
    with _new_array(path, array.shape, array.dtype) as file:
        file.write(np.ascontiguousarray(array).data)


def _write_split(folder: Path, name: str, split: Unwritten, spec: ImageSpec, shard_bytes: int) -> _Written:
    shape, count = (spec.size, spec.size, spec.channels), len(split.labels)
    digest = hashlib.sha256(json.dumps([count, *shape]).encode())
    histogram = np.zeros((spec.channels, 256), dtype=np.int64)
    per_shard = max(1, shard_bytes // math.prod(shape))
    pieces = _cut(split.blocks, per_shard)
    files: list[str] = []
    for start in range(0, count, per_shard):
        files.append(f"{name}-images-{len(files):05d}.npy")
        length = min(per_shard, count - start)
        with _new_array(folder / files[-1], (length, *shape), np.dtype(np.uint8)) as file:
            while length > 0:
                piece = next(pieces)
                length -= len(piece)
                file.write(piece.data)
                digest.update(piece.data)
                histogram += _histogram(piece)
    labels = split.labels.astype("<i8")
    save_array(folder / f"{name}-labels.npy", labels)
    digest.update(labels.data)
    return _Written(shards=files, digest=digest.hexdigest(), histogram=histogram)


def _cut(blocks: Iterable[NDArray[np.uint8]], per_shard: int) -> Iterator[NDArray[np.uint8]]:
    """The blocks' images in order, in pieces of which none goes beyond its shard."""
    position = 0
    for block in blocks:
        while len(block):
            room = per_shard - position % per_shard
            piece, block = np.ascontiguousarray(block[:room]), block[room:]
            position += len(piece)
            yield piece


def _new_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> BinaryIO:
    """A .npy file of that shape, open behind its header for the array's bytes."""
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def _histogram(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(c, 256): how often each channel has each value."""
    channels = np.moveaxis(images, -1, 0)
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])


def _moments(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1], from sums of integers, so alike everywhere."""
    values = np.arange(256)
    count = histogram.sum(axis=1)
    mean = histogram @ values / count
    variance = histogram @ values**2 / count - mean**2
    return (mean / 255).tolist(), (np.sqrt(variance.clip(min=0)) / 255).tolist()
