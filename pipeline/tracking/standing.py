"""What stands in a run's published folder, and MLflow's run brought back to it where it says something else.

MLflow shows of a metric the point with the highest step, then the latest time, then the highest value. The step of a
score is the images seen by the weights, so the latest time decides which of several evaluations stands.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import sha256_of
from pipeline.inference.published import run_of
from pipeline.inference.scored import BY_SEED, are_scores_of, of_seed
from pipeline.render.shown import read_list

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVALUATION, PICTURES = "evaluation", "pictures"  # tags: the hashes of what stands; artifacts lie in "pictures", too
FINAL_SAMPLES = "final_samples"  # a series of images
PROTOCOL = "protocol."
WARNING = "warning."  # and its kind: an early warning of the training
SUPERSEDED = "superseded: the present evaluation does not measure this"
_LARGEST = 1.7976931348623157e308  # what MLflow keeps of an infinity
_SHORTEST_CUT = 250  # of a text, by the version of MLflow and its store; 6,000 in 3.17


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Scores, their protocol and pictures of a published run, as far as they are there.

    Attributes:
        run: its name.
        trained: its train.json.
        metrics: by name; None before it is evaluated.
        protocol: how each was made, by the same names.
        pictures: files.
        tags: what MLflow's tags should say.
    """

    run: str
    trained: Mapping[str, Any]
    metrics: Mapping[str, float] | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Images seen by its weights."""
        return int(self.trained["seen"])

    def superseded(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags that mark protocols of metrics which are no longer measured, given those that a run has."""
        gone = {name for name in tags if name.startswith(PROTOCOL)} - self.tags.keys()
        return dict.fromkeys(gone, SUPERSEDED) if self.metrics is not None else {}


def warning_tags(warnings: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the tags of a training's warnings; of several of a kind the last one counts."""
    return {f"{WARNING}{warning['kind']}": warning["message"] for warning in warnings}


def read_standing(published: Path, trained: Mapping[str, Any]) -> Standing:
    """Return what stands in a run's folder of out/runs.

    Args:
        published: The folder.
        trained: Its train.json.

    Returns:
        The scores if metrics.json and protocol.json are there and of these weights, the pictures if samples.png is.

    Raises:
        UserError: A file cannot be read.
    """
    scores, protocol = _scores_of(published, trained)
    if scores is None or protocol is None or not are_scores_of(published, protocol):
        scores = protocol = None
    pictures = _pictures(published, evaluated=scores is not None)
    tags = warning_tags(trained.get("warnings", ()))
    if pictures:
        tags[PICTURES] = digest_of({path.name: sha256_of(path) for path in pictures})
    known: dict[str, Any] = {"run": run_of(published).name, "trained": trained, "pictures": pictures, "tags": tags}
    if scores is None or protocol is None:
        return Standing(**known)
    tags |= {f"{PROTOCOL}{name}": json.dumps(how, sort_keys=True) for name, how in protocol.items()}
    tags[EVALUATION] = digest_of({"metrics": scores, "protocol": protocol})
    return Standing(metrics=scores, protocol=protocol, **known)


def _scores_of(published: Path, trained: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the numbers of a training and how they were made; of a run with several seeds its own, not the means."""
    run = run_of(published)
    scores, protocol = (_read_json(run / f"{name}.json") for name in ("metrics", "protocol"))
    if protocol is None or not any(BY_SEED in how for how in protocol.values()):
        return (scores, protocol) if run == published else (None, None)
    return of_seed(protocol, trained["params"]["seed"])


def _pictures(published: Path, evaluated: bool) -> tuple[Path, ...]:
    """Return the run's samples, then its pictures, and its comparisons if it is evaluated; none before it is drawn."""
    if not (published / "samples.png").exists():
        return ()
    folders = ("panels", "comparisons") if evaluated else ("panels",)
    return (published / "samples.png", *(path for name in folders for path in _listed(published / name)))


def _listed(folder: Path) -> list[Path]:
    """Return a folder's pictures in their order."""
    return [folder / picture.file for picture in read_list(folder)]


def digest_of(value: Any) -> str:
    """Return a short hash of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def correct(client: "MlflowClient", run_id: str, standing: Standing) -> list[str]:
    """Make the run say what stands in the files, where another machine or a person made it say something else.

    Args:
        client: A client of the target.
        run_id: MLflow's id of the run.
        standing: What the files say.

    Returns:
        What was put right, a few words each.
    """
    from mlflow.entities import Metric, RunTag

    data = client.get_run(run_id).data
    points, said = [], []
    for name, value in (standing.metrics or {}).items():
        if not _is_same_number(data.metrics.get(name), float(value)):
            moment, step = time.time_ns() // 1_000_000, standing.step
            for point in client.get_metric_history(run_id, name):
                moment, step = max(moment, point.timestamp + 1), max(step, point.step)
            points.append(Metric(name, float(value), moment, step))
            said.append(f"{name} {data.metrics.get(name, 'absent')} -> {value}")
    tags = dict(standing.tags) | standing.superseded(data.tags)
    wrong = {name: value for name, value in tags.items() if not is_same_text(data.tags.get(name, ""), value)}
    if points or wrong:
        client.log_batch(run_id, metrics=points, tags=[RunTag(name, value) for name, value in wrong.items()])
    return said + [f"tag {name}" for name in sorted(wrong)]


def is_same_text(known: str, value: str) -> bool:
    """Return whether MLflow holds a text, of which it cuts off what is longer than it keeps."""
    return known == value or (len(known) >= _SHORTEST_CUT and value.startswith(known))


def _is_same_number(known: float | None, value: float) -> bool:
    if known is None:
        return False
    if math.isnan(known) or math.isnan(value):
        return math.isnan(known) and math.isnan(value)
    return math.isclose(known, min(max(value, -_LARGEST), _LARGEST), rel_tol=1e-12)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `dvc repro` or `dvc checkout` to make it.") from error
    return content
