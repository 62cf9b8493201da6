"""EMNIST mnist: 70,000 digits, made as MNIST was; see _emnist.py."""

from pipeline.ingest.sources._emnist import emnist

SOURCE = emnist("mnist")
