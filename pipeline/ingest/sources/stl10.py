"""STL-10: 13,000 photographs in ten classes, 96x96, RGB; see _stl10.py."""

from pipeline.ingest.sources._stl10 import stl10

SOURCE = stl10(with_labels=True)
