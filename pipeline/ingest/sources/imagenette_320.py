"""Imagenette: 13,394 photographs of ten easy classes of ImageNet's, the shorter side 320 pixels; see _imagenette.py."""

from pipeline.ingest.sources._imagenette import imagenette

SOURCE = imagenette("320px")
