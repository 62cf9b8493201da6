"""The explorer: a run's sampler as a browser takes it, and the files beside the report that hold all of them.

A page that is opened from the file system may fetch no file and import no module, but it may load scripts. So each
file of the folder explorer is a script that hands over what it holds: runtime.js onnxruntime-web, and <run>.js a
model. They are loaded when a reader opens the explorer.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import atomic_folder, write_json
from pipeline.inference.directions import as_json
from pipeline.inference.onnx import export_onnx
from pipeline.render.onnxruntime_web import read_runtime
from pipeline.render.picture import Subject

FOLDER, MODEL, ABOUT = "explorer", "model.onnx", "explorer.json"


def write_explorer(folder: Path, subject: Subject) -> None:
    """Write what the explorer needs of a run: its sampler as ONNX, and the directions of its latents.

    Of a run that cannot be explored, explorer.json alone, which says why.

    Args:
        folder: where to; it replaces what is there.
        subject: the run.
    """
    with atomic_folder(folder) as temporary:
        write_json(temporary / ABOUT, _explored(temporary / MODEL, subject))


def _explored(path: Path, subject: Subject) -> dict[str, Any]:
    if not subject.settings.explorer:
        return {"refused": "render.explorer is false in params.yaml."}
    try:
        about = export_onnx(subject.trained, path)
    except UserError as error:
        return {"refused": str(error)}
    return about | {"directions": dict(as_json(subject.ways))}


def read_explored(run: Path) -> dict[str, Any]:
    """Return what a run's explorer.json says.

    Args:
        run: its folder.

    Returns:
        Its content, with ``refused`` where there is no explorer of the run.

    Raises:
        UserError: the file is damaged.
    """
    path = run / FOLDER / ABOUT
    if not path.is_file():
        return {"refused": "its pictures were drawn before there was an explorer: run `dvc repro`."}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}). Delete it and run `dvc repro`.") from error
    if "refused" not in found and not (run / FOLDER / MODEL).is_file():
        raise UserError(f"{run / FOLDER / MODEL}: not there. Run `dvc repro`.")
    return found


def write_scripts(folder: Path, runs: Mapping[str, Path]) -> None:
    """Write the folder of scripts that the page loads, with a script for each run that can be explored.

    Args:
        folder: beside the page; it replaces what is there.
        runs: the runs' folders by name.
    """
    explored = {name: about for name, run in runs.items() if "refused" not in (about := read_explored(run))}
    with atomic_folder(folder) as temporary:
        if explored:
            (temporary / "runtime.js").write_text(_runtime())
        for name, about in explored.items():
            model = _base64((runs[name] / FOLDER / MODEL).read_bytes())
            (temporary / f"{name}.js").write_text(
                f'explorer.model({json.dumps(name)}, {json.dumps(about)}, "{model}");\n'
            )


def _runtime() -> str:
    script, program = read_runtime()
    return f'{script}\nexplorer.runtime(ort, "{_base64(program)}");\n'


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
