"""Pairs of images of one's own, for methods that translate the first of each into the second: a run's ``domains``.

    side by side            data.path is one folder or archive of images of twice the width, the first image on the left
                            (Isola et al., arXiv:1611.07004: train/ val/ test/, flat); the domains are A and B
    trainA/ trainB/ ...     or A/ and B/: files of the same name, whatever their suffixes, are a pair
    two paths               likewise, the domains named as the paths are

An image and its partner stand or fall together: both are held out or neither is, and both are left out if one of them
cannot be read.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.ingest.layout import DOMAIN
from pipeline.ingest.source import Origin, RawDataset, RawSplit, Source, UnreadableError
from pipeline.ingest.sources.image_folder import SOURCE as IMAGE_FOLDER
from pipeline.ingest.sources.unpaired import LETTERS
from pipeline.ingest.sources.unpaired import SOURCE as UNPAIRED

_PLACE = 13  # digits of a hash by which a test split is held out (normalize.hold_out_by_content)
_NAMED = 5  # files that a message names

Decode = Callable[[int], Image.Image]


@dataclass(frozen=True)
class _Pair:
    """Two images: how to decode each, by 0 and 1, what people call the pair, and a hash of both."""

    name: str
    decode: Decode
    sha256: str


@dataclass(frozen=True)
class Paired(Source):
    """Leaves the images to the source of folders, and brings each together with its partner."""

    own: ClassVar[bool] = True
    paired: ClassVar[bool] = True

    def download(self, origin: Origin, raw: Path) -> None:
        if len(origin.paths) > len(LETTERS):
            raise UserError(
                f"params.yaml: data.path: {len(origin.paths)} paths. Name one, or two whose files pair by name."
            )
        _images_of(origin).download(origin, raw)
        with self.open(raw, origin):  # says which files have no partner
            pass

    def foreseen_classes(self, origin: Origin) -> tuple[str, ...] | None:
        return UNPAIRED.foreseen_classes(origin)

    @contextmanager
    def open(self, raw: Path, origin: Origin) -> Iterator[RawDataset]:
        with ExitStack() as stack:
            found = stack.enter_context(_images_of(origin).open(raw, origin))
            by_name = len(origin.paths) == len(LETTERS) or [name.upper() for name in found.classes] == list(LETTERS)
            classes = found.classes if len(origin.paths) == len(LETTERS) else LETTERS
            where = ", ".join(origin.paths)
            pairs = _by_name(found, classes, where) if by_name else _side_by_side(found)
            splits = {name: _split(chosen) for name, chosen in pairs.items() if chosen}
            left_out = tuple(replace(one, of=None) for one in found.left_out)  # an image of both, or with a partner
            yield RawDataset(classes=classes, splits=splits, left_out=left_out, paired=True)


def _images_of(origin: Origin) -> Source:
    return UNPAIRED if len(origin.paths) == len(LETTERS) else IMAGE_FOLDER


def _side_by_side(found: RawDataset) -> Mapping[str, Sequence[_Pair]]:
    """Take each image for two, beside each other."""

    def half(split: RawSplit, number: int, side: int) -> Image.Image:
        image = split.decode(number)
        width, height = image.size
        if width % 2 or width <= height:
            raise UnreadableError("not two images side by side", f"{width} x {height}")
        return image.crop((side * width // 2, 0, (side + 1) * width // 2, height))

    return {
        name: [
            _Pair(split.name(number), partial(half, split, number), _digest(split, number))
            for number in range(len(split.labels))
        ]
        for name, split in found.splits.items()
    }


def _by_name(found: RawDataset, classes: Sequence[str], where: str) -> Mapping[str, Sequence[_Pair]]:
    """Bring the files of two classes together by their names.

    Args:
        found: the images, with the number of the domain as label.
        classes: what the domains are called.
        where: they lie, for messages.

    Returns:
        The pairs of each split.

    Raises:
        UserError: a file has no partner, or two.
    """
    pairs: dict[str, list[_Pair]] = {}
    lonely: list[str] = []
    for name, split in found.splits.items():
        sides: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for number, label in enumerate(split.labels.tolist()):
            key = _key(split.name(number))
            if key in sides[label]:
                twice = f"{split.name(sides[label][key])} and {split.name(number)}"
                raise UserError(f"{where}: {twice} pair with the same image. Keep one of them.")
            sides[label][key] = number
        both = sorted(sides[0].keys() & sides[1].keys())
        pairs[name] = [_pair(split, sides[0][key], sides[1][key]) for key in both]
        for label, side in enumerate(sides):
            lonely += [f"{split.name(side[key])} (not in {classes[1 - label]})" for key in sorted(side.keys() - both)]
    if lonely:
        some = ", ".join(lonely[:_NAMED]) + (", ..." if len(lonely) > _NAMED else "")
        raise UserError(
            f"{where}: {len(lonely)} images have no partner of their name: {some}. Add or remove files until each "
            "name is in both."
        )
    return pairs


def _key(name: str) -> str:
    """Return a file's name without suffix and the folder that says its domain: trainA/1.png, A/1.jpg -> 1."""
    parts = PurePosixPath(name).with_suffix("").parts
    domain = next(
        (place for place, part in enumerate(parts[:-1]) if DOMAIN.fullmatch(part) or part.upper() in LETTERS), -1
    )
    return "/".join(parts[domain + 1 :])


def _pair(split: RawSplit, first: int, second: int) -> _Pair:
    def decode(side: int) -> Image.Image:
        images = []
        for number in (first, second):
            try:
                images.append(split.decode(number))
            except UnreadableError as error:
                raise UnreadableError(error.kind, f"{split.name(number)}: {error.detail}".rstrip(": ")) from error
        return images[side]

    return _Pair(_key(split.name(first)), decode, _hash(_digest(split, first) + _digest(split, second)))


def _split(pairs: Sequence[_Pair]) -> RawSplit:
    """Return all first images, then all second ones, each with the number of its domain as its label.

    A pair's two hashes begin alike, so both or neither are held out, and end differently, so no two shards are taken
    for one. Their names differ at the beginning alone, so both domains are sorted alike.
    """
    count = len(pairs)
    return RawSplit(
        labels=np.repeat(np.arange(2, dtype=np.int64), count),
        decode=lambda number: pairs[number % count].decode(number // count),
        names=[f"{letter}/{pair.name}" for letter in LETTERS for pair in pairs],
        digests=[pair.sha256[:_PLACE] + _hash(pair.sha256 + letter)[_PLACE:] for letter in LETTERS for pair in pairs],
    )


def _digest(split: RawSplit, number: int) -> str:
    assert split.digests is not None, "a user's own images have hashes"
    return split.digests[number]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


SOURCE = Paired()
