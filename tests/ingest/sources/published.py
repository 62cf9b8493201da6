"""Small files in the formats of the datasets' publishers, and the sources that expect them."""

import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from toy_data import origin

from pipeline.files import atomic_folder
from pipeline.ingest import sources
from pipeline.ingest.listing import write_listing
from pipeline.ingest.originals import list_files
from pipeline.ingest.source import Origin, RawDataset, RawSplit

RNG = np.random.default_rng


def idx_bytes(array: NDArray[Any]) -> bytes:
    """In MNIST's format, big-endian."""
    kinds = {"uint8": 8, "int32": 12}
    header = struct.pack(f">{1 + array.ndim}I", kinds[array.dtype.name] << 8 | array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def picture(seed: int, size: tuple[int, int] = (12, 9)) -> NDArray[np.uint8]:
    """A small image (h, w, c) unlike any other, of which no flip or turn is the same."""
    return RNG(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def as_file(image: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(shade: int) -> bytes:
    return as_file(np.full((9, 12, 3), shade, dtype=np.uint8), "JPEG", quality=95)


def tar_bytes(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def expecting(source: Any, folder: Path) -> Any:
    """The source, for which the files in the folder are the published ones."""
    files = tuple(
        replace(file, digest=f"md5:{hashlib.md5((folder / file.name).read_bytes()).hexdigest()}", content=None)
        for file in source.files
    )
    return replace(source, files=files)


@contextmanager
def opened(source: Any, tmp_path: Path, mirror: Path | None, labels: str = "auto") -> Iterator[RawDataset]:
    """What the source makes of the mirror's files."""
    given = origin(tmp_path, mirror, labels=labels)
    with atomic_folder(tmp_path / "raw") as raw:
        source.download(given, raw)
    with source.open(tmp_path / "raw", given) as dataset:
        yield dataset


def images_of(split: RawSplit) -> list[NDArray[np.uint8]]:
    return [np.asarray(split.decode(number)) for number in range(len(split.labels))]


def shades(split: RawSplit) -> dict[int, int]:
    """By the mean shade of each image, its label."""
    return {round(float(image.mean())): int(label) for image, label in zip(images_of(split), split.labels, strict=True)}


FILES = Path(__file__).parent / "files"  # made by make.py there, by the formats' own libraries


def own_origin(source: Any, tmp_path: Path, *paths: str | Path, labels: str = "auto") -> Origin:
    """Where a source of one's own finds its files, listed as the stage does it."""
    given = Origin(
        paths=tuple(source.address(str(path)) for path in paths),
        folder=tmp_path,
        listing=tmp_path / "listing.csv",
        labels=labels,
        downloads=tmp_path / "downloads",
    )
    write_listing(tmp_path / "listing.csv", list_files(given.paths, tmp_path, tmp_path / "hashes.sqlite"))
    return given


@contextmanager
def opened_own(name: str, tmp_path: Path, *paths: str | Path, labels: str = "auto") -> Iterator[RawDataset]:
    """What a source of one's own makes of what lies at the paths."""
    source = sources.find(name)
    given = own_origin(source, tmp_path, *paths, labels=labels)
    with atomic_folder(tmp_path / "raw") as raw:
        source.download(given, raw)
    with source.open(tmp_path / "raw", given) as dataset:
        yield dataset


def named(split: RawSplit) -> dict[str, int]:
    """By the name of each image, its label."""
    return {split.name(number): int(label) for number, label in enumerate(split.labels)}


def left_out(dataset: RawDataset) -> dict[str, str]:
    """By the name of what is left out, why."""
    return {one.name: one.kind for one in dataset.left_out}
