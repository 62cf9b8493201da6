"""Oxford 102 Flowers: 8,189 photographs of flowers in 102 classes, 500 pixels and more (Nilsback, Zisserman, 2008).

The publisher's 1,020 images of validation count as train, as there are 6,149 of test. Labels begin at 1 in the file.
"""

from scipy.io import loadmat
from torchvision.datasets import Flowers102

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, split_of
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import RawDataset

_IMAGES, _LABELS, _SPLITS = (
    RemoteFile.at(Flowers102._download_url_prefix + name, md5)
    for name, md5 in (Flowers102._file_dict[part] for part in ("image", "label", "setid"))
)
_PARTS = {"train": ("trnid", "valid"), "test": ("tstid",)}


def _read(opened: Opened, labels: str) -> RawDataset:
    label_of = loadmat(opened.paths[_LABELS.name])["labels"].ravel() - 1
    parts = loadmat(opened.paths[_SPLITS.name])
    splits = {
        split: split_of(
            opened.archives[_IMAGES.name],
            (
                (f"jpg/image_{number:05d}.jpg", int(label_of[number - 1]))
                for name in names
                for number in parts[name].ravel()
            ),
        )
        for split, names in _PARTS.items()
    }
    return RawDataset(classes=SOURCE.classes or (), splits=splits)


SOURCE = ArchivedDataset(files=(_IMAGES, _LABELS, _SPLITS), read=_read, classes=tuple(Flowers102.classes))
