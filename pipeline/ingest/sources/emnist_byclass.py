"""EMNIST byclass: 814,255 digits and letters in 62 classes, very unequal; see _emnist.py."""

from pipeline.ingest.sources._emnist import emnist

SOURCE = emnist("byclass")
