"""Views of images: what they are in closed form, and that they belong to the image alone."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import toy_split

from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import Dataset, domains
from pipeline.data.views import STEP, VIEWS, edges, gray

COLOURS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 12, 3), dtype=np.uint8))


def drawn(pixels: torch.Tensor) -> set[tuple[int, int]]:
    """Where the lines of one gray image (h, w) are."""
    (found,) = edges(pixels[None, :, :, None].to(torch.uint8))
    assert set(found.unique().tolist()) <= {0, 255}
    return {(int(row), int(column)) for row, column in (found[..., 0] == 0).nonzero()}


def test_gray_is_pillows() -> None:
    found = gray(COLOURS)
    assert found.shape == COLOURS.shape and found.dtype == torch.uint8
    for image, luma in zip(COLOURS.numpy(), found.numpy(), strict=True):
        assert all(np.array_equal(luma[..., channel], Image.fromarray(image).convert("L")) for channel in range(3))


def test_a_step_is_a_line_of_one_pixel_beside_it() -> None:
    step = torch.zeros(8, 8)
    step[:, 4:] = 200
    assert drawn(step) == {(row, 3) for row in range(8)}
    assert drawn(step.T) == {(3, column) for column in range(8)}


def test_a_slanted_step_is_a_slanted_line() -> None:
    """Of two pixels in a row, as the steps between diagonal neighbours lie at half their distance."""
    row, column = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    inner = set(range(1, 11))
    falling, rising = drawn((row > column) * 255), drawn((row + column > 11) * 255)
    assert {(a, b) for a, b in falling if {a, b} <= inner} == {(a, b) for a in inner for b in inner if a - b in (0, 1)}
    assert {(a, b) for a, b in rising if {a, b} <= inner} == {(a, b) for a in inner for b in inner if a + b in (11, 12)}


@pytest.mark.parametrize(("height", "lines"), [(0, 0), (STEP - 1, 0), (STEP, 8), (255, 8)])
def test_a_step_counts_from_its_least_height(height: int, lines: int) -> None:
    step = torch.zeros(8, 8)
    step[:, 3:] = height
    assert len(drawn(step)) == lines


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_a_view_belongs_to_the_image_alone(name: str) -> None:
    whole = VIEWS[name](COLOURS)
    assert torch.equal(torch.cat([VIEWS[name](part) for part in COLOURS.split(1)]), whole)
    assert whole.shape == COLOURS.shape and whole.dtype == torch.uint8


def data(*classes: str, count: int = 48) -> Dataset:
    info = {"classes": list(classes), "digest": "d"}
    return Dataset(spec=ImageSpec(channels=3, size=16), info=info, splits={"train": toy_split(count, channels=3)})


def test_two_views_are_all_images_in_one_order() -> None:
    whole = data(*map(str, range(10)))
    first, second = domains(whole, ("edges", "images"), VIEWS)
    assert second is not None
    of, to = first.splits["train"], second.splits["train"]
    rows = [40, 3, 16]
    images = whole.splits["train"].images(rows)
    assert torch.equal(to.images(rows), images) and len(of) == len(to) == 48
    assert torch.equal(of.images(rows), edges(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert torch.equal(of.of_class(4).images([0, 1]), of.images([4, 14]))


@pytest.mark.parametrize(
    ("classes", "names", "sizes"),
    [
        (["edges", "images"], ["edges", "images"], (24, 24)),  # folders of these names are classes
        (["images"], ["gray", "images"], (48, 48)),  # without labels the one class is all images
    ],
)
def test_names_that_are_both_classes_are_classes(classes: list[str], names: list[str], sizes: tuple[Any, ...]) -> None:
    whole = data(*classes)
    split = whole.splits["train"]
    split.labels[:] = np.arange(48) % len(classes)
    first, second = domains(whole, names, VIEWS)
    assert second is not None and (len(first.splits["train"]), len(second.splits["train"])) == sizes
