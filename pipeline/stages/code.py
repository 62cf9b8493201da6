"""Stage code, before all others: checks params.yaml; writes to out/code what decides each stage's outputs, and to
out/scratch what a run from scratch begins with."""

import json
import logging
import re
from pathlib import Path

import pipeline
from pipeline.config import Evaluate, parse
from pipeline.dependencies.entries import CODE, code_files
from pipeline.files import atomic_folder, borrow, project_root
from pipeline.stages.entry import COMPILER, TORCH, run_stage
from pipeline.stages.paths import OUT

CHECKED = OUT / "checked.txt"  # not in DVC's cache, so a clone and a temporary copy lack it, and this stage runs there

logger = logging.getLogger("pipeline.stages.code")  # __name__ is "__main__" in a script


def main() -> None:
    """Check params.yaml; hash the code that decides each stage's outputs, by what it means, for DVC to compare.

    Where trainings will follow, their Ray cluster starts meanwhile.
    """
    from pipeline.cluster.ahead import start_ahead
    from pipeline.training.check_params import check_params

    _borrow_files()
    params = check_params()
    _say_if_old(Path("dvc.lock"))
    root = Path(pipeline.__file__).parents[1]
    with atomic_folder(CODE) as folder:
        for name, content in code_files(root, params.evaluate, params.render):
            (folder / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    with atomic_folder(OUT / "scratch") as folder:
        # Every run's training depends on out/<init_from>/weights.safetensors; a run from scratch reads none.
        (folder / "weights.safetensors").write_text("No weights: a run from scratch draws its own from its seed.\n")
    CHECKED.write_text("params.yaml was checked in this folder.\n")
    start_ahead(params)


def _borrow_files() -> None:
    """Make the files of this machine that params.yaml names appear in a temporary copy of the project."""
    sections, _ = parse()
    evaluate = sections.get("evaluate")
    named = list((evaluate.weights, evaluate.path) if isinstance(evaluate, Evaluate) else ())
    named += [run.get("weights") for run in sections.get("runs", {}).values()]
    for path in named:
        if isinstance(path, str) and "://" not in path and ":/" not in path:
            borrow(Path(path), project_root())
    # DVC looks at it, whatever the extractors.
    if isinstance(evaluate, Evaluate) and not Path(evaluate.path).is_absolute():
        Path(evaluate.path).mkdir(parents=True, exist_ok=True)


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
    run_stage(main, *TORCH, *COMPILER)
