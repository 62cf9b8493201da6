"""A small network that learns the classes of the training images: the judge where ImageNet's features mislead, as on
digits. Features of the domain at hand tell more: Xu et al., "An empirical study on evaluation metrics of generative
adversarial networks", 2018, arXiv:1806.07755, sec. 3. 128 pooled features; logits of the data's classes.

It is trained once per dataset by the stage `extractors`, with the same budget and seed whatever the runs' settings are,
because numbers of two judges do not compare. Its accuracy on the test images is part of each number's protocol: a judge
that is often wrong says little.

Shapes: n images, c channels, h = w pixels, k classes.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from pipeline.core.batch import to_unit_range
from pipeline.core.noise import Noise
from pipeline.data.augmentation import Augmentation
from pipeline.data.dataset import Dataset, Split
from pipeline.errors import UserError
from pipeline.evaluate.extractor import Extractor
from pipeline.files import atomic_file

NAME = "classifier"
WIDTHS, STRIDES = (32, 64, 128, 128), (2, 2, 1, 2)
LARGEST = 32  # pixels; larger images are brought to this size
SEED, BATCH = 0, 128
IMAGES, PASSES = 120_000, 4  # shown in training at least; and how often each one at least
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 1e-2, 0.1
SHIFT = 16  # an image is shifted by up to one in so many of its pixels
_HEADER = "genloom-classifier-1"

logger = logging.getLogger(__name__)


class Network(nn.Module):
    """uint8 (n, c, h, w) to pooled (n, 128) and logits (n, k)."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.channels, self.size = channels, min(size, LARGEST)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=stride, padding=1)
            for (before, after), stride in zip(pairwise((channels, *WIDTHS)), STRIDES, strict=True)
        )
        self.head = nn.Linear(WIDTHS[-1], classes)
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] != self.channels:
            raise ValueError(f"{NAME}: it was trained on images of {self.channels} channel(s), got {images.shape[1]}")
        return self.judge(to_unit_range(images, images.device))

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Take images (n, c, h, w) in [-1, 1]."""
        x = images
        if x.shape[-1] != self.size:
            x = interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        for layer in self.layers:
            x = layer(x).relu()
        pooled = x.mean((2, 3))
        return pooled, self.head(pooled)


def fit(path: Path, dataset: Dataset, device: torch.device) -> None:
    """Train the network on the training images and write it, with its accuracy on the test images.

    Equal data make equal weights on one machine: all random numbers are of a fixed seed, and it is one process.

    Args:
        path: of the file.
        dataset: with labels.
        device: where it is trained.

    Raises:
        UserError: the data have fewer than two classes.
    """
    spec = dataset.spec
    if spec.classes < 2:
        raise UserError(no_classes(spec.classes))
    with torch.random.fork_rng(devices=[]), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        torch.manual_seed(SEED)
        network = Network(spec.channels, spec.size, spec.classes)
        network.to(device).to(memory_format=torch.channels_last)
        _train(network, dataset.splits["train"], device)
    accuracy = _accuracy(network.eval(), dataset.splits["test"], device)
    logger.info("%s: %.2f%% of the test images are put into their own class", NAME, 100 * accuracy)
    about: dict[str, Any] = {"channels": spec.channels, "size": spec.size, "classes": spec.classes}
    about |= {"data": dataset.digest, "images_shown": _steps(dataset.splits["train"]) * BATCH}
    about |= {"test_accuracy": accuracy}
    tensors = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, {_HEADER: json.dumps(about, sort_keys=True)})


def load(weights: str | None, device: torch.device) -> Extractor:
    """Return the extractor.

    Args:
        weights: the file that ``fit`` wrote.
        device: where it computes.

    Returns:
        The extractor; its protocol has the test accuracy and the data that it was trained on.

    Raises:
        UserError: there is no such file, or another one.
    """
    try:
        with safe_open(weights or "", "pt", device=str(device)) as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise UserError(
            f"{weights}: no readable {NAME} ({error!r}). Run `dvc repro extractors` to train it."
        ) from error
    network = Network(about["channels"], about["size"], about["classes"])
    network.load_state_dict(tensors)
    network.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    digest = hashlib.sha256(b"".join(tensors[key].cpu().numpy().tobytes() for key in sorted(tensors))).hexdigest()
    size = network.size
    trained = {"split": "train", "data": about["data"], "images_shown": about["images_shown"], "seed": SEED}
    return Extractor(
        name=NAME,
        weights_sha256=digest,
        resize="none" if about["size"] == size else f"{size}x{size} bilinear antialias float32",
        network=network,
        device=device,
        repeats_gray=False,
        about={"trained": trained, "test_accuracy": about["test_accuracy"]},
    )


def no_classes(count: int) -> str:
    """Say that data of so many classes cannot train it."""
    return (
        f"evaluate.extractors: {NAME} learns the classes of the data, which have {count} class(es). Choose another "
        "extractor, or a source with classes."
    )


def _train(network: Network, split: Split, device: torch.device) -> None:
    """Train in place: AdamW, a linear warm-up and a cosine decay, shifted images."""
    steps = _steps(split)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    shifted = Augmentation(crop=_size(split) // SHIFT)
    for step, (rows, ids) in enumerate(_order(len(split), steps)):
        warm, after = min(1.0, (step + 1) / (WARM_UP * steps)), max(0.0, step / steps - WARM_UP) / (1 - WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm * (1 + math.cos(math.pi * after)) / 2
        images = to_unit_range(split.images(rows.numpy()), device)
        images = shifted(images, Noise(SEED, ids.to(device)).stream(NAME)).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        cross_entropy(network.judge(images)[1], split.labels_of(rows.numpy()).to(device)).backward()
        optimizer.step()


def _steps(split: Split) -> int:
    return max(IMAGES, PASSES * len(split)) // BATCH


def _size(split: Split) -> int:
    """Return the height of a split's images, in pixels."""
    return split.images([0]).shape[-1]


def _order(count: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each step, the numbers of its images (BATCH,) and those of its samples; each pass in a new order."""
    noise = Noise(SEED, torch.arange(count)).stream(NAME)
    left, passes = torch.empty(0, dtype=torch.int64), 0
    for step in range(steps):
        while len(left) < BATCH:
            left = torch.cat([left, noise.uniform(f"order {passes}").argsort(stable=True)])
            passes += 1
        yield left[:BATCH], torch.arange(step * BATCH, (step + 1) * BATCH)
        left = left[BATCH:]


def _accuracy(network: Network, split: Split, device: torch.device) -> float:
    right = 0
    with torch.inference_mode():
        for rows in torch.arange(len(split)).split(512):
            _, logits = network(split.images(rows.numpy()).to(device))
            right += int((logits.argmax(1).cpu() == split.labels_of(rows.numpy())).sum())
    return right / len(split)
