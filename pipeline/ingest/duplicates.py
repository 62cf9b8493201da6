"""Images that are there twice, equal or nearly so: across train and test they falsify FID, memorization and bits/dim.

Two normalized images are near duplicates if their pixels' correlation is at least NEAR; it does not notice another
brightness or contrast, and noise or a new compression little. Mirrored, turned and shifted copies are not found.
Candidates are found by the correlation of reduced gray images, of all pairs up to ALL_PAIRS images; of more, those of a
test image and a training image. Equal images are found whatever their number.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset, Split
from pipeline.ingest.source import Report, silent

NEAR = 0.99
ALL_PAIRS = 100_000  # images; below, 10^10 multiplications of 64 numbers take half a minute on two cores
_REDUCED = 8  # pixels, height and width
_CANDIDATE = 0.97  # correlation of reduced images
_BLOCK = 2048  # images at a time
_MOST = 2_000_000  # candidates that are compared in full
_FLAT = 1.0  # standard deviation, in levels of 255, below which an image has no pattern to compare


class Image(NamedTuple):
    """An image of a dataset: its split and its number in it."""

    split: str
    number: int


@dataclass(frozen=True)
class Pair:
    """Two images that are the same picture; equal if all of their pixels are."""

    first: Image
    second: Image
    correlation: float
    equal: bool

    @property
    def across(self) -> bool:
        """Return whether they lie in different splits."""
        return self.first.split != self.second.split


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        pairs: each image with the first one that it repeats, across splits first.
        all_compared: whether every two images were compared; otherwise only test images with training images.
        cut: whether there were more candidates than are compared.
    """

    pairs: tuple[Pair, ...]
    all_compared: bool
    cut: bool

    def across(self, split: str) -> int:
        """Count the images of a split that have a duplicate in another one."""
        found = {image for pair in self.pairs if pair.across for image in (pair.first, pair.second)}
        return sum(image.split == split for image in found)


def find_duplicates(dataset: Dataset, report: Report = silent) -> Duplicates:
    """Find the equal and nearly equal images of a dataset.

    Args:
        dataset: its images are read in order, some at a time.
        report: called with the progress.

    Returns:
        The pairs.
    """
    order = sorted(dataset.splits, key=lambda name: name != "test")  # the smaller one first
    images = [Image(name, number) for name in order for number in range(len(dataset.splits[name]))]
    vectors, hashes = _vectors(dataset, order, report)
    pairs = {(pair.first, pair.second): pair for pair in _equal(images, hashes)}
    vectors[_repeated(images, hashes)] = 0  # each is compared with others as the first of its kind
    every = len(images) <= ALL_PAIRS
    tests = len(dataset.splits["test"]) if "test" in dataset.splits else 0
    cut = False
    compared: int = 0
    for rows, columns in _candidates(vectors, len(images) if every else tests, report):
        room = _MOST - compared
        cut = cut or len(rows) > room
        rows, columns = rows[:room], columns[:room]
        compared += len(rows)
        for row, column, correlation in _verified(dataset, images, rows, columns):
            first, second = images[row], images[column]
            pairs.setdefault((first, second), Pair(first, second, correlation, equal=False))
    found = sorted(pairs.values(), key=lambda pair: (not pair.across, -pair.correlation, pair.first, pair.second))
    return Duplicates(tuple(found), every, cut)


def _vectors(dataset: Dataset, order: Sequence[str], report: Report) -> tuple[NDArray[np.float32], list[bytes]]:
    """Return each image's reduced gray pixels, of mean 0 and length 1 (or all 0), and a hash of its pixels."""
    size = min(_REDUCED, dataset.spec.size)
    total = sum(len(dataset.splits[name]) for name in order)
    vectors = np.zeros((total, size * size), dtype=np.float32)
    hashes: list[bytes] = []
    for name in order:
        split = dataset.splits[name]
        for start in range(0, len(split), _BLOCK):
            images = _read(split, range(start, min(start + _BLOCK, len(split))))
            place = slice(len(hashes), len(hashes) + len(images))
            hashes += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
            vectors[place] = _unit(_reduced(images.mean(axis=3), size).reshape(len(images), -1))
            report("looking for duplicates", len(hashes), 2 * total)
    return vectors, hashes


