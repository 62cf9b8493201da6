"""EMNIST digits: 280,000 digits in ten balanced classes; see _emnist.py."""

from pipeline.ingest.sources._emnist import emnist

SOURCE = emnist("digits")
