"""Samples, translations and reconstructions as PNG files in a folder.

Sample i is a function of (weights, seed, i) and of its label, and number i is its file's name: a folder that an
interrupted command left is completed by the same command, and a larger count adds to it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline import methods
from pipeline.core.batch import Batch, to_uint8, to_unit_range
from pipeline.core.noise import Noise
from pipeline.errors import UserError
from pipeline.files import atomic_folder, write_json
from pipeline.inference.encode import chosen, describe, differs, reconstruct
from pipeline.inference.generate import samples
from pipeline.inference.weights import Trained
from pipeline.ingest.own_images import OwnImages
from pipeline.ingest.source import Report, silent

BATCH_SIZE = 64
_ABOUT = "samples.json"


def write_samples(
    trained: Trained,
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    label: int | None = None,
    truncation: float | None = None,
    batch_size: int = BATCH_SIZE,
    report: Report = silent,
) -> int:
    """Write samples 0 to count - 1 as 000000.png, 000001.png ..., each file complete or absent, and samples.json.

    The images are those of the exported model for the same seeds, where ``seed`` is 0.

    Args:
        trained: the model.
        folder: where to; what the same model, seed, label and truncation left there is completed.
        count: how many.
        seed: of all samples.
        label: of all samples; None: a class-conditional model's classes in turn.
        truncation: bound of normal latents, in standard deviations; None: no bound.
        batch_size: samples at a time; it changes none of them.
        report: called with the progress.

    Returns:
        How many were written now.

    Raises:
        UserError: the folder holds something else, the model translates, or it has no use for label or truncation.
    """
    _check_use(trained, seed, label, truncation)
    conditional = labels_matter(trained)
    about = describe(trained) | {"seed": seed, "truncation": truncation}
    about |= {"label": label, "classes": "in turn" if conditional and label is None else None}
    total = _claim(folder, about, count)
    missing = [number for number in range(count) if not (folder / _name(number)).exists()]
    done = count - len(missing)
    for numbers, images in _drawn(trained, missing, seed, label, truncation, batch_size):
        for number, image in zip(numbers, images, strict=True):
            _write_png(folder / _name(number), image)
        done += len(numbers)
        report("sampling", done, count)
    complete = all((folder / _name(number)).exists() for number in range(total))
    write_json(folder / _ABOUT, about | {"count": total, "complete": complete})
    return len(missing)


def draw_samples(
    trained: Trained,
    count: int,
    *,
    seed: int = 0,
    label: int | None = None,
    truncation: float | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Return the samples that ``write_samples`` writes, (count, c, h, w) uint8; arguments and errors are as there."""
    _check_use(trained, seed, label, truncation)
    parts = _drawn(trained, list(range(count)), seed, label, truncation, batch_size)
    return torch.cat([images for _, images in parts])


