"""Imagenette: 13,394 photographs of ten easy classes of ImageNet's, in their own sizes; see _imagenette.py."""

from pipeline.ingest.sources._imagenette import imagenette

SOURCE = imagenette("full")
