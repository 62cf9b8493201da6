"""Where the making of each stage's outputs begins, and the files in out/code that say what decides it.

    out/code/<stage>.json            a stage that is alike for all runs
    out/code/<stage>-<choice>.json   one for each source or method that params.yaml could choose
    out/code/course-<method>.json    no stage's: what decides the states of a training (key.py)

Each holds the files that decide the stage's outputs, with the hash of what is reached in each (closure.py), and a
digest over all. DVC takes such a file as the stage's dependency, so a stage is redone when its code means something
else, and only then. A stage's script itself only reads params, calls its entries and writes, so it is no entry.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import registry
from pipeline.config import PROGRAM, Evaluate
from pipeline.config.pictures import Render
from pipeline.dependencies.closure import Closure
from pipeline.errors import UserError

CODE = Path("out/code")
METHODS, SOURCES = "pipeline.methods", "pipeline.ingest.sources"
MEASURES, WARNINGS = "pipeline.watch.measures", "pipeline.watch.warnings"
EXTRACTORS, METRICS = "pipeline.evaluate.extractors", "pipeline.evaluate.metrics"
PICTURES, COMPARISONS = "pipeline.render.pictures", "pipeline.render.comparisons"

# By stage: its entries, and the package of which a run or the data choose a file.
ENTRIES: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    "download": ((), SOURCES),  # the source decides
    "normalize": (("pipeline.ingest.normalize:normalize",), SOURCES),
    "inspect": (("pipeline.render.inspection:inspect",), None),
    "extractors": (
        ("pipeline.evaluate.extraction:prepare_extractors", "pipeline.evaluate.extraction:prepare_statistics"),
        None,
    ),
    "reference": (("pipeline.evaluate.extraction:make_reference", "pipeline.render.samples:write_real_picture"), None),
    "train": (("pipeline.training.trainer:train", "pipeline.training.publish:publish"), METHODS),
    "generate": (("pipeline.evaluate.extraction:generate",), METHODS),
    "evaluate": (("pipeline.evaluate.seeds:score_trainings", "pipeline.render.compare:compare"), None),
    "evaluate_real": (("pipeline.evaluate.scoring:score_real",), None),
    "render": (("pipeline.render.samples:render",), METHODS),
    "report": (
        (
            "pipeline.render.board:read_board",
            "pipeline.render.board:write_leaderboard",
            "pipeline.render.report:write_page",
            "pipeline.render.report:write_pictures",
            "pipeline.render.explorer:write_scripts",
        ),
        None,
    ),
}
# What decides the states of a training and the form of its checkpoints: no stage's dependency, but part of its key.
COURSE = (
    "pipeline.data.dataset:open_dataset",
    "pipeline.training.course:fresh_state",
    "pipeline.training.course:threads_of",
    "pipeline.training.memory:leave_compiler_out",
    "pipeline.training.course:iterations",
    "pipeline.training.job:Progress",
)
# By stage: the packages of which it takes files for all runs alike: all of them of what is watched, and what the
# sections evaluate and render choose.
CHOSEN: Mapping[str, tuple[str, ...]] = {
    "extractors": (EXTRACTORS,),
    "train": (MEASURES, WARNINGS),
    "reference": (EXTRACTORS,),
    "generate": (EXTRACTORS,),
    "evaluate": (METRICS, COMPARISONS),
    "evaluate_real": (METRICS,),
    "render": (PICTURES,),
    "report": (METRICS,),
}


def code_files(root: Path, evaluate: Evaluate, render: Render) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and content of every file of out/code.

    Args:
        root: the folder that holds the package.
        evaluate: which extractors, metrics and comparisons are in use; of people's own programs DVC compares the files.
        render: which pictures are in use.

    Yields:
        A name such as "train-dcgan", and its content: ``digest`` and ``files``, a hash by path.
    """
    closure = Closure(root)
    own = [name for name in evaluate.extractors if not name.endswith(PROGRAM)]
    chosen: dict[str, Sequence[str]] = {EXTRACTORS: own, METRICS: evaluate.metrics}
    chosen |= {PICTURES: render.pictures, COMPARISONS: evaluate.comparisons}
    chosen |= {package: registry.names(package) for package in (MEASURES, WARNINGS)}
    for stage, (entries, package) in {**ENTRIES, "course": (COURSE, METHODS)}.items():
        common = [f"{kind}.{name}" for kind in CHOSEN.get(stage, ()) for name in chosen[kind]]
        if package is None:
            yield stage, _content(closure, [*entries, *common])
            continue
        for choice in registry.names(package):
            yield f"{stage}-{choice}", _content(closure, [*entries, *common, f"{package}.{choice}"])


def read_code(name: str, folder: Path = CODE) -> dict[str, str]:
    """Return the files that decide a stage's outputs.

    Args:
        name: of a file of out/code, such as "train-dcgan".
        folder: out/code.

    Returns:
        A hash by path.

    Raises:
        UserError: it is not there or cannot be read.
    """
    path = folder / f"{name}.json"
    try:
        return dict(json.loads(path.read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error!r}). Run `dvc repro code` to make it.") from error


def _content(closure: Closure, entries: Sequence[str]) -> dict[str, Any]:
    files = closure.files(entries)
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return {"digest": digest, "files": files}
