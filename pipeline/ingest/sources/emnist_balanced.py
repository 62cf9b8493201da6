"""EMNIST balanced: 131,600 digits and letters in 47 balanced classes, cases that look alike in one; see _emnist.py."""

from pipeline.ingest.sources._emnist import emnist

SOURCE = emnist("balanced")
