"""Images in NumPy's .npz archives, as MedMNIST, dSprites, ImageNet32 and many scripts write them.

    train_images, train_labels, val_..., test_...   MedMNIST; val counts as test
    x_train, y_train, x_test, y_test                Keras
    imgs, latents_classes                           dSprites: pixels 0 and 1; classes are the shapes, or the factor that
                                                    data.labels names: shape, scale, orientation, posX, posY
    data, labels                                    ImageNet32 and 64: planar rows; labels from 1, in an order of theirs
    images, labels; arr_0, arr_1                    anything else

Pixels are uint8 or bool; (n, h, w), (n, h, w, c) or (n, c, h, w). Pickles are never opened. Arrays that are not
compressed are memory-mapped in their place, others are decompressed once, in the folder for downloads.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError, nearest
from pipeline.ingest.npz_arrays import NpzArrays
from pipeline.ingest.packed_images import Index, PackedImages, Reader

_PAIRS = {  # array of images: array of labels, split
    "train_images": ("train_labels", "train"),
    "val_images": ("val_labels", "test"),
    "test_images": ("test_labels", "test"),
    "x_train": ("y_train", "train"),
    "x_test": ("y_test", "test"),
    "imgs": ("latents_classes", ""),
    "data": ("labels", ""),
    "images": ("labels", ""),
    "arr_0": ("arr_1", ""),
}
_FACTORS = ("color", "shape", "scale", "orientation", "posX", "posY")  # columns of latents_classes
_SHAPES = ("square", "ellipse", "heart")
_CHANNELS = (1, 3, 4)
_ROWS = 4096  # to look at at a time


@dataclass(frozen=True)
class Npz(PackedImages):
    """Memory-maps the arrays."""

    suffixes: ClassVar[tuple[str, ...]] = (".npz",)

    def index(self, file: Path, labels: str, scratch: Path) -> Index:
        arrays, index = NpzArrays(file, scratch), Index()
        found = _found(arrays)
        if not found:
            listed = ", ".join(sorted(arrays.names))
            raise UserError(f"its arrays are {listed}; images are looked for in {', '.join(_PAIRS)}.")
        for number, name in found.items():
            images, (labelled, split) = _shaped(name, arrays.read(name)), _PAIRS[name]
            scale = 255 if _is_binary(images) else 1
            texts = [""] * len(images)
            if labelled in arrays.names and labels != "none":
                texts = _labels(name, arrays.read(labelled), labels, index)
            if len(texts) != len(images):
                raise UserError(f"{len(images)} images in {name}, and {len(texts)} labels in {labelled}.")
            for row, image in enumerate(images):
                digest = hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
                index.add(f"{name}/{row:08}", digest, texts[row], (number, row, scale), split)
        return index

    def reader(self, file: Path, scratch: Path, stack: ExitStack) -> Reader:
        arrays = NpzArrays(file, scratch)
        images = {number: _shaped(name, arrays.read(name)) for number, name in _found(arrays).items()}

        def read(place: Sequence[int]) -> tuple[memoryview, Callable[[], Image.Image]]:
            number, row, scale = place
            pixels = np.ascontiguousarray(images[number][row])
            return pixels.data, partial(_image, pixels, scale)

        return read


def _image(pixels: NDArray[Any], scale: int) -> Image.Image:
    pixels = pixels.astype(np.uint8) * np.uint8(scale)
    if pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    gray = pixels.ndim == 3 and pixels.shape[2] == 1
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels))


def _found(arrays: NpzArrays) -> dict[int, str]:
    """Return the arrays of images by their number in _PAIRS."""
    return {number: name for number, name in enumerate(_PAIRS) if name in arrays.names}


def _shaped(name: str, images: NDArray[Any]) -> NDArray[Any]:
    """Return images as (n, h, w), (n, h, w, c) or (n, c, h, w); UserError if they are none."""
    if images.dtype not in (np.uint8, np.bool_):
        raise UserError(f"{name} is of {images.dtype}. Save pixels as uint8, 0 to 255.")
    if images.ndim == 2:  # a row for each image, planar if it has colours
        columns = images.shape[1]
        side, gray = isqrt(columns // 3), isqrt(columns)
        if columns == 3 * side * side:
            return images.reshape(-1, 3, side, side)
        if columns == gray * gray:
            return images.reshape(-1, gray, gray)
    coloured = images.ndim == 4 and (images.shape[3] in _CHANNELS or images.shape[1] in _CHANNELS)
    if images.ndim == 3 or coloured:
        return images
    raise UserError(f"{name} has the shape {images.shape}, which is not that of images, such as (n, h, w, 3).")


def _is_binary(images: NDArray[Any]) -> bool:
    """Tell images whose pixels are 0 and 1."""
    blocks = (images[start : start + _ROWS] for start in range(0, len(images), _ROWS))
    return all(block.max(initial=0) <= 1 for block in blocks)


def _labels(images: str, values: NDArray[Any], labels: str, index: Index) -> list[str]:
    """Return the name of each image's class."""
    if images == "imgs":
        return _factor(values, labels, index)
    if values.ndim == 2 and values.shape[1] > 1:
        if not ((values == 0) | (values == 1)).all() or not (values.sum(axis=1) == 1).all():
            raise UserError("an image has several labels in it. Set data.labels: none.")
        values = values.argmax(axis=1)
    values = values.reshape(len(values), -1)[:, 0]
    if images == "data" and values.min(initial=1) >= 1:
        values = values - 1
    if np.issubdtype(values.dtype, np.floating) and (values == values.astype(np.int64)).all():
        values = values.astype(np.int64)
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]


def _factor(values: NDArray[Any], labels: str, index: Index) -> list[str]:
    name = "shape" if labels in ("auto", "folders") else labels
    if name not in _FACTORS:
        raise UserError(f"params.yaml: data.labels: no factor '{name}'. {nearest(name, _FACTORS)}")
    column = values[:, _FACTORS.index(name)].tolist()
    if name != "shape":
        return [str(value) for value in column]
    index.classes = list(_SHAPES)
    return [_SHAPES[value] for value in column]


SOURCE = Npz()
