"""Parquet files with a column of images, such as those of Hugging Face's datasets; see parquet_images.py.

data.path names them, or their folder, a pattern or a URL. data.labels names the column of labels; auto finds it.
"""

from pipeline.ingest.parquet_images import ParquetImages

SOURCE = ParquetImages()
