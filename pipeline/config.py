"""params.yaml to frozen, keyword-only dataclasses; what does not fit fails with file, key and remedy.

Importing this reads nothing and needs no torch. A run's own settings (``runs.<run>``) are the
fields of Run plus those of its method, which ``methods.configure`` checks where torch is needed anyway.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipeline import registry
from pipeline.errors import UserError, nearest

PARAMS = Path("params.yaml")
_RUN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
SCRATCH = "scratch"  # where a run begins that begins from no other

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]  # (0, 1)
Unit = Annotated[float, Field(ge=0, lt=1)]  # [0, 1)
Share = Annotated[float, Field(gt=0, le=1)]  # (0, 1]
Probability = Annotated[float, Field(ge=0, le=1)]  # [0, 1]


def bounds(
    *, gt: float | None = None, ge: float | None = None, lt: float | None = None, le: float | None = None
) -> Any:
    """Return the limits of a number as the metadata of an ``Annotated`` type."""
    return Field(gt=gt, ge=ge, lt=lt, le=le)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and the one shape they are brought to."""

    source: str = "digits"
    path: str = "data"
    mirror: str | None = None
    channels: Literal[1, 3] = 1
    size: Annotated[int, Field(ge=8, le=1024)] = 32
    test_fraction: Fraction = 0.2

    def __post_init__(self) -> None:
        _check_choice("pipeline.ingest.sources", "source", self.source)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every method's training has: the budget in images, the batch, the average, the cadence.

    Attributes:
        method: a file of pipeline/methods.
        seed: of the nets' beginning, the order of the data and all noise.
        images: the budget, in real images shown.
        batch_size: global: N workers take batch_size / N each.
        ema_half_life: images after which a weight's share in the average has halved.
        log_every: images per log window.
        snapshot_every: images between two pictures.
        checkpoint_every: images between two checkpoints.
        precision: of the nets' arithmetic.
        sync_batch_norm: over the global batch, so that the number of workers changes nothing; off, each worker
            normalizes its own part.
        non_finite: what a loss or gradient that is no number does: stop ends the run, skip leaves out the step, as a
            loss scaler does.
        flip: augmentation of the data: mirror every second image.
        crop: augmentation of the data: shift by up to that many pixels.
        rotation: augmentation of the data: turn by up to that many degrees.
        domains: two classes, for methods that translate the first into the second.
        init_from: scratch, or runs/<run>: the run whose weights this one begins from.
        weights: a weights file or an MLflow model URI to begin from instead.
        freeze: nets, or patterns of parameter names, that stay as they are.
    """

    method: str
    seed: Count = 0
    images: Positive = 60_000
    batch_size: Positive = 64
    ema_half_life: Annotated[float, Field(ge=0)] = 2_000
    log_every: Positive = 1_000
    snapshot_every: Positive = 5_000
    checkpoint_every: Positive = 10_000
    precision: Literal["fp32", "bf16"] = "fp32"
    sync_batch_norm: bool = True
    non_finite: Literal["stop", "skip"] = "stop"
    flip: bool = False
    crop: Count = 0
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    domains: tuple[str, str] | None = None
    init_from: str = SCRATCH
    weights: str | None = None
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where training runs. Never part of a result's key.

    Attributes:
        workers: 0: in this process, without Ray; [least, most]: as many as the cluster has room for, more or fewer as
            nodes come and go.
        address: of a running cluster; null: one of this machine alone, while it trains.
        cpus_per_worker: null: an equal share.
        gpus_per_worker: null: 1 where the cluster has GPUs.
        storage: a folder for checkpoints and journals that every node sees, or a URL (s3://...; any that fsspec takes)
            for checkpoints where nodes share no folder.
        max_failures: restarts after a worker's failure.
        stall_seconds: without a word from the workers for so long, they are taken for hung, and training starts again
            from the last checkpoint.
        shard: share out the optimizers' state (Adam: twice the weights) among the workers; weights, gradients and
            moving averages stay whole on each.
        stream: nodes that share no folder get each batch's images as they need them, not a copy of the data.
    """

    DECIDES_NOTHING = "where, never what"

    workers: Count | tuple[Positive, Positive] = 1
    address: str | None = None
    cpus_per_worker: Positive | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    storage: str = ".genloom"
    max_failures: Count = 3
    stall_seconds: Positive = 600
    shard: bool = False
    stream: bool = False

    def __post_init__(self) -> None:
        if self.stream and self.url is None:
            raise ValueError(
                "stream: is for nodes that share no folder, so it needs cluster.storage to be a URL (s3://...)"
            )

    @property
    def least(self) -> int:
        """Workers that training needs."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Workers that training makes use of."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def scratch(self) -> str:
        """The folder of this machine's journals and checkpoints."""
        return self.storage if self.url is None else ".genloom"

    @property
    def url(self) -> str | None:
        """Where checkpoints are kept too, if storage is no folder."""
        return self.storage.rstrip("/") if "://" in self.storage else None


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured, and how: the protocol that is logged with each number.

    metrics, extractors: files of pipeline/evaluate/metrics and extractors; the first of each rank the runs.
    weights: the file of an extractor's weights, if it is not downloaded. samples: generated images per run.
    reference_samples: real images at most; None: all of the split. split: which real images.
    truncation: bound of normal latents, in standard deviations (StyleGAN2: psi); None: no truncation.
    """

    metrics: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: ["fid", "inception_score"])
    extractors: Annotated[list[str], Field(min_length=1)]
    weights: str | None = None
    samples: Annotated[int, Field(ge=10)] = 2_000
    reference_samples: Annotated[int, Field(ge=20)] | None = 10_000
    split: Literal["train", "test"] = "train"
    seed: Count = 0
    batch_size: Positive = 64
    truncation: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        for key, chosen in (("metrics", self.metrics), ("extractors", self.extractors)):
            for name in chosen:
                _check_choice(f"pipeline.evaluate.{key}", key, name)


@dataclass(frozen=True, kw_only=True)
class Render:
    """Pictures: a grid of rows x columns samples, one class per column, and the film of training.

    seed: of the samples, and of the order in which images are taken. truncation: as in ``evaluate``.
    """

    rows: Positive = 8
    columns: Positive = 10
    seed: Count = 0
    milliseconds_per_frame: Positive = 200
    truncation: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where MLflow is: any tracking URI; a relative sqlite path counts from the project's folder."""

    DECIDES_NOTHING = "who watches changes no result"

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "genloom"


