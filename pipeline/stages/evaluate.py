"""Stage `evaluate`, per run: FID, IS and the method's own scores of samples from the averaged weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.config import Evaluate, read_params, read_run
from pipeline.errors import UserError, run
from pipeline.stages.common import reopen
from pipeline.stages.paths import DATA, REFERENCE, run_folder

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.evaluate.extractor import Extractor, Features
    from pipeline.evaluate.metrics.frechet import Statistics
    from pipeline.inference.weights import Trained


def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Samples the run's averaged weights, scores the samples against out/reference and writes metrics.json,
    numbers only, and protocol.json, how each number was made; both go to the run's journal too."""
    from pipeline.core.world import default_device
    from pipeline.data.dataset import domains, open_dataset
    from pipeline.files import write_json
    from pipeline.inference.weights import load_weights

    params, dataset, folder = read_params(), open_dataset(DATA), run_folder(name)
    settings = params.evaluate
    trained = load_weights(folder / "weights.safetensors", default_device())
    if trained.spec != dataset.spec:
        raise UserError(f"{folder}: trained on {trained.spec}, but out/data has {dataset.spec}. Run `dvc repro`.")
    first, second = domains(dataset, read_run(params, name)[0].domains)
    metrics, protocol = evaluate(trained, first, settings, second)
    write_json(folder / "protocol.json", protocol)
    write_json(folder / "metrics.json", metrics)
    with reopen(name) as journal:
        journal.metrics(metrics, step=trained.seen)
        journal.tags({f"protocol.{key}": json.dumps(value, sort_keys=True) for key, value in protocol.items()})


def evaluate(
    trained: "Trained",
    dataset: "Dataset",
    settings: Evaluate,
    second: "Dataset | None" = None,
    reference: Path = REFERENCE,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Every metric by name, and every metric's protocol by the same names.

    second: the domain into which the method translates; its images are then what the samples are compared with.
    """
    from pipeline.evaluate import extractors as features
    from pipeline.evaluate.extractor import extract
    from pipeline.evaluate.metrics.inception_score import SPLITS
    from pipeline.inference import generate as sampling

    device = str(next(trained.nets.parameters()).device)
    extractors = [features.load(name, weights=settings.weights, device=device) for name in settings.extractors]
    split = dataset.splits[settings.split]
    plan: dict[str, Any] = {"seed": settings.seed, "batch_size": settings.batch_size}
    rows = sampling.shuffled(len(split), settings.samples, settings.seed)
    like = sampling.batches(split, rows, device=device, truncation=settings.truncation, **plan)
    found = extract(extractors, sampling.samples(trained, like))
    real = _domain_reference(extractors, second, settings) if second else None
    metrics: dict[str, float] = {}
    protocol: dict[str, Any] = {}
    for extractor in extractors:
        against = real[extractor.name] if real else _read_reference(extractor, reference, dataset.digest)
        values = _distances(extractor.name, found[extractor.name], against[0])
        how = {**against[1], "is_splits": SPLITS, "generated": _generated(trained, settings)}
        metrics |= values
        protocol |= dict.fromkeys(values, how)
    own, how = _own_scores(trained, dataset, settings)
    return metrics | own, protocol | dict.fromkeys(own, how)


def _generated(trained: "Trained", settings: Evaluate) -> dict[str, Any]:
    about = {"count": settings.samples, "seed": settings.seed, "images_seen": trained.seen}
    return about | ({"truncation": settings.truncation} if settings.truncation else {})


def _distances(name: str, found: "Features", real: "Statistics") -> dict[str, float]:
    from pipeline.evaluate.metrics.frechet import Statistics, frechet_distance
    from pipeline.evaluate.metrics.inception_score import inception_score

    mean, deviation = inception_score(found.logits)
    distance = frechet_distance(real, Statistics.of(found.pooled))
    return {f"fid_{name}": distance, f"is_{name}": mean, f"is_{name}_std": deviation}


def _read_reference(extractor: "Extractor", folder: Path, digest: str) -> tuple["Statistics", dict[str, Any]]:
    """The statistics of all real images, and how they were made."""
    from pipeline.evaluate.reference import read_reference

    real, about = read_reference(folder, extractor.name)
    protocol = about["protocol"]
    expected = extractor.protocol | {"reference": protocol["reference"] | {"digest": digest}}
    if protocol != expected:
        raise UserError(f"{folder}: made from other images or with another extractor. Run `dvc repro reference`.")
    return real, protocol


def _domain_reference(
    extractors: "list[Extractor]", domain: "Dataset", settings: Evaluate
) -> dict[str, tuple["Statistics", dict[str, Any]]]:
    """The same for one domain's images, by extractor; made here, as no other run uses it."""
    from pipeline.evaluate.extractor import extract
    from pipeline.evaluate.metrics.frechet import Statistics
    from pipeline.inference.generate import shuffled

    split = domain.splits[settings.split]
    count = min(len(split), settings.reference_samples or len(split))
    rows = shuffled(len(split), count, settings.seed)
    found = extract(extractors, (split.images(part.numpy()) for part in rows.split(settings.batch_size)))
    about = {"split": settings.split, "count": count, "seed": settings.seed, "digest": domain.digest}
    about["class"] = int(split.labels[0])
    return {e.name: (Statistics.of(found[e.name].pooled), e.protocol | {"reference": about}) for e in extractors}


def _own_scores(trained: "Trained", dataset: "Dataset", settings: Evaluate) -> tuple[dict[str, float], dict[str, Any]]:
    """On the test split, whatever evaluate.split says: a likelihood of training images says little."""
    from pipeline.inference import generate as sampling

    split, device = dataset.splits["test"], str(next(trained.nets.parameters()).device)
    count = min(len(split), settings.samples)
    rows = sampling.shuffled(len(split), count, settings.seed)
    real = sampling.batches(split, rows, seed=settings.seed, batch_size=settings.batch_size, device=device)
    scores = sampling.mean_scores(trained, real)
    how = {"split": "test", "count": count, "seed": settings.seed, "digest": dataset.digest}
    return {f"{name}_test": value for name, value in scores.items()}, how | {"images_seen": trained.seen}


if __name__ == "__main__":
    run(typer.run, main)
