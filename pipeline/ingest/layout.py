"""Which class and split each image of a folder or archive belongs to, by its path or by a table of labels.

    <class>/*.png                                a test split is held out later
    train/<class>/*.png and test/<class>/*.png   the splits as given; val, valid and validation count as test
    *.png, train/*.png and test/*.png            no classes
    trainA/ trainB/ testA/ testB/                two domains, the classes A and B
    00000/img00000000.png                        StyleGAN's folders are no classes

Folders around these are ignored. An image whose place fits nothing is left out with a reason; the layout as a whole is
refused only where it contradicts itself.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.errors import UserError
from pipeline.ingest.labels import Table
from pipeline.ingest.source import UNLABELED, LeftOut

_TEST = {"test", "val", "valid", "validation"}
DOMAIN = re.compile(r"(train|test|val|valid|validation)[-_]?([AB])", re.IGNORECASE)  # a folder of one of two domains
_BUCKET, _BUCKETED = re.compile(r"\d{5}"), re.compile(r"img\d{8}\.\w+")
TEST_ALONE = "its class is in test alone"  # of what is left out for it the detail is the class
_Paths = dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The classes and splits of images.

    Attributes:
        classes: names, by label.
        labels: by the image's name, its label.
        splits: by the image's name, 'train' or 'test'; all are 'train' if there are no splits.
        left_out: images that have no place in these.
    """

    classes: tuple[str, ...]
    labels: Mapping[str, int]
    splits: Mapping[str, str]
    left_out: tuple[LeftOut, ...] = ()


def arrange(names: Iterable[str], where: str, labels: str, table: Table | None) -> Layout:
    """Find the class and the split of images.

    Args:
        names: relative paths, with slashes.
        where: the folder or archive, for messages.
        labels: 'auto': folders where there are any; 'folders'; 'none': one class; with a table it is not looked at.
        table: labels from a file, which then decide in the place of folders.

    Returns:
        The layout.

    Raises:
        UserError: there are no images, or train and test contradict each other.
    """
    paths = _without_wrapping({name: PurePosixPath(name).parts for name in sorted(names)})
    if not paths:
        raise UserError(f"{where}: no images. Put images there, such as cats/1.png and dogs/1.png, or 1.png alone.")
    splits, rest, left_out = _splits(paths)
    if table is not None:
        return _by_table(splits, rest, left_out, table, where)
    flat = {name for name, parts in rest.items() if len(parts) < 2}
    if labels == "none" or (labels == "auto" and (len(flat) == len(rest) or _is_bucketed(rest))):
        return Layout(classes=(UNLABELED,), labels=dict.fromkeys(rest, 0), splits=splits, left_out=tuple(left_out))
    if len(flat) == len(rest):
        raise UserError(f"{where}: data.labels is folders, but no image lies in a class folder. Set data.labels: none.")
    _refuse_flat_split(splits, flat, where)
    left_out += [LeftOut(name=name, kind="in no class folder") for name in sorted(flat)]
    classes = sorted({rest[name][0] for name in rest if splits[name] == "train" and name not in flat})
    if not classes:
        raise UserError(f"{where}: a test split and no train. Name its folder train/, or have class folders only.")
    number = {name: label for label, name in enumerate(classes)}
    unknown = {name for name in rest.keys() - flat if rest[name][0] not in number}
    left_out += [LeftOut(name=name, kind=TEST_ALONE, detail=rest[name][0]) for name in sorted(unknown)]
    return Layout(
        classes=tuple(classes),
        labels={name: number[parts[0]] for name, parts in rest.items() if name not in flat | unknown},
        splits=splits,
        left_out=tuple(left_out),
    )


def _without_wrapping(paths: _Paths) -> _Paths:
    """Remove the folders that contain everything else, as in an archive of a single folder."""
    while len({parts[0] for parts in paths.values()}) == 1 and all(len(parts) > 2 for parts in paths.values()):
        if next(iter(paths.values()))[0].lower() in {"train", *_TEST}:
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    return paths


def _splits(paths: _Paths) -> tuple[dict[str, str], _Paths, list[LeftOut]]:
    """Return each image's split, and the paths without the splits' folders.

    Top folders named like splits are splits if there are no others, or if both train and test are among them; then what
    lies beside them is left out.
    """
    top = {parts[0] for parts in paths.values() if len(parts) > 1}
    if top and all(DOMAIN.fullmatch(name) for name in top):
        return _domains(paths)
    folders = {name.lower() for name in top}
    others = folders - {"train"} - _TEST
    if not folders or (others and not ("train" in folders and folders & _TEST)):
        return dict.fromkeys(paths, "train"), dict(paths), []
    splits, rest, left_out = {}, {}, []
    for name, parts in paths.items():
        folder = parts[0].lower()
        if len(parts) < 2 or (folder != "train" and folder not in _TEST):
            left_out.append(LeftOut(name=name, kind="beside the folders train and test"))
        else:
            splits[name], rest[name] = "train" if folder == "train" else "test", parts[1:]
    return splits, rest, left_out


def _domains(paths: _Paths) -> tuple[dict[str, str], _Paths, list[LeftOut]]:
    """Read trainA, trainB, testA and testB as the classes A and B of two splits."""
    splits, rest, left_out = {}, {}, []
    for name, parts in paths.items():
        found = DOMAIN.fullmatch(parts[0]) if len(parts) > 1 else None
        if found is None:
            left_out.append(LeftOut(name=name, kind="beside the folders of the two domains"))
            continue
        splits[name] = "train" if found[1].lower() == "train" else "test"
        rest[name] = (found[2].upper(), *parts[1:])
    return splits, rest, left_out


def _is_bucketed(paths: _Paths) -> bool:
    """Tell StyleGAN's folders, which hold a thousand images each whatever is in them."""
    return all(
        len(parts) == 2 and _BUCKET.fullmatch(parts[0]) and _BUCKETED.fullmatch(parts[1]) for parts in paths.values()
    )


def _refuse_flat_split(splits: Mapping[str, str], flat: set[str], where: str) -> None:
    """Refuse splits of which one has class folders and the other has none."""
    counts = Counter(splits.values())
    for split, other in (("train", "test"), ("test", "train")):
        if counts[split] and counts[split] == sum(splits[name] == split for name in flat):
            raise UserError(
                f"{where}: the images of {split}/ lie in no class folders, those of {other}/ do. Move them into the "
                "same class folders, or set data.labels: none to train without classes."
            )


def _by_table(splits: dict[str, str], rest: _Paths, left_out: list[LeftOut], table: Table, where: str) -> Layout:
    """Take labels, and splits where the table has them, from a table; images that it lacks are left out."""
    found = {name: entry for name in rest if (entry := table.find(name)) is not None}
    if not found:
        raise UserError(
            f"{where}: {table.name} names none of the images, such as '{min(rest)}'. Give paths relative to its folder."
        )
    classes = table.classes([entry.label for entry in found.values()])
    number = {name: label for label, name in enumerate(classes)}
    left_out += [LeftOut(name=name, kind=f"not in {table.name}") for name in sorted(rest.keys() - found.keys())]
    return Layout(
        classes=tuple(classes),
        labels={name: number[entry.label] for name, entry in found.items()},
        splits={name: entry.split or splits[name] for name, entry in found.items()},
        left_out=tuple(left_out),
    )