@dataclass(frozen=True, kw_only=True)
class Params:
    """All of params.yaml but the methods' own fields: runs maps a name to its raw mapping."""

    DECIDES_NOTHING = "a section decides what its own class decides"

    data: Data
    runs: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    cluster: Cluster
    evaluate: Evaluate
    render: Render
    tracking: Tracking


def _check_choice(package: str, key: str, name: str) -> None:
    """Raise ValueError, as pydantic wants it, if params.yaml chooses a file that is not there."""
    try:
        registry.check(package, name, key)
    except UserError as error:
        raise ValueError(str(error)) from None


def read_params(path: Path = PARAMS) -> Params:
    """Read params.yaml and check every section; ``read_run`` and ``methods.configure`` check a run.

    Args:
        path: of the file.

    Returns:
        Every section with its defaults, and the runs as they stand there.

    Raises:
        UserError: the file cannot be read, a key is unknown, or a value does not fit; with file, key and remedy.
    """
    raw = _read_yaml(path)
    known = {field.name: field.type for field in fields(Params) if field.init}
    if "derived" in raw:
        raise UserError(
            f"{path}: derived: runs that begin from another one now stand under runs, with init_from: runs/<run>; "
            "all others say init_from: scratch. Move them and remove derived."
        )
    refuse_unknown(raw, known, path, "")
    for name, section in raw.items():
        if not isinstance(section, dict):
            raise UserError(f"{path}: {name}: expected a mapping of settings, got {section!r}.")
        if name != "runs":
            refuse_unknown(section, field_names(known[name]), path, f"{name}.")
    params: Params = checked(Params, {name: {} for name in known} | raw, path, "")
    for name in params.runs:
        if not _RUN_NAME.fullmatch(str(name)):
            raise UserError(
                f"{path}: runs.{name}: a run's name is a folder's and a word of a command: letters, digits, '_', '-' "
                "and '.', the first one a letter or digit."
            )
        _check_beginning(params.runs, name, path)
    return params


