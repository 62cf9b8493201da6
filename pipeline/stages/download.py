"""Stage download: the source's files to out/raw."""

import shutil
from pathlib import Path

import typer

from pipeline.config import Data, read_params
from pipeline.console import progress
from pipeline.errors import UserError, run
from pipeline.files import atomic_folder, locked, project_root
from pipeline.ingest import sources
from pipeline.ingest.source import Origin
from pipeline.stages.paths import RAW


def main() -> None:
    """Brings the source that data.source names to out/raw, whole and checked.

    If that fails, out/raw stays as it was; what has arrived of an interrupted download is kept in
    <scratch>/downloads, and the next call goes on from there.
    """
    params = read_params()
    partial = project_root() / params.cluster.scratch / "downloads" / params.data.source
    try:
        with locked(partial.with_suffix(".lock")):
            _download(params.data, partial)
    except BlockingIOError:
        raise UserError(f"{partial}: another download of it is under way. Wait for its end, or stop it.") from None


def _download(data: Data, partial: Path) -> None:
    source = sources.find(data.source)
    with progress(in_bytes=data.source != "image_folder") as report, atomic_folder(RAW) as raw:
        source.download(Origin(path=Path(data.path), mirror=_mirror(data.mirror), partial=partial, report=report), raw)
    shutil.rmtree(partial, ignore_errors=True)


def _mirror(mirror: str | None) -> str | None:
    """A relative directory counts from the project's folder, in a temporary workspace of DVC's too."""
    return mirror if mirror is None or "://" in mirror else str(project_root() / mirror)


if __name__ == "__main__":
    run(typer.run, main)
