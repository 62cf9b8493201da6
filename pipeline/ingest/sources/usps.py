"""USPS: 9,298 digits from envelopes, 16x16, gray (Hull, "A database for handwritten text recognition research", 1994).

The files are LIBSVM's text, compressed with bzip2; their labels are 1 to 10, for the digits 0 to 9.
"""

from torchvision.datasets import USPS

from pipeline.ingest.remote_file import RemoteFile
from pipeline.ingest.torchvision_dataset import TorchvisionDataset

SOURCE = TorchvisionDataset(
    dataset=USPS,
    files=tuple(RemoteFile.at(url, md5) for url, _, md5 in USPS.split_list.values()),
    classes=tuple("0123456789"),
    gray=True,
)