def _check_beginning(runs: Mapping[str, Mapping[str, Any]], name: str, path: Path) -> None:
    """DVC makes what a run begins from a dependency, so every run must say it, and none may begin from itself."""
    known, run, chain = [SCRATCH, *(f"runs/{other}" for other in runs)], name, [name]
    while (beginning := runs[run].get("init_from")) != SCRATCH:
        if beginning not in known:
            raise UserError(
                f"{path}: runs.{run}.init_from: say where its weights begin: {SCRATCH}, or runs/<run>"
                + (f", not {beginning!r}. {nearest(str(beginning), known)}" if beginning else ".")
            )
        run = str(beginning).removeprefix("runs/")
        if run in chain:
            raise UserError(f"{path}: runs.{name}.init_from: {' begins from '.join([*chain, run])}: name another run.")
        chain.append(run)
    if runs[name].get("init_from") != SCRATCH and runs[name].get("weights"):
        raise UserError(f"{path}: runs.{name}.weights: the run begins from {runs[name]['init_from']}; leave one out.")


def read_run(params: Params, name: str, path: Path = PARAMS) -> tuple[Run, dict[str, Any]]:
    """Return the settings that every run has, and the rest, which belongs to its method.

    Args:
        params: of params.yaml.
        name: the run's.
        path: of the file, for messages.

    Returns:
        The run's settings, and its method's own by name.

    Raises:
        UserError: there is no such run, or a value does not fit.
    """
    if name not in params.runs:
        raise UserError(f"{path}: runs: there is no run '{name}'. {nearest(name, params.runs)}")
    raw, own, prefix = params.runs[name], field_names(Run), f"runs.{name}."
    if not isinstance(raw.get("method"), str):
        raise UserError(f"{path}: {prefix}method: name the method, for example 'dcgan'.")
    run = checked(Run, {key: value for key, value in raw.items() if key in own}, path, prefix)
    return run, {key: value for key, value in raw.items() if key not in own}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not found. Run the command in the project's folder.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections such as 'data:' and 'runs:', got {raw!r}.")
    return raw


def field_names(cls: Any) -> list[str]:
    """List what a dataclass takes."""
    return [field.name for field in fields(cls) if field.init]


def refuse_unknown(raw: Mapping[str, Any], known: Any, path: Path, prefix: str, also: list[str] | None = None) -> None:
    """Raise UserError for the first key of ``raw`` that is not in ``known``, with the nearest that is.

    Args:
        raw: a section, or a run.
        known: the names that it may have.
        path: of the file, for the message.
        prefix: of the keys, such as "data.".
        also: further names to suggest.

    Raises:
        UserError: a key is unknown.
    """
    for key in raw:
        if key not in known:
            raise UserError(f"{path}: {prefix}{key}: unknown param. {nearest(str(key), [*known, *(also or [])])}")


def checked(cls: Any, raw: dict[str, Any], path: Path, prefix: str) -> Any:
    """Return an instance of a dataclass made from a section of params.yaml.

    Args:
        cls: the dataclass.
        raw: its fields, as YAML gives them; a number may be text such as "1e-4".
        path: of the params file, for the message.
        prefix: of the section's keys, such as "runs.dcgan.".

    Returns:
        The instance, its types and ranges checked.

    Raises:
        UserError: a value that does not fit, with file, key, range and the value given.
    """
    try:
        return validated(cls, _numbers(raw))
    except ValueError as error:
        end = "" if str(error).endswith((".", "?")) else "."
        raise UserError(f"{path}: {prefix}{error}{end}") from None


def validated(cls: Any, raw: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass after checking the types and ranges of its fields.

    Args:
        cls: the dataclass.
        raw: its fields by name; what is no field is ignored (``refuse_unknown`` complains about it).

    Returns:
        The instance.

    Raises:
        ValueError: a value that does not fit: "field: what it should be, got the value", of the first one alone.
    """
    try:
        return _adapter(cls).validate_python(raw)
    except ValidationError as error:
        first = max(error.errors(), key=lambda found: len(found["loc"]))  # of a union, the branch that fits best
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        parts = [str(part) for part in first["loc"] if not str(part).startswith(("constrained-", "tuple["))]
        if first["type"] == "value_error":  # from a __post_init__, whose message begins with the field
            field, _, message = message.partition(": ")
            parts.append(field)
        elif first["type"] != "missing":
            message += f", got {first['input']!r}"
        raise ValueError(f"{'.'.join(parts)}: {message}") from None


def json_schema(cls: Any) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a dataclass."""
    return _adapter(cls).json_schema()


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; a person means a number."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, str):
        try:
            return float(value) if value[:1].isdigit() or value[:1] in "+-." else value
        except ValueError:
            return value
    return value
