"""Datasets of the Hugging Face hub, from their Parquet files; see parquet_images.py.

data.path is USER/NAME or hf://datasets/USER/NAME, with /FOLDER after it for one of several configurations, and
@REVISION after NAME for another than the newest. Needs the package huggingface_hub. What is listed has the hashes that
the hub states, so a dataset that changes between two stages is noticed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.ingest.listing import read_listing
from pipeline.ingest.parquet_images import ParquetImages
from pipeline.ingest.source import Origin

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.%~-]+)?(/.*)?")
_CONVERTED = "@refs%2Fconvert%2Fparquet"


@dataclass(frozen=True)
class HuggingFace(ParquetImages):
    """Lists and downloads a dataset's Parquet files, and reads them as the source parquet does."""

    def address(self, path: str) -> str:
        return path if "://" in path or not _NAME.fullmatch(path) else f"hf://datasets/{path}"

    def download(self, origin: Origin, raw: Path) -> None:
        assert origin.listing is not None, "a source of the user's own files"
        if not any(self.takes(one.name) for one in read_listing(origin.listing)):
            named = re.match(r"(?:hf://datasets/)?([^/]+/[^/@]+)", origin.paths[0])
            other = f"{named[1] if named else 'USER/NAME'}{_CONVERTED}"
            raise UserError(
                f"params.yaml: data.path: '{origin.paths[0]}' has no Parquet files. The hub keeps a converted copy of "
                f"many datasets: try {other}"
            )
        super().download(origin, raw)


SOURCE = HuggingFace()
