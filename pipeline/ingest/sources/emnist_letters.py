"""EMNIST letters: 145,600 letters in 26 classes, each of both cases; see _emnist.py."""

from pipeline.ingest.sources._emnist import emnist

SOURCE = emnist("letters")