def _drawn(
    trained: Trained, numbers: Sequence[int], seed: int, label: int | None, truncation: float | None, batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the samples of these numbers, a batch at a time: which they are, and (n, c, h, w) uint8."""
    classes = max(trained.spec.classes, 1)
    for ids in torch.tensor(numbers, dtype=torch.int64).split(batch_size) if numbers else ():
        labels = ids % classes if label is None else torch.full_like(ids, label)
        like = _like(trained, ids.to(trained.device), labels.to(trained.device), seed, truncation)
        (images,) = samples(trained, iter([like]))
        yield ids.tolist(), images


def write_translations(
    trained: Trained,
    images: OwnImages,
    folder: Path,
    *,
    direction: str | None = None,
    batch_size: int = BATCH_SIZE,
    report: Report = silent,
) -> None:
    """Write the translation of each image as a PNG of its name, and translations.json; all of it or nothing.

    Args:
        trained: a model that translates.
        images: of the first domain of ``direction``.
        folder: where to; it must be absent or empty.
        direction: of the method's ``directions``; None for that of its samples.
        batch_size: images at a time; it changes none of them.
        report: called with the progress.

    Raises:
        UserError: the model does not translate, or the folder is not empty.
    """
    if not trained.method.directions:
        raise UserError(f"{trained.name} translates no images: it samples from noise. Leave the images out (--images).")
    towards = chosen(direction, trained.method.directions)

    def translated(parts: Iterable[Tensor]) -> Iterator[Tensor]:
        for part in parts:
            with torch.inference_mode():
                made = trained.method.translate(trained.nets, to_unit_range(part, trained.device), towards)
            if not torch.isfinite(made).all():
                raise UserError(f"the '{trained.name}' model translates to what is not finite: its training diverged.")
            yield to_uint8(made).cpu()

    about = describe(trained) | {"direction": towards}
    _write_of_images(trained, images, folder, translated, about, "translations.json", batch_size, report)


def write_reconstructions(
    trained: Trained,
    images: OwnImages,
    folder: Path,
    *,
    labels: Tensor | None = None,
    via: str | None = None,
    batch_size: int = BATCH_SIZE,
    report: Report = silent,
) -> float:
    """Write the reconstruction of each image as a PNG of its name, and reconstructions.json; all of it or nothing.

    Args:
        trained: a model that can decode what it encodes.
        images: any.
        folder: where to; it must be absent or empty.
        labels: int64, of all images; None for a model to which they do not matter.
        via: as for ``reconstruct``.
        batch_size: images at a time; it changes none of them.
        report: called with the progress.

    Returns:
        The mean absolute error of a pixel and channel, in levels of 0 to 255; that of each image is in the JSON.

    Raises:
        UserError: the model cannot, or the folder is not empty.
    """

    def reconstructed(parts: Iterable[Tensor]) -> Iterator[Tensor]:
        return reconstruct(trained, parts, labels, via)

    both = trained.method.directions and trained.method.decodes
    about = describe(trained) | ({"direction": chosen(via, trained.method.decodes)} if both else {})
    return _write_of_images(trained, images, folder, reconstructed, about, "reconstructions.json", batch_size, report)


def check_folder(folder: Path) -> None:
    """Raise UserError unless the folder is absent or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: not empty. Name another folder, or remove it.")


def _write_of_images(
    trained: Trained,
    images: OwnImages,
    folder: Path,
    make: Callable[[Iterable[Tensor]], Iterator[Tensor]],
    about: dict[str, Any],
    json_name: str,
    batch_size: int,
    report: Report,
) -> float:
    check_folder(folder)
    files, errors = png_names(images.names), []
    with atomic_folder(folder) as temporary:
        kept: list[Tensor] = []

        def remembered() -> Iterator[Tensor]:
            for part in images.batches(trained.spec, batch_size):
                kept[:] = [part]
                yield part

        for made in make(remembered()):
            errors += (made.float() - kept[0].float()).abs().flatten(1).mean(1).tolist()
            for file, image in zip(files[len(errors) - len(made) : len(errors)], made, strict=True):
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                _write_png(temporary / file, image)
            report("writing", len(errors), len(images))
        rows = zip(images.names, files, errors, strict=True)
        listed = [{"image": name, "file": file, "mean_absolute_difference": error} for name, file, error in rows]
        write_json(temporary / json_name, about | {"images": listed})
    return sum(errors) / len(errors)


def png_names(names: Sequence[str]) -> list[str]:
    """Return a file for each image: its name with .png as its ending, or added to it where two would be one."""
    plain = [str(PurePosixPath(name).with_suffix(".png")) for name in names]
    counts = Counter(plain)
    return [file if counts[file] == 1 else f"{name}.png" for name, file in zip(names, plain, strict=True)]


def _name(number: int) -> str:
    return f"{number:06d}.png"


def _write_png(path: Path, image: Tensor) -> None:
    """Write uint8 (c, h, w); a killed process leaves at most a .part, which the next one overwrites."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    temporary = path.with_name(f".{path.name}.part")
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(temporary, format="PNG")
    temporary.replace(path)


def _claim(folder: Path, about: dict[str, Any], count: int) -> int:
    """Take an absent or empty folder, or one that holds samples of the same kind; return how many it should have."""
    file = folder / _ABOUT
    if not file.exists():
        check_folder(folder)
        write_json(file, about | {"count": count, "complete": False})
        return count
    try:
        there = json.loads(file.read_text())
        others = [key for key in about if there.get(key) != about[key]]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: not readable ({error}). Name another folder, or remove this one.") from error
    if others:
        raise UserError(
            f"{folder}: it holds samples of another {', '.join(others)}. Name another folder, or remove it."
        )
    total = max(count, int(there.get("count", 0)))
    write_json(file, about | {"count": total, "complete": False})
    return total


def _like(trained: Trained, ids: Tensor, labels: Tensor, seed: int, truncation: float | None) -> Batch:
    shape = (len(ids), trained.spec.channels, trained.spec.size, trained.spec.size)
    noise = Noise(seed, ids, truncation=truncation)
    return Batch(images=torch.zeros(shape, device=ids.device), labels=labels, noise=noise)


def _sampled(trained: Trained, label: int, truncation: float | None = None) -> dict[str, Tensor]:
    ids = torch.arange(2, device=trained.device)
    with torch.inference_mode():
        return {"images": trained.method.sample(trained.nets, _like(trained, ids, ids * 0 + label, 0, truncation))}


def sampling_otherwise(trained: Trained, settings: Mapping[str, Any]) -> Trained:
    """Return a model that samples with other values of its method's params, such as a temperature or a number of steps.

    Args:
        trained: the model.
        settings: the params that differ, by name.

    Returns:
        The same nets under the new params.

    Raises:
        UserError: the method has no such param, the value does not fit, or it is none of sampling: nets of another
            shape would be needed, or no sample changes.
    """
    for key, value in settings.items():
        try:
            method = methods.load(trained.name, **asdict(trained.method) | {key: value})
            with torch.device("meta"):
                built = method.build(trained.spec).state_dict()
        except (TypeError, ValueError) as error:
            raise UserError(f"{error}") from error
        own = trained.nets.state_dict()
        other = replace(trained, method=method, params=asdict(method))
        fits = built.keys() == own.keys() and all(built[name].shape == own[name].shape for name in own)
        pair = (trained, other)
        if not fits or not differs(lambda number, pair=pair: _sampled(pair[number], 0)):  # type: ignore[misc]
            raise UserError(f"{key}: set to {value}, it changes no sample of this {trained.name} model. Leave it out.")
        trained = other
    return trained


def labels_matter(trained: Trained) -> bool:
    """Tell whether a model's samples depend on their labels."""
    return trained.spec.classes > 1 and differs(lambda label: _sampled(trained, label))


def _check_use(trained: Trained, seed: int, label: int | None, truncation: float | None) -> None:
    if trained.method.directions:
        raise UserError(f"{trained.name} translates images: name those to translate (--images).")
    if seed < 0:
        raise UserError(f"seed: should be 0 or more, got {seed}.")
    if label is not None and not 0 <= label < trained.spec.classes:
        raise UserError(f"label: should be below {trained.spec.classes}, the number of classes, got {label}.")
    if label is not None and not labels_matter(trained):
        raise UserError(f"label: this {trained.name} model is not class-conditional. Leave it out.")
    if truncation is None:
        return
    if truncation <= 0:
        raise UserError(f"truncation: should be above 0, got {truncation}.")
    if not differs(lambda number: _sampled(trained, 0, truncation if number else None)):
        raise UserError(f"truncation: this {trained.name} model has no normal latents. Leave it out.")
