"""Places365-Standard: 1,839,960 photographs of places in 365 classes, 256x256, RGB (Zhou et al., TPAMI 2018).

The publisher's 36,500 images of validation are the test split: the labels of test are not published.
"""

from torchvision.datasets import Places365

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, lines, split_of
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import RawDataset

_LISTS, _TRAIN, _TEST = (
    RemoteFile.at(Places365._BASE_URL + name, md5)
    for name, md5 in (
        Places365._DEVKIT_META["standard"],
        Places365._IMAGES_META["train-standard", True],
        Places365._IMAGES_META["val", True],
    )
)
_SPLITS = {"train": (_TRAIN, "train-standard", "data_256"), "test": (_TEST, "val", "val_256/")}


def _read(opened: Opened, labels: str) -> RawDataset:
    lists = opened.archives[_LISTS.name]
    classes = {int(number): name for name, number in lines(lists, Places365._CATEGORIES_META[0])}
    splits = {
        split: split_of(
            opened.archives[file.name],
            ((before + name, int(label)) for name, label in lines(lists, Places365._FILE_LIST_META[part][0])),
        )
        for split, (file, part, before) in _SPLITS.items()
    }
    return RawDataset(classes=tuple(classes[label][3:] for label in range(len(classes))), splits=splits)


SOURCE = ArchivedDataset(files=(_LISTS, _TRAIN, _TEST), read=_read)
