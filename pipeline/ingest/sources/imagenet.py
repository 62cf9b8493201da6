"""ImageNet-1k: 1,331,167 photographs in a thousand classes, of any size, RGB (Russakovsky et al., IJCV 2015).

Its archives may be downloaded only with an account, for research, so they come from a folder of one's own. The archive
of train holds one tar for each class. The publisher's 50,000 images of validation are the test split. Classes are
sorted by their WordNet names, as everywhere but in the publisher's own numbers.
"""

from contextlib import closing
from io import BytesIO

from scipy.io import loadmat
from torchvision.datasets.imagenet import ARCHIVE_META

from pipeline.ingest.archived_dataset import ArchivedDataset, Opened, lines, split_of
from pipeline.ingest.archives import Member, Tar, members_of
from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.source import RawDataset

_TRAIN, _TEST, _DEVKIT = (
    RemoteFile(name=name, urls=(), digest=f"md5:{md5}")
    for name, md5 in (ARCHIVE_META[part] for part in ("train", "val", "devkit"))
)
_FOLDER = "ILSVRC2012_devkit_t12/data"


def _read(opened: Opened, labels: str) -> RawDataset:
    devkit = opened.archives[_DEVKIT.name]
    synsets = loadmat(BytesIO(devkit.read(f"{_FOLDER}/meta.mat")), squeeze_me=True)["synsets"]
    leaves = {int(row["ILSVRC2012_ID"]): row for row in synsets if row["num_children"] == 0}
    wordnet = sorted(str(row["WNID"]) for row in leaves.values())
    label_of = {name: label for label, name in enumerate(wordnet)}
    words = {str(row["WNID"]): str(row["words"]).split(", ")[0] for row in leaves.values()}
    truth = lines(devkit, f"{_FOLDER}/ILSVRC2012_validation_ground_truth.txt")
    test = opened.archives[_TEST.name]
    answers = [label_of[str(leaves[int(row[0])]["WNID"])] for row in truth]
    train = opened.archives[_TRAIN.name]
    assert isinstance(train, Tar)
    images = Tar(train.path, (member for name in wordnet for member in _inside(train, name)))
    opened.closing.enter_context(closing(images))
    return RawDataset(
        classes=tuple(f"{words[name]} ({name})" for name in wordnet),  # two of them are called crane
        splits={
            "train": split_of(images, ((name, label_of[name.partition("_")[0]]) for name in images.members())),
            "test": split_of(test, zip(sorted(test.members()), answers, strict=True)),
        },
    )


def _inside(train: Tar, wordnet: str) -> list[Member]:
    start = train.offsets[train.numbers[f"{wordnet}.tar"]]
    return list(members_of(train.path, start))


SOURCE = ArchivedDataset(
    files=(_TRAIN, _TEST, _DEVKIT),
    read=_read,
    by_hand="ImageNet is given for research, to whoever has an account at https://image-net.org: get it there. "
    "(If you have it as class folders, choose data.source: image_folder.)",
)
