"""What MLflow's page says of a run at its top: what it is, its numbers and how to use it, in Markdown."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.tracking.standing import Standing, digest_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"  # MLflow's tag
WRITTEN = "genloom.description"  # a tag: the hash of what was written there


def describe(standing: Standing, run_id: str) -> str:
    """Return a run's description.

    Args:
        standing: what its files say.
        run_id: MLflow's id of it.

    Returns:
        Markdown.
    """
    trained = standing.trained
    what = f"{trained.get('method', 'a training')} on {_data_of(trained)}"
    lines = [f"**{standing.run}**: {what}, {trained['seen']:,} images seen."]
    if scores := [_score(key, standing) for key in (standing.metrics or {}) if _is_headline(key, standing)]:
        lines += ["", "| | value | of |", "|---|---|---|", *scores]
    lines += [
        "",
        "```python",
        "import mlflow, numpy as np",
        f'model = mlflow.pyfunc.load_model("runs:/{run_id}/model")',
        _use_of(trained),
        "```",
        "",
        f"Or `genloom sample runs:/{run_id} --count 64 --to samples` in the project.",
    ]
    return "\n".join(lines)


def write_description(client: "MlflowClient", run_id: str, text: str) -> None:
    """Put a description on a run's page, unless a person has written one there.

    Args:
        client: of the target.
        run_id: MLflow's id of the run.
        text: Markdown.
    """
    from mlflow.entities import RunTag

    tags = client.get_run(run_id).data.tags
    there = tags.get(NOTE, "")
    if there == text or (there and digest_of(there) != tags.get(WRITTEN)):
        return
    client.log_batch(run_id, tags=[RunTag(NOTE, text), RunTag(WRITTEN, digest_of(text))])


def _data_of(trained: Mapping[str, Any]) -> str:
    spec, about = trained.get("spec", {}), trained["dataset"]
    colours = {1: "grayscale", 3: "RGB"}.get(spec.get("channels"), "")
    size = f" of {spec['size']} x {spec['size']} pixels" if "size" in spec else ""
    digest = str(about.get("digest", ""))[:12]
    name = about.get("name") or about.get("source") or trained["params"].get("data.source", "images")
    return f"{name} ({colours} images{size}; version {digest})".replace("( ", "(")


def _is_headline(key: str, standing: Standing) -> bool:
    how = standing.protocol.get(key, {})
    return bool(how.get("better")) and how.get("spread") != key


def _score(key: str, standing: Standing) -> str:
    how, metrics = standing.protocol[key], standing.metrics or {}
    arrow = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}"}[how["better"]]
    of = how.get("extractor") or how.get("split") or ""
    value = f"{metrics[key]:.4g}"
    if (spread := metrics.get(how.get("spread", ""))) is not None:
        value += f" ± {spread:.2g}"
    counts = [f"{how[side]['count']:,} {what}" for side, what in _SIDES.items() if "count" in how.get(side, {})]
    return f"| {how['title']} {of} {arrow} | {value} | {', '.join(counts)} |"


_SIDES = {"generated": "samples", "reference": "real images"}


def _use_of(trained: Mapping[str, Any]) -> str:
    if trained["params"].get("domains"):
        return 'images = model.predict({"images": images})  # of the first domain, float in [-1, 1] or uint8'
    return 'images = model.predict({"seeds": np.arange(64), "labels": np.zeros(64, np.int64)})  # in [-1, 1]'
