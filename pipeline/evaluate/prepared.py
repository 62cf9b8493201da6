"""What the stage `extractors` leaves in two small folders, for the stages that read them.

out/extractors/<extractor>.safetensors    the weights of one that learns from the data
out/statistics/<extractor>.npz            statistics of others (evaluate.statistics), checked
files.json in both                        sha256 of each file of evaluate.path in use, by name
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError, refuse
from pipeline.files import sha256_of, write_json

HASHES = "files.json"


def write_hashes(folder: Path, path: Path, names: Iterable[str]) -> None:
    """Write the hashes of people's own files.

    Args:
        folder: out/extractors or out/statistics.
        path: where they lie.
        names: of the files in use.

    Raises:
        UserError: one is not there.
    """
    known = list(names)
    refuse(f"params.yaml: {problem}" for problem in missing_files(path, known))
    write_json(folder / HASHES, {name: sha256_of(path / name) for name in known})


def read_hashes(folder: Path) -> dict[str, str]:
    """Return the hashes that ``write_hashes`` wrote.

    Args:
        folder: out/extractors or out/statistics.

    Returns:
        sha256 by the files' names.

    Raises:
        UserError: the folder is not there or damaged.
    """
    try:
        return dict(json.loads((folder / HASHES).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / HASHES}: not readable ({error}). Run `dvc repro extractors` to make it.") from error


def missing_files(path: Path, names: Iterable[str]) -> list[str]:
    """Say of each file of evaluate.path that is not there what to do."""
    return [
        f"evaluate.path: there is no file '{name}' in '{path}'. Put it there, or name another one."
        for name in names
        if not (path / name).is_file()
    ]


def fitted(folder: Path, extractor: str) -> Path:
    """Return where the weights of an extractor that learns from the data lie."""
    return folder / f"{extractor}.safetensors"


def imported(folder: Path, extractor: str) -> Path:
    """Return where the statistics lie that an extractor's FID is compared with, if there are any."""
    return folder / f"{extractor}.npz"
