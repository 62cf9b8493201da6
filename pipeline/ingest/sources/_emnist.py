"""EMNIST: handwritten digits and letters of NIST's, 28x28, gray (Cohen et al., arXiv:1702.05373), in six selections.

The images in the files are transposed: height and width are exchanged, and here put right. All selections are in one
archive; only the chosen one's files are taken from it.
"""

import shutil
import zipfile
from functools import partial
from pathlib import Path

from PIL import Image
from torchvision.datasets import EMNIST
from torchvision.datasets.utils import extract_archive

from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.torchvision_dataset import TorchvisionDataset


def emnist(selection: str) -> TorchvisionDataset:
    """Return the source of a selection of EMNIST's, one of ``EMNIST.splits``."""
    classes = EMNIST.classes_split_dict[selection]
    first = classes.index("a") if selection == "letters" else 0  # the labels of letters begin at 1
    return TorchvisionDataset(
        dataset=EMNIST,
        files=(RemoteFile.at(EMNIST.url, EMNIST.md5),),
        folder="EMNIST/raw",
        splits={"train": {"split": selection, "train": True}, "test": {"split": selection, "train": False}},
        labels=lambda dataset: dataset.targets - first,
        turn=lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        classes=tuple(classes[first:]),
        gray=True,
        unpack=partial(_unpack, selection),
    )


def _unpack(selection: str, found: Path, copy: Path) -> None:
    with zipfile.ZipFile(found) as archive:
        for name in archive.namelist():
            if name.startswith(f"gzip/emnist-{selection}-") and name.endswith("-ubyte.gz"):
                packed = copy.with_name(Path(name).name)
                with archive.open(name) as source, packed.open("wb") as target:
                    shutil.copyfileobj(source, target)
                extract_archive(packed, copy.parent, remove_finished=True)
