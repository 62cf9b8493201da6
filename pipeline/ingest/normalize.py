"""Normalization of images to what training takes: square, of one size, gray or RGB, uint8.

In this order: colours are brought to sRGB by the image's colour profile; transparency is blended with the background;
colours become gray (ITU-R 601-2 luma, PIL's 'L') or RGB; the image is made square (``fit``) and resized with PIL's
antialiased bicubic filter, which Parmar et al., "On aliased resizing and surprising subtleties in GAN evaluation", CVPR
2022, recommend. An image that has the size already keeps its pixels. Pixels are scaled to [-1, 1] later, one batch at a
time, on the device.

An image that can't be read is left out and written down in quarantine.csv.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import NewSplit, write_dataset
from pipeline.errors import UserError
from pipeline.files import atomic_folder, write_csv
from pipeline.ingest.decode import in_srgb
from pipeline.ingest.shards import Made, Make, Work, make_shards
from pipeline.ingest.source import LeftOut, RawDataset, RawSplit, Report, silent

logger = logging.getLogger(__name__)
FITS = ("crop", "pad", "stretch")
QUARANTINE, ABOUT = "quarantine.csv", "images.csv"
_CUT = 0.5  # share of an image whose loss is worth a word


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What is done to each image.

    Attributes:
        channels: 1 for gray, 3 for RGB.
        size: height and width in pixels.
        fit: crop: the central square; pad: the whole image on a square of the background; stretch: to a square.
        background: colour behind transparent and padded images, as PIL's ImageColor reads it.
        profile: srgb: apply colour profiles; keep: ignore them.
    """

    channels: int
    size: int
    fit: str = "crop"
    background: str = "white"
    profile: str = "srgb"

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Convert an image in any 8-bit PIL mode to uint8 (size, size, channels)."""
        image = in_srgb(image) if self.profile == "srgb" else image
        image, mode = _opaque(image, self.background), "L" if self.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)  # which would copy it
        square = _square(image, self.fit, self.background)
        resized = square.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(resized).reshape(self.size, self.size, self.channels)

    def __str__(self) -> str:
        """Say in one line what was done, for protocols."""
        parts = [
            f"{self.fit}",
            "antialiased bicubic (Pillow)",
            f"{self.size} px",
            "gray" if self.channels == 1 else "RGB",
        ]
        return ", ".join([*parts, f"on {self.background}", "sRGB" if self.profile == "srgb" else "profiles ignored"])


def to_square(image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
    """Convert an image in any 8-bit PIL mode to uint8 (size, size, channels), with the defaults of Normalization."""
    return Normalization(channels=channels, size=size)(image)


def _opaque(image: Image.Image, background: str) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _colour(background, "RGB")), image)


def _square(image: Image.Image, fit: str, background: str) -> Image.Image:
    if fit == "stretch" or image.width == image.height:
        return image
    if fit == "pad":
        side = max(image.size)
        square = Image.new(image.mode, (side, side), _colour(background, image.mode))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _colour(name: str, mode: str) -> Any:
    return ImageColor.getcolor(name, mode)


def hold_out(labels: NDArray[np.int64], fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the samples of a test split of a published dataset; deterministic and stratified.

    Args:
        labels: int64 (n,).
        fraction: of each class's k samples round(fraction * k) are held out, at least 1 if k > 1 and never all.

    Returns:
        The numbers of the samples to train on and of those held out, both ascending.
    """
    rng = np.random.default_rng(0)
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held.append(members[: min(max(round(fraction * len(members)), 1), len(members) - 1)])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def hold_out_by_content(digests: Sequence[str], fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the samples of a test split by their content alone: images that are added move none of the others.

    Args:
        digests: hex SHA-256 of each image. Copies of one image fall into the same split.
        fraction: chance of each image to be held out; at least one is, and at least one is not, if there are two
            different images.

    Returns:
        The numbers of the samples to train on and of those held out, both ascending.
    """
    place = np.array([int(digest[:13], 16) / 16**13 for digest in digests])
    held = place < fraction
    if not held.any():
        held = place == place.min()
    if held.all():
        held = place != place.max()
    return np.flatnonzero(~held), np.flatnonzero(held)


def with_test_split(raw: RawDataset, fraction: float) -> Mapping[str, RawSplit]:
    """Return the publisher's splits; hold out a test split if there is none.

    Args:
        raw: the dataset as published.
        fraction: how much to hold out.

    Returns:
        'train' and 'test'.

    Raises:
        UserError: no image can be held out.
    """
    if "test" in raw.splits:
        return raw.splits
    whole = raw.splits["train"]
    train, test = hold_out_by_content(whole.digests, fraction) if whole.digests else hold_out(whole.labels, fraction)
    if not len(test):
        raise UserError("data.path: no image can be held out for a test split. Add images, or a test/ folder.")
    return {"train": whole.take(train), "test": whole.take(test)}


def normalize(
    raw: RawDataset,
    folder: Path,
    about: Path,
    normalization: Normalization,
    *,
    source: str,
    test_fraction: float,
    most_bad: float = 0.01,
    work: Work,
    report: Report = silent,
    elsewhere: Callable[[Make], Make] = lambda here: here,
) -> dict[str, Any]:
    """Normalize all images and write them in the format of data/dataset.py.

    Args:
        raw: the dataset as published.
        folder: is replaced when all is written.
        about: is replaced by a folder of what people want to know: images.csv, quarantine.csv.
        normalization: what is done to each image.
        source: the source's name, for spec.json.
        test_fraction: how much to hold out if there is no test split.
        most_bad: share of all images that may be left out.
        work: where finished shards are kept, so that killed work goes on and equal shards are not made again.
        report: called with the progress.
        elsewhere: see ``shards.make_shards``.

    Returns:
        The content of spec.json.

    Raises:
        UserError: more images than ``most_bad`` can't be used, or none is left.
    """
    spec = ImageSpec(channels=normalization.channels, size=normalization.size, classes=len(raw.classes))
    quarantine = work.folder / QUARANTINE
    if "train" not in raw.splits:
        refuse_too_many(raw.left_out, len(raw.left_out), 0.0, quarantine)
    splits = with_test_split(raw, test_fraction)
    with work.locked(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd tags and large images
        made = make_shards(splits, normalization, spec, work, report, elsewhere)
        left_out = _check(made, raw.left_out, most_bad, normalization, quarantine)
        new = {name: NewSplit(labels=split.labels, files=split.files) for name, split in made.items()}
        known: dict[str, Any] = {"source": source, "normalization": str(normalization), "paired": raw.paired}
        known |= {"classes": raw.classes, "chosen_of": raw.chosen_of}
        info = write_dataset(folder, spec=spec, splits=new, **known)
        work.clear(file for split in made.values() for file in split.files)
    _write_about(about, made, left_out)
    return info


def _check(
    made: Mapping[str, Made],
    before: Sequence[LeftOut],
    most_bad: float,
    normalization: Normalization,
    quarantine: Path,
) -> list[LeftOut]:
    """Return what is left out, by name, after a word of it; UserError if it is too much, or a whole split."""
    if empty := [split for split in made.values() if not split.files]:
        refuse_too_many(empty[0].left_out, len(empty[0].left_out), 0.0, quarantine)
    left_out = sorted([*before, *(one for split in made.values() for one in split.left_out)], key=_by_name)
    total = len(left_out) + sum(len(split.labels) for split in made.values())
    refuse_too_many(left_out, total, most_bad, quarantine)
    _warn(left_out, total, made.values(), normalization)
    return left_out


def refuse_too_many(left_out: Sequence[LeftOut], total: int, most: float, path: Path) -> None:
    """Raise UserError with a summary of kinds if more than a share ``most`` of all images is left out.

    Args:
        left_out: the images.
        total: of all images, with these.
        most: share that may be left out.
        path: where the list of them is written then.

    Raises:
        UserError: they are too many.
    """
    if total and len(left_out) <= most * total and len(left_out) < total:
        return
    write_left_out(path, left_out)
    raise UserError(
        f"params.yaml: data.max_bad_fraction: {len(left_out)} of {total} images can't be used: {summary(left_out)}. "
        f"All are listed in {path}. Mend or remove them, or raise data.max_bad_fraction to train without them."
    )


def summary(left_out: Iterable[LeftOut]) -> str:
    """Count images that are left out by kind, each with one of them: "3 damaged (a/1.png, ...)"."""
    left_out = list(left_out)
    first: dict[str, str] = {}
    for one in left_out:
        first.setdefault(one.kind, one.name)
    counts = Counter(one.kind for one in left_out).most_common()
    return ", ".join(f"{count} {kind} ({first[kind]}{', ...' if count > 1 else ''})" for kind, count in counts)


def write_left_out(path: Path, left_out: Iterable[LeftOut]) -> None:
    """Write quarantine.csv: name, kind, detail."""
    columns = ("name", "kind", "detail")
    write_csv(path, columns, map(attrgetter(*columns), left_out))


def _by_name(one: LeftOut) -> str:
    return one.name


def _warn(left_out: Sequence[LeftOut], total: int, made: Iterable[Made], normalization: Normalization) -> None:
    """Say in the terminal what is left out, and how much of the images is cut away."""
    if left_out:
        logger.warning("%d of %d images are left out: %s", len(left_out), total, summary(left_out))
    sizes = np.concatenate([split.sizes for split in made])
    cut = 1 - sizes.min(axis=1) / sizes.max(axis=1)
    if normalization.fit == "crop" and (many := int((cut > _CUT).sum())):
        logger.warning(
            "of %d images more than half is cut away to make them square; data.fit: pad or stretch keeps all of it",
            many,
        )


def _write_about(folder: Path, made: Mapping[str, Made], left_out: Iterable[LeftOut]) -> None:
    """Write quarantine.csv, and images.csv: split, number, name, label, width and height as they were, file's hash."""
    rows = (
        (name, number, image, label, width, height, digest)
        for name, split in made.items()
        for number, (image, label, (width, height), digest) in enumerate(
            zip(split.names, split.labels, split.sizes, split.digests, strict=True)
        )
    )
    with atomic_folder(folder) as temporary:
        write_left_out(temporary / QUARANTINE, left_out)
        write_csv(temporary / ABOUT, ("split", "number", "name", "label", "width", "height", "sha256"), rows)
