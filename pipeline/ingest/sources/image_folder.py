"""A user's own images: ``data.path`` is a directory or a zip archive of class folders.

    <class>/*.png                                a test split is held out later
    train/<class>/*.png and test/<class>/*.png   the splits as given; val, valid and validation count as test

Folders around these are ignored, and so are hidden files and files without an image's suffix. A class folder may have
subfolders. Archives are never unpacked to the disk.
"""

import os
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import UserError
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Report, Source, unusable

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that runs a program, unlike EPS
_HELD_OUT = {"test", "val", "valid", "validation"}
_MOST_BYTES = 256 * 2**20  # of one image file, unpacked
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of the zip format: the same files make the same archive on any day
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # what zipfile raises
_ARCHIVE = "images.zip"


@dataclass(frozen=True)
class Layout:
    """The classes and splits that paths of images make.

    Attributes:
        classes: sorted names.
        splits: by name, path and label of each image, shuffled.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[tuple[str, int], ...]]


@dataclass(frozen=True)
class ImageFolder(Source):
    """Keeps the images in one zip archive: a directory is packed, an archive is copied after a check of all CRCs."""

    def download(self, origin: Origin, raw: Path) -> None:
        if origin.path.is_dir():
            _pack(origin.path, raw / _ARCHIVE, origin.report)
        elif zipfile.is_zipfile(origin.path):
            _verify(origin.path, origin.report)
            shutil.copyfile(origin.path, raw / _ARCHIVE)
        elif origin.path.exists():
            raise UserError(f"params.yaml: data.path: '{origin.path}' is no directory and no whole zip archive.")
        else:
            raise UserError(f"params.yaml: data.path: there is no '{origin.path}'. Name a directory or zip of images.")

    def foreseen_classes(self, path: Path) -> tuple[str, ...]:
        if path.is_dir():
            return layout_of(filter(looks_like_image, files_under(path)), path).classes
        with zipfile.ZipFile(path) as archive:
            return layout_of(images_in(archive), path).classes

    @contextmanager
    def open(self, raw: Path) -> Iterator[RawDataset]:
        try:
            archive = zipfile.ZipFile(raw / _ARCHIVE)
        except (zipfile.BadZipFile, FileNotFoundError) as error:
            raise unusable(raw, error) from error
        with archive, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            layout = layout_of(images_in(archive), raw / _ARCHIVE)
            splits = {name: _split(archive, samples) for name, samples in layout.splits.items()}
            yield RawDataset(classes=layout.classes, splits=splits)


def layout_of(names: Iterable[str], where: Path) -> Layout:
    """Derive classes and splits from the images' paths.

    Args:
        names: relative paths, with slashes.
        where: the directory or archive, for error messages.

    Returns:
        The classes and the splits.

    Raises:
        UserError: there are no images, or their folders make no classes or splits.
    """
    paths = _without_wrapping({name: PurePosixPath(name).parts for name in sorted(names)})
    if not paths:
        raise UserError(f"{where}: no images. Put class folders of images there, such as cats/1.png and dogs/1.png.")
    by_split = _by_split(paths, where)
    for name, parts in (item for split in by_split.values() for item in split.items()):
        if len(parts) < 2:
            raise UserError(f"{where}: '{name}' lies in no class folder. Move it into one, such as images/.")
    classes = {split: {parts[0] for parts in paths.values()} for split, paths in by_split.items()}
    if different := classes["train"] ^ classes.get("test", classes["train"]):
        listed = ", ".join(sorted(different))
        raise UserError(f"{where}: train and test have different classes: {listed}. Give both the same class folders.")
    labels = {name: label for label, name in enumerate(sorted(classes["train"]))}
    splits = {
        split: _mixed([(name, labels[parts[0]]) for name, parts in paths.items()]) for split, paths in by_split.items()
    }
    return Layout(classes=tuple(labels), splits=splits)


def _without_wrapping(paths: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Remove the folders that contain everything else, as in an archive of a single folder."""
    while len({parts[0] for parts in paths.values()}) == 1 and all(len(parts) > 2 for parts in paths.values()):
        if next(iter(paths.values()))[0].lower() in {"train", *_HELD_OUT}:
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    return paths


