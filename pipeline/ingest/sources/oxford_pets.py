"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs in 37 breeds, of any size, RGB (Parkhi et al., CVPR 2012).

Labels begin at 1 in the files. Some of the files named .jpg are of other formats.
"""

from torchvision.datasets import OxfordIIITPet

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, lines, split_of
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import RawDataset

_IMAGES, _ANNOTATIONS = (RemoteFile.at(url, md5) for url, md5 in OxfordIIITPet._RESOURCES)
_LISTS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}


def _read(opened: Opened, labels: str) -> RawDataset:
    breeds: dict[int, str] = {}
    splits = {}
    for split, name in _LISTS.items():
        rows = list(lines(opened.archives[_ANNOTATIONS.name], name))
        breeds |= {int(row[1]) - 1: row[0].rpartition("_")[0].replace("_", " ").title() for row in rows}
        splits[split] = split_of(
            opened.archives[_IMAGES.name], ((f"images/{row[0]}.jpg", int(row[1]) - 1) for row in rows)
        )
    return RawDataset(classes=tuple(breeds[label] for label in range(len(breeds))), splits=splits)


SOURCE = ArchivedDataset(files=(_IMAGES, _ANNOTATIONS), read=_read)