def _read(split: Split, rows: range | NDArray[np.int64]) -> NDArray[np.uint8]:
    return split.images(rows).permute(0, 2, 3, 1).contiguous().numpy()


def _reduced(gray: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """Average blocks of gray images (n, s, s) to (n, size, size); what is left at the border is dropped."""
    step = gray.shape[1] // size
    cut = gray[:, : step * size, : step * size]
    return cut.reshape(len(gray), size, step, size, step).mean(axis=(2, 4), dtype=np.float32)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Subtract each row's mean and divide by its length; a row without a pattern becomes 0."""
    centred = (vectors - vectors.mean(axis=1, keepdims=True)).astype(np.float32)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    flat = length < _FLAT * np.sqrt(vectors.shape[1])
    return np.where(flat, 0, centred / np.where(flat, 1, length)).astype(np.float32)


def _equal(images: Sequence[Image], hashes: Sequence[bytes]) -> Iterator[Pair]:
    """Pair each image with the first that has all of its pixels, and with the first of another split that has."""
    first: dict[bytes, list[Image]] = defaultdict(list)
    for image, key in zip(images, hashes, strict=True):
        for other in first[key]:
            yield Pair(other, image, 1.0, equal=True)
        if image.split not in {other.split for other in first[key]}:
            first[key].append(image)


def _repeated(images: Sequence[Image], hashes: Sequence[bytes]) -> list[int]:
    """Return the places of images that have an equal one before them in their own split."""
    seen: set[tuple[str, bytes]] = set()
    places = []
    for place, (image, key) in enumerate(zip(images, hashes, strict=True)):
        if (image.split, key) in seen:
            places.append(place)
        seen.add((image.split, key))
    return places


def _candidates(
    vectors: NDArray[np.float32], rows: int, report: Report
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of numbers, the smaller first, of the first ``rows`` images and all that come after each."""
    for start in range(0, rows, _BLOCK):
        block = vectors[start : min(start + _BLOCK, rows)]
        found_rows, found_columns = [], []
        for column in range(start, len(vectors), 8 * _BLOCK):
            near = block @ vectors[column : column + 8 * _BLOCK].T >= _CANDIDATE
            first, second = np.nonzero(near)
            found_rows.append(first + start)
            found_columns.append(second + column)
        first, second = np.concatenate(found_rows), np.concatenate(found_columns)
        later = second > first
        yield first[later], second[later]
        report("looking for duplicates", rows + min(start + _BLOCK, rows), 2 * rows)


def _verified(
    dataset: Dataset, images: Sequence[Image], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> Iterator[tuple[int, int, float]]:
    """Yield the candidates whose full pixels correlate, with the correlation."""
    for start in range(0, len(rows), _BLOCK):
        first, second = rows[start : start + _BLOCK], columns[start : start + _BLOCK]
        correlation = (_full(dataset, images, first) * _full(dataset, images, second)).sum(axis=1)
        for place in np.flatnonzero(correlation >= NEAR):
            yield int(first[place]), int(second[place]), float(min(correlation[place], 1.0))


def _full(dataset: Dataset, images: Sequence[Image], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return all pixels of images, in any order, of mean 0 and length 1: float32 (n, pixels)."""
    spec = dataset.spec
    pixels = np.empty((len(numbers), spec.size * spec.size * spec.channels), dtype=np.float32)
    for name, split in dataset.splits.items():
        places = [place for place, number in enumerate(numbers) if images[number].split == name]
        if places:
            rows = np.array([images[numbers[place]].number for place in places], dtype=np.int64)
            pixels[places] = _read(split, rows).reshape(len(places), -1)
    return _unit(pixels)
