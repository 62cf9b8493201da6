"""The format of out/data: uint8 shards that memory-map, and spec.json.

    <split>-images-00000.npy   uint8 (n, h, w, c)
    <split>-labels.npy         int64 (n,)
    spec.json                  what the images are, and the hash of what they contain

Memory-mapped, so that however many workers a node has, the images are in its memory once.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.batch import ImageSpec
from pipeline.errors import UserError


@dataclass(frozen=True)
class Split:
    """One split's images and labels, read where they lie."""

    shards: tuple[NDArray[np.uint8], ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Iterable[int] | NDArray[np.int64]) -> Tensor:
        """(n, c, h, w) uint8 in channels-last memory, in the order asked for."""
        wanted = np.asarray(indices, dtype=np.int64)
        starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        owner = np.searchsorted(starts, wanted, side="right") - 1
        out = np.empty((len(wanted), *self.shards[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(owner):
            rows = owner == number
            out[rows] = self.shards[number][wanted[rows] - starts[number]]
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def labels_of(self, indices: Iterable[int] | NDArray[np.int64]) -> Tensor:
        """(n,) int64."""
        return torch.from_numpy(self.labels[np.asarray(indices, dtype=np.int64)])


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


def open_dataset(folder: Path) -> Dataset:
    """Opens out/data without reading the images."""
    try:
        info = json.loads((folder / "spec.json").read_text())
        splits = {name: _open_split(folder, name, entry) for name, entry in info["splits"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no readable dataset ({error!r}). Run `dvc repro normalize` to make it.") from error
    spec = ImageSpec(channels=info["channels"], size=info["size"], classes=len(info["classes"]))
    return Dataset(spec=spec, info=info, splits=splits)


def _open_split(folder: Path, name: str, entry: Mapping[str, Any]) -> Split:
    shards = tuple(np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in entry["shards"])
    labels = np.load(folder / f"{name}-labels.npy", allow_pickle=False)
    if sum(len(shard) for shard in shards) != len(labels) or len(labels) != entry["count"]:
        raise ValueError(f"{name}: images, labels and spec.json disagree in number")
    return Split(shards=shards, labels=labels)
