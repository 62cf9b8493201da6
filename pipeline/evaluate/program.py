"""An exported program as an extractor: a file of torch.export (.pt2) in evaluate.path, for any network of one's own.

    images (n, c, h, w) uint8  ->  features (n, d), or features (n, d) and logits (n, k)

It resizes and scales by itself. n is dynamic; c is 1 or 3; where the program was exported with 3 channels, gray images
are repeated. An image's features must not depend on the other images of its batch, which is tried before it is used.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.evaluate.extractor import Extractor
from pipeline.files import verified

_HOW = "Export it by torch.export with a dynamic batch: images (n, c, h, w) uint8 to features (n, d)[, logits (n, k)]."
_TOLERANCE = 1e-3  # of the features' size: another batch size is other kernels, which is rounding and no more


def load(path: Path, sha256: str, device: torch.device) -> Extractor:
    """Return the extractor that a program is.

    Args:
        path: of the file.
        sha256: of the file that the stage `extractors` saw.
        device: where it computes.

    Returns:
        The extractor, called as the file without its ending; its protocol has the file's hash.

    Raises:
        UserError: there is no such file, another one, or it does not take images.
    """
    verified(path, sha256, "Run `dvc repro` to use this one, or bring back the other.")
    try:
        exported = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            exported = move_to_device_pass(exported, str(device))
    except Exception as error:  # zip, pickle, schema and operator errors alike, of no common class
        raise UserError(
            f"{path}: no program of torch.export that can be loaded ({_first_line(error)}). {_HOW}"
        ) from error
    shape = _input_shape(path, exported)
    call = exported.module()

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        try:
            found = call(images.contiguous())
        except torch.OutOfMemoryError:
            raise  # which has a remedy of its own
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: it cannot take images {tuple(images.shape)} ({_first_line(error)}). {_HOW}"
            ) from error
        return _outputs(path, found, len(images))

    name, repeats = path.stem, shape[1] == 3
    return Extractor(
        name=name, weights_sha256=sha256, resize="the program's", network=network, device=device, repeats_gray=repeats
    )


def try_out(extractor: Extractor, path: Path, images: Tensor) -> None:
    """Run a program on a few images, together and one by one.

    Args:
        extractor: made by ``load``.
        path: of the file, for messages.
        images: uint8 (n, c, h, w), two or more.

    Raises:
        UserError: it fails, features are not finite, or depend on the batch.
    """
    together = extractor(images).pooled
    alone = torch.cat([extractor(image[None]).pooled for image in images])
    if not torch.isfinite(together).all():
        raise UserError(f"{path}: features of the data's first images are not all finite. {_HOW}")
    if (together - alone).abs().max() > _TOLERANCE * together.abs().max():
        raise UserError(
            f"{path}: an image's features depend on the other images of its batch. Export the network in evaluation "
            "mode (net.eval()), in which batch norm does not."
        )


def _input_shape(path: Path, exported: Any) -> list[int | None]:
    """Return the shape of a program's one input, None where it is dynamic; UserError unless images fit."""
    named = set(exported.graph_signature.user_inputs)
    values = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in named]
    problem = None
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 4:
        problem = f"it takes {len(values)} input(s), not one of four dimensions"
    elif values[0].dtype != torch.uint8:
        problem = f"its input is {values[0].dtype}, not uint8"
    elif isinstance(values[0].shape[0], int):
        problem = f"its batch is fixed at {values[0].shape[0]} images"
    if problem:
        raise UserError(f"{path}: {problem}. {_HOW}")
    return [size if isinstance(size, int) else None for size in values[0].shape]


def _outputs(path: Path, found: Any, count: int) -> tuple[Tensor, Tensor]:
    outputs = list(found.values()) if isinstance(found, dict) else [found] if isinstance(found, Tensor) else list(found)
    if len(outputs) not in (1, 2) or any(not isinstance(x, Tensor) or x.ndim != 2 or len(x) != count for x in outputs):
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in outputs]
        raise UserError(f"{path}: of {count} images it returns {shapes}. {_HOW}")
    return outputs[0], outputs[1] if len(outputs) == 2 else outputs[0].new_zeros(count, 1)  # one class: IS is 1


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
