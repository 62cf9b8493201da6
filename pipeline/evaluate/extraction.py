"""The stages `extractors`, `reference` and `generate`: what extractors need, and what they see in real images and in a
run's samples, written to disk."""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import PROGRAM, Evaluate
from pipeline.core.world import default_device
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.evaluate.chunks import STEP, Chunk, Examiner, Materials, Part, Subject, examine_here
from pipeline.evaluate.extractor import Extractor
from pipeline.evaluate.extractors import fitting, load_one
from pipeline.evaluate.feature_set import TARGET, write_set
from pipeline.evaluate.found import Found
from pipeline.evaluate.prepared import fitted, imported, write_hashes
from pipeline.evaluate.program import try_out
from pipeline.evaluate.statistics_files import import_statistics
from pipeline.files import write_json
from pipeline.inference.diagnosis import NotFiniteError, not_finite
from pipeline.inference.generate import drawn_beside, load_fitting, mean_scores
from pipeline.inference.weights import Trained

Examine = Callable[[Materials, Sequence[Chunk]], Iterator[Part]]  # what is found in each of the chunks, in order

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


def make_reference(folder: Path, materials: Materials, examine: Examine = examine_here) -> None:
    """Write what every extractor sees in the real images of a dataset; as ``write_reference`` does.

    Args:
        folder: an existing folder; the caller completes it.
        materials: without weights.
        examine: by whom.
    """
    subject = materials.subject()
    _write_reference(folder, subject, examine(materials, subject.chunks()))


def generate(folder: Path, materials: Materials, examine: Examine = examine_here) -> None:
    """Sample a run's weights once and write what metrics need of the samples; as ``write_samples`` does.

    Args:
        folder: an existing folder; the caller completes it.
        materials: with the run's weights.
        examine: by whom.
    """
    subject, weights = materials.subject(), materials.weights
    assert weights is not None and subject.beside is not None
    spec = subject.beside.spec

    def diagnose(found: str) -> NotFiniteError:
        return not_finite(load_fitting(weights, spec), found)

    _write_samples(folder, subject, examine(materials, subject.chunks()), diagnose)


def write_reference(folder: Path, dataset: Dataset, settings: Evaluate, extractors: Sequence[Extractor]) -> None:
    """Write the feature set of the real images that every run is compared with, statistics included.

    Args:
        folder: an existing folder; the caller completes it.
        dataset: the real images.
        settings: which split, how many images, and the seed of their order.
        extractors: each sees every image.
    """
    subject = Subject(settings=settings, real=dataset)
    examiner = Examiner(subject=subject, extractors=extractors)
    _write_reference(folder, subject, map(examiner.examine, subject.chunks()))


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
    split = drawn_beside(trained.method, settings.split)
    subject = Subject(settings=settings, beside=dataset, real=second, split=split)
    examiner = Examiner(subject=subject, extractors=extractors, trained=trained, at_a_time=at_a_time)
    _write_samples(folder, subject, map(examiner.examine, subject.chunks()), partial(not_finite, trained))


def _write_reference(folder: Path, subject: Subject, parts: Iterable[Part]) -> None:
    _write_real(folder, subject, Found.of(parts), {})


def _write_samples(
    folder: Path, subject: Subject, parts: Iterator[Part], diagnose: Callable[[str], NotFiniteError]
) -> None:
    settings, dataset = subject.settings, subject.beside
    assert dataset is not None
    images: dict[str, Any] = {
        "split": subject.split or settings.split,
        "count": settings.samples,
        "seed": settings.seed,
    }
    images |= {"digest": dataset.digest, "truncation": settings.truncation}
    found = Found.of(parts)
    images |= found.about.weights
    if spoilt := found.spoilt.get("samples") or found.tally.too_many:
        error = diagnose(spoilt)
        logger.error("%s The run gets no scores.", error)
        write_json(folder / "protocol.json", _protocol(images, found) | {"refused": str(error)})
        return
    if found.tally.redrawn:
        logger.warning("%s of %s samples were not finite and were drawn anew", found.tally.redrawn, settings.samples)
        images["redrawn"] = found.tally.redrawn
    if subject.real:
        size = len(subject.drawn_beside)
        images["distinct"] = min(settings.samples, size)  # a translation of the same image is the same again
        (folder / TARGET).mkdir()
        shown = set(subject.real.splits[settings.split].labels.tolist())
        about = {"class": shown.pop()} if len(shown) == 1 else {}
        _write_real(folder / TARGET, subject, found, about)
    images |= {} if found.labelled else {"labelled": False}
    labels = subject.drawn_beside.labels_of(subject.rows.numpy())
    images |= {"paths": settings.paths, "step": STEP} if settings.paths else {}
    paths = {name: torch.cat(parts) for name, parts in found.paths.items()}
    write_set(folder, labels, found.features("samples"), _protocol(images, found), statistics=False, paths=paths)
    write_json(folder / "scores.json", _own_scores(subject, found, diagnose))


def _write_real(folder: Path, subject: Subject, found: Found, about: Mapping[str, Any]) -> None:
    settings, dataset, rows = subject.settings, subject.real, subject.real_rows
    assert dataset is not None
    images = {"split": settings.split, "count": len(rows), "seed": settings.seed, "digest": dataset.digest, **about}
    labels = dataset.splits[settings.split].labels_of(rows.numpy())
    write_set(folder, labels, found.features("real"), _protocol(images, found), statistics=True)


def _own_scores(subject: Subject, found: Found, diagnose: Callable[[str], NotFiniteError]) -> dict[str, Any]:
    """Average the method's own scores."""
    assert subject.beside is not None
    images = {"split": "test", "count": len(subject.scored_rows), "seed": subject.settings.seed}
    images |= {"digest": subject.beside.digest, **found.about.weights}
    if spoilt := found.spoilt.get("scores"):
        error = diagnose(spoilt)
        logger.error("%s They are left out.", error)
        return {"values": {}, "errors": {}, "images": images, "refused": str(error)}
    means = mean_scores(found.scores)
    values = {name: mean.value for name, mean in means.items()}
    errors = {name: mean.error for name, mean in means.items() if mean.error is not None}
    return {"values": values, "errors": errors, "images": images}


def _some(dataset: Dataset) -> Tensor:
    """Return three training images, fewer where there are fewer."""
    split = dataset.splits["train"]
    return split.images(range(min(3, len(split))))


def _protocol(images: Mapping[str, Any], found: Found) -> dict[str, Any]:
    known = {key: value for key, value in images.items() if value is not None}
    return {"images": known, "extractors": found.about.extractors}
