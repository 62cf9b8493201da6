"""CycleGAN's sets of two domains without pairs, 256x256, RGB (Zhu, Park, Isola and Efros, ICCV 2017, arXiv:1703.10593).

A set is a zip of the folders trainA, trainB, testA and testB. The publisher gives no hashes: these are TensorFlow
Datasets'. Of a run's ``domains`` the first is translated to the second.
"""

from functools import partial
from pathlib import PurePosixPath

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, split_of
from pipeline.ingest.decode import SUFFIXES
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import RawDataset

_URLS = (
    "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets",
    "https://people.eecs.berkeley.edu/~taesung_park/CycleGAN/datasets",
)


def cyclegan_set(name: str, domains: tuple[str, str], sha256: str) -> ArchivedDataset:
    """Return the source of one of the sets.

    Args:
        name: of the zip, and of the folder in it.
        domains: what A and B show.
        sha256: of the zip.

    Returns:
        The source, with the domains as its classes.
    """
    file = RemoteFile(name=f"{name}.zip", urls=_URLS, digest=f"sha256:{sha256}")
    return ArchivedDataset(files=(file,), read=partial(_read, file.name, domains), classes=domains)


def _read(name: str, domains: tuple[str, str], opened: Opened, labels: str) -> RawDataset:
    archive = opened.archives[name]
    images: dict[str, list[str]] = {f"{split}{letter}": [] for split in ("train", "test") for letter in "AB"}
    for member in archive.members():
        path = PurePosixPath(member)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            images[path.parent.name].append(member)
    splits = {
        split: split_of(
            archive, ((image, label) for label, letter in enumerate("AB") for image in images[split + letter])
        )
        for split in ("train", "test")
    }
    return RawDataset(classes=domains, splits=splits)
