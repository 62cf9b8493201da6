"""Stage download: the source's files to out/raw."""

from pathlib import Path

import typer

from pipeline.config import read_params
from pipeline.console import progress
from pipeline.errors import run
from pipeline.files import atomic_folder, project_root
from pipeline.ingest import sources
from pipeline.ingest.source import Origin
from pipeline.stages.paths import RAW


def main() -> None:
    """Download the files of data.source to out/raw, complete and checked.

    If that fails, out/raw stays as it was. Downloaded files, complete ones and parts, are kept in <scratch>/downloads,
    where the next call finds them.
    """
    params = read_params()
    data, root = params.data, project_root()
    source = sources.find(data.source)
    # A relative directory counts from the project's folder, also in a temporary workspace of DVC's.
    mirror = data.mirror if data.mirror is None or "://" in data.mirror else str(root / data.mirror)
    downloads = root / params.cluster.scratch / "downloads" / data.source
    with progress(in_bytes=data.source != "image_folder") as report, atomic_folder(RAW) as raw:
        source.download(Origin(path=Path(data.path), mirror=mirror, downloads=downloads, report=report), raw)


if __name__ == "__main__":
    run(typer.run, main)
