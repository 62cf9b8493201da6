"""CelebA: 202,599 faces of celebrities, aligned, 178x218, RGB (Liu et al., ICCV 2015).

data.labels says what the classes are: none (as auto does), identity, one attribute such as Smiling (the classes
not_Smiling and Smiling), or several joined by +, such as Male+Smiling. The publisher's split valid counts as train.
"""

from collections.abc import Sequence

from torchvision.datasets import CelebA

from pipeline.errors import UserError, nearest
from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, split_of
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import UNLABELED, RawDataset

_IMAGES, _ATTRIBUTES, _IDENTITIES, _SPLITS = (
    "img_align_celeba.zip",
    "list_attr_celeba.txt",
    "identity_CelebA.txt",
    "list_eval_partition.txt",
)
_MD5 = {name: md5 for _, md5, name in CelebA.file_list}


def _read(opened: Opened, labels: str) -> RawDataset:
    classes, label_of = _labels(opened, labels)
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for name, part in _rows(opened, _SPLITS):
        parts["test" if part == "2" else "train"].append((f"img_align_celeba/{name}", label_of[name]))
    archive = opened.archives[_IMAGES]
    return RawDataset(classes=classes, splits={split: split_of(archive, images) for split, images in parts.items()})


def _labels(opened: Opened, labels: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes, and each image's label."""
    if labels in ("auto", "none"):
        return (UNLABELED,), {name: 0 for name, _ in _rows(opened, _SPLITS)}
    if labels == "identity":
        people = {name: int(person) - 1 for name, person in _rows(opened, _IDENTITIES)}  # from 1 in the file
        return tuple(str(person + 1) for person in range(max(people.values()) + 1)), people
    _, known, *rows = _rows(opened, _ATTRIBUTES)
    chosen = labels.split("+")
    for name in chosen:
        if name not in known:
            raise UserError(f"params.yaml: data.labels: CelebA has no '{name}'. {nearest(name, ['identity', *known])}")
    columns = [1 + known.index(name) for name in chosen]
    return _combinations(chosen), {row[0]: _number(row, columns) for row in rows}


def _combinations(attributes: Sequence[str]) -> tuple[str, ...]:
    names = [""]
    for attribute in attributes:
        names = [f"{name}{'+' if name else ''}{sign}{attribute}" for name in names for sign in ("not_", "")]
    return tuple(names)


def _number(row: Sequence[str], columns: Sequence[int]) -> int:
    """Return the number of a combination of attributes, each -1 or 1."""
    number = 0
    for column in columns:
        number = 2 * number + (row[column] == "1")
    return number


def _rows(opened: Opened, name: str) -> list[list[str]]:
    return [line.split() for line in opened.paths[name].read_text().splitlines() if line.strip()]


SOURCE = ArchivedDataset(
    files=tuple(
        RemoteFile(name=name, urls=(), digest=f"md5:{_MD5[name]}")
        for name in (_IMAGES, _ATTRIBUTES, _IDENTITIES, _SPLITS)
    ),
    read=_read,
    by_labels=True,
    by_hand="CelebA is given for research that is not commercial, from a Google Drive that wants a browser: see "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.",
)
