"""Images to latents or codes and back, by methods that can: each image for itself, whatever batch it is in.

What an image is encoded to is a function of the image, the weights and, where the model is class-conditional, the
label. Flows add the same dequantization noise to every image.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline import methods, registry
from pipeline.core.batch import Batch, to_uint8, to_unit_range
from pipeline.core.noise import Noise
from pipeline.errors import UserError
from pipeline.files import atomic_file, write_json
from pipeline.inference.weights import Trained

FORMAT = "genloom-encodings-1"
SUFFIXES = (".npz", ".npy", ".safetensors")


def plain_batch(images: Tensor, labels: Tensor) -> Batch:
    """Make a batch of images (n, c, h, w) in [-1, 1] whose noise is the same for every image, so of no place in it."""
    return Batch(images=images, labels=labels, noise=Noise(0, torch.zeros_like(labels)))


def describe(trained: Trained) -> dict[str, Any]:
    """Return what identifies a model beside its outputs: method, params, images seen, and a hash of its weights."""
    digest = hashlib.sha256()
    for name, value in sorted(trained.nets.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    about = {"method": trained.name, "params": dict(trained.params), "seen": trained.seen}
    return about | {"weights_sha256": digest.hexdigest()}


def check_encodes(trained: Trained, *, decodes: bool = False) -> None:
    """Raise UserError, naming the methods that can, if this one cannot encode (or decode what it encoded)."""
    method = trained.method
    if method.decodes if decodes else method.encodes:
        return
    able = [name for name in registry.names("pipeline.methods") if _is_able(name, decodes)]
    what = "reconstruct" if decodes else "encode"
    why = (
        f"what it encodes ({', '.join(method.encodes)}) does not say the whole image"
        if method.encodes
        else "no encoder"
    )
    raise UserError(f"{trained.name} cannot {what} images: {why}. Methods that can: {', '.join(able)}.")


def encode(trained: Trained, images: Iterable[Tensor], labels: Tensor | None = None) -> Iterator[dict[str, Tensor]]:
    """Encode batches of images.

    Args:
        trained: a model that can encode.
        images: uint8 (n, c, h, w) of the model's size and channels, batch by batch.
        labels: int64, of all images; None for a model to which they do not matter.

    Yields:
        By name, (n, ...) on the CPU: a VAE's mean and log_variance, a VQ-VAE's codes, a flow's latents and
        log_likelihood, InfoGAN's category and codes, CycleGAN's two translations.

    Raises:
        UserError: the model cannot encode, or depends on the labels and has none.
    """
    check_encodes(trained)
    for batch in _batches(trained, images, labels):
        with torch.no_grad():
            encoded = trained.method.encode(trained.nets, batch)
        yield {name: encoded[name].cpu() for name in trained.method.encodes}


def reconstruct(
    trained: Trained, images: Iterable[Tensor], labels: Tensor | None = None, via: str | None = None
) -> Iterator[Tensor]:
    """Encode batches of images and decode them again.

    Args:
        trained: a model that can decode what it encodes.
        images: uint8 (n, c, h, w) of the model's size and channels, batch by batch.
        labels: int64, of all images; None for a model to which they do not matter.
        via: what to decode, of the method's ``decodes``; None for the usual one. CycleGAN translates an image in this
            direction and back.

    Yields:
        uint8 (n, c, h, w) on the CPU.

    Raises:
        UserError: the model cannot, depends on the labels and has none, or gives what is not finite.
    """
    check_encodes(trained, decodes=True)
    name = chosen(via, trained.method.decodes)
    for batch in _batches(trained, images, labels):
        with torch.no_grad():
            encoded = trained.method.encode(trained.nets, batch)
            decoded = trained.method.decode(trained.nets, {name: encoded[name]}, batch.labels)
        if not torch.isfinite(decoded).all():
            raise UserError(
                f"the '{trained.name}' model reconstructs images to what is not finite: it is not trained well"
            )
        yield to_uint8(decoded).cpu()


def chosen(name: str | None, known: Sequence[str]) -> str:
    """Return the name if it is known, or the first for None; UserError for another."""
    if name is not None and name not in known:
        raise UserError(f"direction: there is no '{name}'; this model has {', '.join(known)}.")
    return name or known[0]


def differs(function: Callable[[int], Mapping[str, Tensor]]) -> bool:
    """Tell whether a function of a label (or of another whole number) gives anything else for 1 than for 0."""
    first, second = function(0), function(1)
    return any(not torch.equal(first[name], second[name]) for name in first)


def write_encodings(
    path: Path, parts: Iterable[Mapping[str, Tensor]], names: Sequence[str], about: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Write what images were encoded to; the file is complete or absent.

    Args:
        path: an .npz with all arrays, ``names`` and ``about`` (JSON), to be read without pickle; a .safetensors with
            all tensors, the rest as JSON in its header; or an .npy with the first array, the rest in a .json beside.
        parts: of ``encode``.
        names: of the images, in order.
        about: what else is worth keeping.

    Returns:
        The shapes by name.

    Raises:
        UserError: the ending is another, or an image is encoded to what is not finite.
    """
    check_target(path)
    collected: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, values in part.items():
            start = sum(len(earlier) for earlier in collected.get(name, []))
            finite = values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()
            if not finite.all():
                wrong = names[start + int((~finite).nonzero()[0])]
                raise UserError(f"'{wrong}': its {name} is not finite. The model may have diverged in training.")
            collected.setdefault(name, []).append(values)
    whole = {name: torch.cat(values) for name, values in collected.items()}
    with atomic_file(path) as temporary:
        _write(temporary, path.suffix, whole, names, about)
    if path.suffix == ".npy":
        first = next(iter(whole))
        write_json(path.with_suffix(".json"), {"names": list(names), "array": first, "about": dict(about)})
    return {name: tuple(values.shape) for name, values in whole.items()}


