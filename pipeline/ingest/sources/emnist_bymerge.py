"""EMNIST bymerge: 814,255 digits and letters in 47 unequal classes, cases that look alike in one; see _emnist.py."""

from pipeline.ingest.sources._emnist import emnist

SOURCE = emnist("bymerge")
