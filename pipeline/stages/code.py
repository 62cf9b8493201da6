"""Stage code: what decides each stage's outputs, to out/code; what a run from scratch begins with, to out/scratch."""

import json
import logging
import re
from pathlib import Path

import typer

import pipeline
from pipeline.config import read_params
from pipeline.dependencies.entries import CODE, code_files
from pipeline.errors import run
from pipeline.files import atomic_folder
from pipeline.stages.paths import OUT

logger = logging.getLogger("pipeline.stages.code")  # __name__ is "__main__" in a script


def main() -> None:
    """Hash the code that decides each stage's outputs, by what it means, for DVC to compare."""
    params = read_params()
    settings = params.evaluate
    _say_if_old(Path("dvc.lock"))
    root = Path(pipeline.__file__).parents[1]
    with atomic_folder(CODE) as folder:
        for name, content in code_files(root, settings.extractors, settings.metrics):
            (folder / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    with atomic_folder(OUT / "scratch") as folder:
        # Every run's training depends on out/<init_from>/weights.safetensors; a run from scratch reads none.
        (folder / "weights.safetensors").write_text("No weights: a run from scratch draws its own from its seed.\n")


def _say_if_old(lock: Path) -> None:
    """Tell those who come from a version whose stages depended on whole files why everything is redone once."""
    text = lock.read_text() if lock.exists() else ""
    if re.search(r"^    - path: pipeline/", text, flags=re.MULTILINE) and "out/code/" not in text:
        logger.warning(
            "%s is of an earlier version of Genloom, which compared whole files: every stage is redone once, from then "
            "on only those whose code means something else. Checkpoints in .genloom of that version stay, unused.",
            lock,
        )


if __name__ == "__main__":
    run(typer.run, main)