def check_target(path: Path) -> None:
    """Raise UserError unless ``write_encodings`` can write this file and none is lost by it."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the ending says the format; use one of {', '.join(SUFFIXES)}.")
    for file in (path, path.with_suffix(".json")) if path.suffix == ".npy" else (path,):
        if file.exists():
            raise UserError(f"{path}: there is a file {file} already. Name another, or remove it.")


def _write(
    file: Path, suffix: str, whole: Mapping[str, Tensor], names: Sequence[str], about: Mapping[str, Any]
) -> None:
    if suffix == ".safetensors":
        header = {FORMAT: json.dumps({"names": list(names), "about": dict(about)}, sort_keys=True)}
        save_file({name: values.contiguous() for name, values in whole.items()}, file, header)
        return
    with file.open("wb") as opened:
        if suffix == ".npy":
            np.save(opened, next(iter(whole.values())).numpy())
        else:
            arrays = {name: values.numpy() for name, values in whole.items()}
            text = json.dumps(dict(about), sort_keys=True)
            np.savez(opened, allow_pickle=False, names=np.array(names), about=np.array(text), **arrays)


def _batches(trained: Trained, images: Iterable[Tensor], labels: Tensor | None) -> Iterator[Batch]:
    device, start = trained.device, 0
    shape = (trained.spec.channels, trained.spec.size, trained.spec.size)
    for part in images:
        if part.dtype != torch.uint8 or part.shape[1:] != shape:
            raise ValueError(
                f"images must be uint8 (n, {', '.join(map(str, shape))}), got {part.dtype} {tuple(part.shape)}"
            )
        unit = to_unit_range(part, device)
        if start == 0 and labels is None:
            _check_label_free(trained, unit[:2])
        given = torch.zeros(len(part), dtype=torch.int64) if labels is None else labels[start : start + len(part)]
        yield plain_batch(unit, given.to(device))
        start += len(part)


def _check_label_free(trained: Trained, images: Tensor) -> None:
    def encoded(label: int) -> dict[str, Tensor]:
        labels = torch.full((len(images),), label, device=images.device)
        with torch.no_grad():
            return trained.method.encode(trained.nets, plain_batch(images, labels))

    if trained.spec.classes > 1 and differs(encoded):
        raise UserError(
            f"this {trained.name} model is class-conditional: what an image is encoded to depends on its class. Give "
            "its label."
        )


def _is_able(name: str, decodes: bool) -> bool:
    method = methods.find(name)
    return bool(method.decodes if decodes else method.encodes)
