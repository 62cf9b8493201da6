"""The sections of params.yaml and the settings that every run has, as frozen, keyword-only dataclasses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline import registry
from pipeline.config.pictures import check_chosen, check_once
from pipeline.errors import UserError

RUN_NAME = re.compile(r"[A-Za-z_][\w-]{0,99}", re.ASCII)
SCRATCH = "scratch"  # where a run begins that begins from no other
PROGRAM, STATISTICS = ".pt2", ".npz"  # files of evaluate.path: exported programs, and moments of others' features
LAST = "last"  # what a run keeps that keeps no best
MEASURES, WARNINGS = "pipeline.watch.measures", "pipeline.watch.warnings"

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]  # (0, 1)
Unit = Annotated[float, Field(ge=0, lt=1)]  # [0, 1)
Share = Annotated[float, Field(gt=0, le=1)]  # (0, 1]
Probability = Annotated[float, Field(ge=0, le=1)]  # [0, 1]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and the one shape they are brought to.

    Attributes:
        source: a file of pipeline/ingest/sources.
        path: of one's own images: a folder, an archive or a URL, or several of them.
        labels: of one's own images: auto, folders, none, or a table among the images, such as labels.csv:species.
        classes: names of those whose images are taken, in the order of the labels; null: all.
        mirror: a folder or URL prefix to fetch a published set's files from instead.
        channels: 1: gray, 3: RGB; auto: 1 for a set that is gray, else 3.
        size: pixels, height and width.
        fit: how an image becomes square: crop its middle, pad it with the background, or stretch it.
        background: behind transparent and padded images: a colour's name or #rrggbb.
        profile: srgb: apply the images' colour profiles; keep: ignore them.
        test_fraction: held out where the source brings no test split.
        max_bad_fraction: share of the images that may be unreadable or without a place; more end the stage.
    """

    source: str = "digits"
    path: str | Sequence[str] = "data"
    labels: str = "auto"
    classes: tuple[Annotated[int, Field(strict=True)] | str, ...] | None = None  # strict: true is no number
    mirror: str | None = None
    channels: Literal[1, 3, "auto"] = "auto"
    size: Annotated[int, Field(ge=8, le=1024)] = 32
    fit: Literal["crop", "pad", "stretch"] = "crop"
    background: str = "white"
    profile: Literal["srgb", "keep"] = "srgb"
    test_fraction: Fraction = 0.2
    max_bad_fraction: Unit = 0.01

    @property
    def paths(self) -> tuple[str, ...]:
        """Return ``path`` as a list."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    @property
    def chosen_classes(self) -> tuple[str, ...] | None:
        """Return ``classes`` by name: digits are called by numbers, which YAML takes for such."""
        return None if self.classes is None else tuple(map(str, self.classes))

    def __post_init__(self) -> None:
        _check_choice("pipeline.ingest.sources", "source", self.source)
        if self.classes is not None and not self.classes:
            raise ValueError("classes: name at least one class, or null for all")
        check_once("classes", self.chosen_classes or ())


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every method's training has: the budget in images, the batch, the average, the cadence.

    Attributes:
        method: a file of pipeline/methods.
        seed: of the nets' beginning, the order of the data and all noise.
        seeds: in the place of seed: a training of each, shown as one run with what differs between them.
        images: the budget, in real images shown.
        batch_size: global: N workers take batch_size / N each.
        ema_half_life: images after which a weight's share in the average has halved.
        log_every: images per log window.
        snapshot_every: images between two pictures.
        checkpoint_every: images between two checkpoints.
        watch_every: images between two looks at the averaged nets, for measures and early warnings; 0: none.
        stop_on: warnings at which training ends: files of pipeline/watch/warnings.
        keep: last: the weights at the end are the result; a measure's name: those of the look where it was best.
        precision: of the nets' arithmetic.
        threads: of each process on a CPU; auto: by the work of the nets, one for small ones. Another number gives other
            last bits.
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
    seeds: tuple[Count, ...] = ()
    images: Positive = 60_000
    batch_size: Positive = 64
    ema_half_life: Annotated[float, Field(ge=0)] = 2_000
    log_every: Positive = 1_000
    snapshot_every: Positive = 5_000
    checkpoint_every: Positive = 10_000
    watch_every: Count = 5_000
    stop_on: tuple[str, ...] = ()
    keep: str = LAST
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Positive | Literal["auto"] = "auto"
    sync_batch_norm: bool = True
    non_finite: Literal["stop", "skip"] = "stop"
    flip: bool = False
    crop: Count = 0
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    domains: tuple[str, str] | None = None
    init_from: str = SCRATCH
    weights: str | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            twice = max(self.seeds, key=self.seeds.count)
            raise ValueError(f"seeds: {twice} stands there more than once, and would be the same training; leave one")
        for name in self.stop_on:
            _check_choice(WARNINGS, "stop_on", name)
        if self.keep != LAST:
            _check_choice(MEASURES, "keep", self.keep, also=(LAST,))
        if not self.watch_every and (self.stop_on or self.keep != LAST):
            key = "stop_on" if self.stop_on else "keep"
            raise ValueError(f"watch_every: {key} needs looks at the training; set it to a number of images, not 0")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of its trainings; what is shown of one training alone is of the first."""
        return self.seeds or (self.seed,)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where training runs, and where samples and features are made. Never part of a result's key.

    Attributes:
        workers: Ray Train workers, of which 1 is watched and started again too; [least, most]: as many as the cluster
            has room for, more or fewer as nodes come and go; 0: in this process, without Ray.
        address: of a running cluster; null: one of this machine alone, while it trains.
        cpus_per_worker: null: an equal share; a training's threads (runs.<run>.threads: auto) are at most as many.
        gpus_per_worker: null: 1 where the cluster has GPUs; 0: none, without Ray too.
        storage: a folder for checkpoints and journals that every node sees, or a URL (s3://...; any that fsspec takes)
            for checkpoints where nodes share no folder.
        trainings_at_once: of one `dvc repro`, on this machine's CPU with at most one worker: auto: small ones on all
            cores, as long as there is memory; 1: one by one.
        max_failures: restarts after a worker's failure.
        stall_seconds: without a word from the workers for so long, they are taken for hung, and training starts again
            from the last checkpoint.
        shard: share out the optimizers' state (Adam: twice the weights) among the workers; weights, gradients and
            moving averages stay whole on each.
        stream: nodes that share no folder get each batch's images as they need them, not a copy of the data.
        data_on_device: share of a GPU's free memory that the images may take; where they fit, they lie there.
    """

    DECIDES_NOTHING = "where, never what"

    workers: Count | tuple[Positive, Positive] = 0
    address: str | None = None
    cpus_per_worker: Positive | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    storage: str = ".genloom"
    trainings_at_once: Literal["auto"] | Positive = "auto"
    max_failures: Count = 3
    stall_seconds: Positive = 600
    shard: bool = False
    stream: bool = False
    data_on_device: Probability = 0.3

    def __post_init__(self) -> None:
        if self.address and not self.most:
            raise ValueError(
                f"address: '{self.address}' is a cluster, but cluster.workers is 0, which trains in this process: set "
                "cluster.workers to 1 or more, or leave the address out"
            )
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
    def alone(self) -> bool:
        """Whether at most one process computes, on this machine."""
        return self.address is None and self.most <= 1

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

    Attributes:
        metrics: files of pipeline/evaluate/metrics; the first one ranks the runs.
        extractors: files of pipeline/evaluate/extractors, or exported programs in evaluate.path (dino.pt2); the first
            one ranks the runs.
        path: a folder of your own: exported programs (.pt2) and statistics of others (.npz).
        statistics: by extractor, a file of evaluate.path (.npz with mu and sigma) that FID compares with in the place
            of out/reference.
        weights: the file of an extractor's weights, if it is not downloaded.
        samples: generated images per run.
        paths: further samples, in pairs on the way from one latent to another, that path_length needs; 0: none.
        reference_samples: real images at most; null: all of the split.
        split: which real images.
        seed: of the samples and of the order in which images are taken.
        batch_size: images that an extractor takes at once.
        truncation: bound of normal latents, in standard deviations (StyleGAN2: psi); null: no truncation.
        comparisons: files of pipeline/render/comparisons: pictures of samples' features against real ones.
    """

    metrics: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: ["fid", "inception_score"])
    extractors: Annotated[list[str], Field(min_length=1)]
    path: str = "extractors"
    statistics: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    samples: Annotated[int, Field(ge=10)] = 2_000
    paths: Count = 0
    reference_samples: Annotated[int, Field(ge=20)] | None = 10_000
    split: Literal["train", "test"] = "train"
    seed: Count = 0
    batch_size: Positive = 64
    truncation: Annotated[float, Field(gt=0)] | None = None
    comparisons: list[str] = field(default_factory=lambda: ["pca"])

    def __post_init__(self) -> None:
        for name in self.extractors:
            if not name.endswith(PROGRAM):
                _check_choice("pipeline.evaluate.extractors", "extractors", name)
            elif not RUN_NAME.fullmatch(name.removesuffix(PROGRAM)):
                raise ValueError(
                    f"extractors: {name}: name a file of evaluate.path, of letters, digits, '_' and '-', as its name "
                    "without the ending becomes a part of the metrics' names"
                )
        check_once("extractors", self.extractor_names)
        check_chosen("pipeline.evaluate.metrics", "metrics", self.metrics)
        check_chosen("pipeline.render.comparisons", "comparisons", self.comparisons)
        for extractor, file in self.statistics.items():
            if extractor not in self.extractor_names:
                raise ValueError(f"statistics: {extractor} is not in evaluate.extractors; add it there or remove this")
            if not file.endswith(STATISTICS) or Path(file).name != file:
                raise ValueError(f"statistics: {extractor}: name a file of evaluate.path that ends in .npz, not {file}")

    @property
    def extractor_names(self) -> list[str]:
        """The extractors as metrics' names have them: a program without its ending."""
        return [name.removesuffix(PROGRAM) for name in self.extractors]

    @property
    def files(self) -> list[str]:
        """Names of the files in ``path`` that are used."""
        return [name for name in self.extractors if name.endswith(PROGRAM)] + list(self.statistics.values())


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where MLflow is: any tracking URI; a relative sqlite path counts from the project's folder."""

    DECIDES_NOTHING = "who watches changes no result"

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "genloom"


def _check_choice(package: str, key: str, name: str, also: Sequence[str] = ()) -> None:
    """Raise ValueError, as pydantic wants it, if params.yaml chooses a file that is not there, nor one of ``also``."""
    try:
        registry.check(package, name, key, also)
    except UserError as error:
        raise ValueError(str(error)) from None
