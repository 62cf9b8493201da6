"""STL-10's 100,000 photographs without labels, 96x96, RGB; see _stl10.py."""

from pipeline.ingest.sources._stl10 import stl10

SOURCE = stl10(with_labels=False)
