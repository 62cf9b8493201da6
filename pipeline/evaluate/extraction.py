"""The stages `extractors`, `reference` and `generate`: what extractors need, and what they see in real images and in a
run's samples, written to disk."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import PROGRAM, Evaluate
from pipeline.core.batch import Batch
from pipeline.core.world import default_device
from pipeline.data.dataset import Dataset, domains, open_dataset
from pipeline.evaluate.extractor import Extractor, extract
from pipeline.evaluate.extractors import fitting, load_all, load_one
from pipeline.evaluate.feature_set import TARGET, write_set
from pipeline.evaluate.prepared import fitted, imported, write_hashes
from pipeline.evaluate.program import try_out
from pipeline.evaluate.statistics_files import import_statistics
from pipeline.files import write_json
from pipeline.inference.diagnosis import NotFiniteError
from pipeline.inference.generate import Tally, batches, load_fitting, mean_scores, samples, shuffled
from pipeline.inference.scored import WEIGHTS, digest_of
from pipeline.inference.weights import Trained

logger = logging.getLogger(__name__)


def prepare_extractors(folder: Path, data: Path, settings: Evaluate) -> None:
    """Write what extractors need besides their code: weights that are learnt from the data, hashes of programs.

    Args:
        folder: an existing folder; the caller completes it.
        data: the folder of the dataset.
        settings: which extractors, and where programs lie.

    Raises:
        UserError: a program is missing or takes no images, or an extractor cannot learn from such data.
    """
    programs, device = [name for name in settings.extractors if name.endswith(PROGRAM)], default_device()
    write_hashes(folder, Path(settings.path), programs)
    for name in settings.extractors:
        if name in programs:
            path = Path(settings.path, name)
            try_out(load_one(name, settings, folder, device), path, _some(open_dataset(data)))
        elif fit := fitting(name):
            fit(fitted(folder, name), open_dataset(data), device)


def prepare_statistics(folder: Path, settings: Evaluate) -> None:
    """Write the statistics of others that FID compares with, checked, and the hashes of their files.

    Args:
        folder: an existing folder; the caller completes it.
        settings: which, and where they lie.

    Raises:
        UserError: a file is missing or damaged.
    """
    write_hashes(folder, Path(settings.path), settings.statistics.values())
    for name, file in settings.statistics.items():
        import_statistics(Path(settings.path, file))
        shutil.copyfile(Path(settings.path, file), imported(folder, name))


def make_reference(folder: Path, data: Path, settings: Evaluate, prepared: Path) -> None:
    """Write what every extractor of the settings sees in the real images of a dataset; as ``write_reference`` does.

    Args:
        folder: an existing folder; the caller completes it.
        data: the folder of the dataset.
        settings: which extractors, and of which images.
        prepared: what ``prepare_extractors`` wrote.
    """
    write_reference(folder, open_dataset(data), settings, load_all(settings, prepared, default_device()))


def generate(
    folder: Path,
    weights: Path,
    data: Path,
    settings: Evaluate,
    prepared: Path,
    classes: Sequence[str] | None,
    at_a_time: int,
) -> None:
    """Sample a run's weights once and write what metrics need of the samples; as ``write_samples`` does.

    Args:
        folder: an existing folder; the caller completes it.
        weights: the run's weights file.
        data: the folder of the dataset that it was trained on.
        settings: which extractors see how many samples.
        prepared: what ``prepare_extractors`` wrote.
        classes: the two domains of a run that translates, else None.
        at_a_time: images that a process of its training took at once, and the nets take here at most.
    """
    dataset, device = open_dataset(data), default_device()
    first, second = domains(dataset, classes)
    trained = load_fitting(weights, dataset.spec, device)
    write_samples(folder, trained, first, settings, load_all(settings, prepared, device), second, at_a_time)


def write_reference(folder: Path, dataset: Dataset, settings: Evaluate, extractors: Sequence[Extractor]) -> None:
    """Write the feature set of the real images that every run is compared with, statistics included.

    Args:
        folder: an existing folder; the caller completes it.
        dataset: the real images.
        settings: which split, how many images, and the seed of their order.
        extractors: each sees every image.
    """
    _write_real(folder, dataset, settings, extractors, {})


def write_samples(
    folder: Path,
    trained: Trained,
    dataset: Dataset,
    settings: Evaluate,
    extractors: Sequence[Extractor],
    second: Dataset | None = None,
    at_a_time: int | None = None,
) -> None:
    """Sample a run's averaged weights once and write the feature set of the samples and the method's own scores.

    Samples or scores that are not finite are this run's trouble alone: they are refused in the files, with the reason,
    and the pipeline goes on.

    Args:
        folder: an existing folder; the caller completes it.
        trained: the method and its weights; it samples where they are.
        dataset: the real images that samples are drawn beside.
        settings: how many samples, their seed and truncation.
        extractors: each sees every sample.
        second: the domain into which the method translates, whose features are then written too.
        at_a_time: images that the nets take at once, if fewer than the extractors do (``settings.batch_size``).

    Raises:
        ValueError: the samples are not in [-1, 1].
    """
    split = dataset.splits[settings.split]
    rows = shuffled(len(split), settings.samples, settings.seed)
    few = replace(settings, batch_size=min(settings.batch_size, at_a_time or settings.batch_size))
    plan: dict[str, Any] = {"seed": settings.seed, "batch_size": few.batch_size, "device": trained.device}
    like, tally = batches(split, rows, truncation=settings.truncation, **plan), Tally()
    images: dict[str, Any] = {"split": settings.split, "count": settings.samples, "seed": settings.seed}
    images |= {"digest": dataset.digest, "truncation": settings.truncation} | _about_weights(trained)
    try:
        found = extract(extractors, _gathered(samples(trained, like, tally), settings.batch_size))
    except NotFiniteError as error:
        logger.error("%s The run gets no scores.", error)
        write_json(folder / "protocol.json", _protocol(images, extractors) | {"refused": str(error)})
        return
    if tally.redrawn:
        logger.warning("%s of %s samples were not finite and were drawn anew", tally.redrawn, tally.samples)
        images["redrawn"] = tally.redrawn
    if second:
        images["distinct"] = min(settings.samples, len(split))  # a translation of the same image is the same again
        (folder / TARGET).mkdir()
        about = {"class": int(second.splits[settings.split].labels[0])}
        _write_real(folder / TARGET, second, settings, extractors, about)
    images |= _about_labels(trained, next(batches(split, rows[:8], truncation=settings.truncation, **plan)))
    write_set(folder, split.labels_of(rows.numpy()), found, _protocol(images, extractors), statistics=False)
    write_json(folder / "scores.json", _own_scores(trained, dataset, few))


def _write_real(
    folder: Path, dataset: Dataset, settings: Evaluate, extractors: Sequence[Extractor], about: Mapping[str, Any]
) -> None:
    split = dataset.splits[settings.split]
    count = min(len(split), settings.reference_samples or len(split))
    rows = shuffled(len(split), count, settings.seed)
    found = extract(extractors, (split.images(part.numpy()) for part in rows.split(settings.batch_size)))
    images = {"split": settings.split, "count": count, "seed": settings.seed, "digest": dataset.digest, **about}
    write_set(folder, split.labels_of(rows.numpy()), found, _protocol(images, extractors), statistics=True)


def _some(dataset: Dataset) -> Tensor:
    """Return three training images, fewer where there are fewer."""
    split = dataset.splits["train"]
    return split.images(range(min(3, len(split))))


def _about_weights(trained: Trained) -> dict[str, Any]:
    """Say which weights are scored, by which scores that were left of others are told (``are_scores_of``)."""
    return {"images_seen": trained.seen} | ({WEIGHTS: digest_of(trained.source)} if trained.source else {})


def _about_labels(trained: Trained, like: Batch) -> dict[str, bool]:
    """Return {"labelled": False} unless the method's samples are of the labels that it is given: others make other
    images. Else labels.npy only says beside which images they were drawn."""
    classes = trained.spec.classes
    if classes < 2:
        return {"labelled": False}
    others = replace(like, labels=(like.labels + 1) % classes, shared={})
    with torch.inference_mode():
        first, second = (trained.method.sample(trained.nets, batch) for batch in (like, others))
    return {"labelled": False} if torch.equal(first, second) else {}


def _own_scores(trained: Trained, dataset: Dataset, settings: Evaluate) -> dict[str, Any]:
    """Average the method's own scores over the test split, whatever evaluate.split is: a likelihood of training
    images says little."""
    split = dataset.splits["test"]
    count = min(len(split), settings.samples)
    rows = shuffled(len(split), count, settings.seed)
    real = batches(split, rows, seed=settings.seed, batch_size=settings.batch_size, device=trained.device)
    images = {"split": "test", "count": count, "seed": settings.seed, "digest": dataset.digest}
    images |= _about_weights(trained)
    try:
        found = mean_scores(trained, real)
    except NotFiniteError as error:
        logger.error("%s They are left out.", error)
        return {"values": {}, "errors": {}, "images": images, "refused": str(error)}
    values = {name: mean.value for name, mean in found.items()}
    errors = {name: mean.error for name, mean in found.items() if mean.error is not None}
    return {"values": values, "errors": errors, "images": images}


def _gathered(parts: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Yield the same images (n, c, h, w), ``count`` at a time: what extractors see at once is another matter than what
    fits into a generator at once."""
    kept: list[Tensor] = []
    for part in parts:
        kept.append(part)
        if sum(map(len, kept)) >= count:
            whole = torch.cat(kept)
            yield from whole[: len(whole) // count * count].split(count)
            kept = [whole[len(whole) // count * count :]]
    if rest := [part for part in kept if len(part)]:
        yield torch.cat(rest)


def _protocol(images: Mapping[str, Any], extractors: Sequence[Extractor]) -> dict[str, Any]:
    known = {key: value for key, value in images.items() if value is not None}
    return {"images": known, "extractors": {extractor.name: extractor.protocol for extractor in extractors}}