def _by_split(paths: dict[str, tuple[str, ...]], where: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Group the paths by split, without the split's folder.

    Top folders named like splits are splits if there are no others, or if both train and test are among them.
    """
    folders = {parts[0].lower() for parts in paths.values()}
    others = folders - {"train"} - _HELD_OUT
    if others and not ("train" in folders and folders & _HELD_OUT):
        return {"train": paths}
    if others or "train" not in folders:
        problem = f"'{min(others)}' beside train and test" if others else "a test split and no train"
        raise UserError(f"{where}: {problem}. Have class folders only, or train/ and test/ with class folders in them.")
    splits: dict[str, dict[str, tuple[str, ...]]] = {"train": {}}
    for name, parts in paths.items():
        split = "train" if parts[0].lower() == "train" else "test"
        splits.setdefault(split, {})[name] = parts[1:]
    return splits


def _mixed(samples: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Shuffle in a fixed order, so that any first part of a split is a fair sample of it."""
    return tuple(samples[number] for number in np.random.default_rng(0).permutation(len(samples)))


def looks_like_image(name: str) -> bool:
    """Tell an image that counts by its path: it has a known suffix, and nothing on the way to it is hidden."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
    return name.lower().endswith(SUFFIXES) and not hidden


def images_in(archive: zipfile.ZipFile) -> list[str]:
    """List the members that are images, in the archive's order."""
    return [name for name in archive.namelist() if looks_like_image(name)]


def _pack(folder: Path, target: Path, report: Report) -> None:
    """Pack a directory's images: stored, sorted and without dates, so that equal images make equal archives."""
    names = sorted(name for name in files_under(folder) if looks_like_image(name))
    layout_of(names, folder)
    with zipfile.ZipFile(target, "w") as archive:
        for done, name in enumerate(names, start=1):
            member = zipfile.ZipInfo(name, date_time=_EPOCH)
            member.external_attr = 0o644 << 16
            with (folder / name).open("rb") as image, archive.open(member, "w") as packed:
                shutil.copyfileobj(image, packed)
            report("packing images", done, len(names))


def files_under(folder: Path) -> Iterator[str]:
    """Yield relative paths; follows links, but visits each real directory once."""
    seen: set[str] = set()
    for place, directories, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            directories.clear()
            continue
        seen.add(real)
        yield from ((Path(place) / file).relative_to(folder).as_posix() for file in files)


def _verify(path: Path, report: Report) -> None:
    """Read every image of the archive and compare its CRC."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = images_in(archive)
            layout_of(names, path)
            for done, name in enumerate(names, start=1):
                read_member(archive, name)
                report("checking images", done, len(names))
    except BROKEN as error:
        raise UserError(f"{path}: damaged archive ({error}). Replace it, or name another in data.path.") from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one member, and no more bytes than its header declares."""
    size = archive.getinfo(name).file_size
    if size > _MOST_BYTES:
        raise UserError(f"{archive.filename}: '{name}' has {size} bytes; at most {_MOST_BYTES} are read. Remove it.")
    with archive.open(name) as file:
        return file.read(size + 1)


def _split(archive: zipfile.ZipFile, samples: tuple[tuple[str, int], ...]) -> RawSplit:
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return RawSplit(labels=labels, decode=lambda number: _decoded(archive, samples[number][0]))


def _decoded(archive: zipfile.ZipFile, name: str) -> Image.Image:
    return decode(read_member(archive, name), f"data.path: '{name}'")


def decode(content: bytes, named: str) -> Image.Image:
    """Decode an image file, upright and with 8 bits per channel.

    Args:
        content: the file's bytes.
        named: what the message of an error begins with.

    Returns:
        The image, loaded.

    Raises:
        UserError: it is no image that can be read.
    """
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
        image.load()
        return _eight_bits(ImageOps.exif_transpose(image))
    except Exception as error:  # PIL's decoders raise any exception for a damaged file
        reason = "its content is in no known format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(
            f"{named} is no readable image ({reason}). Replace or remove it and run the command again."
        ) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits, which PIL would clip; ValueError for 32 bits, whose range is unknown."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits, mode {image.mode}; save it with 8 or 16 bits")
    return image


SOURCE = ImageFolder()
