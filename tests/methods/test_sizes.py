"""Which image sizes each method takes at its defaults, and what it says of the others.

The nets are on the meta device, where shapes cost nothing, and an iteration goes through all of them.
"""

import pytest
import torch

from pipeline import methods
from pipeline.core.batch import ImageSpec
from pipeline.training.rehearsal import build_without_numbers, rehearse

SIZES = (8, 16, 24, 28, 30, 32, 36, 48, 64, 96, 100, 128, 256, 418)
PYRAMID = {size: f"data.size: {size} is not 4, 5, .* power of two; set it to" for size in (100, 418)}
CODES = {418: "data.size: 418 halves to 209 codes per side, which are too many; set it to 416 or 432"}
QUARTERS = {size: f"data.size: {size} is not a multiple of 4; set it to" for size in (30, 418)}
# What a method refuses at its defaults; sizes that are not here work.
REFUSED: dict[str, dict[int, str]] = {
    **dict.fromkeys(methods.names(), PYRAMID),
    **{name: {} for name in ("flow_matching", "gan", "glow", "nsf", "realnvp", "reflow")},
    **dict.fromkeys(("vqvae", "vqgan", "vq_transformer"), CODES),
    "cyclegan": QUARTERS,
    "pix2pix": {},
}


def rehearsed(name: str, size: int, samples: int = 4, **settings: object) -> None:
    method, spec = methods.load(name, **settings), ImageSpec(channels=3, size=size, classes=3)
    rehearse(method, build_without_numbers(method, spec), spec, samples=samples, images=100)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_works_at_a_size_or_says_which_it_takes(name: str) -> None:
    for size in SIZES:
        spec = ImageSpec(channels=3, size=size, classes=3)
        if message := REFUSED[name].get(size):
            with pytest.raises(ValueError, match=message):
                build_without_numbers(methods.load(name), spec)
        else:
            build_without_numbers(methods.load(name), spec)
    for size in (8, 28):
        rehearsed(name, size)


@pytest.mark.parametrize(
    ("name", "size", "settings", "message"),
    [
        ("dcgan", 33, {}, "set it to 32 or 36"),
        ("dcgan", 9, {}, "set it to 8 or 10"),
        ("glow", 33, {}, "data.size: 33 is odd; set it to 32 or 34"),
        (
            "glow",
            28,
            {"levels": 3},
            "28 cannot be halved 3 times, as levels: 3 does; set it to 24 or 32, or levels to 2",
        ),
        ("realnvp", 28, {"levels": 4}, "cannot be halved 3 times, as levels: 4 does; .* or levels to 3"),
        ("vqvae", 28, {"grid": 8}, "grid: data.size 28 should be 8 times 1, 2, 4, 8 ...; set it to 28, 14, 7"),
        ("flow_matching", 28, {"levels": 4}, "cannot be halved 3 times, as levels: 4 does; set it to 24 or 32"),
        ("pix2pix", 33, {}, "data.size: 33 is odd; set it to 32 or 34"),
        ("pix2pix", 28, {"levels": 3}, "28 cannot be halved 3 times, as levels: 3 does; set it to 24 or 32"),
        ("vqgan", 16, {"patch_steps": 3}, "patch_steps: 3 need images of 24 pixels or more, not 16"),
        ("cyclegan", 16, {"patch_steps": 3}, "patch_steps: 3 need images of 24 pixels or more, not 16"),
        ("cyclegan", 8, {"blocks": 1, "width": 4, "upsampling": "nearest", "patch_steps": 2}, "patch_steps: 2 need"),
    ],
)
def test_a_refusal_names_what_fits(name: str, size: int, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rehearsed(name, size, **settings)


@pytest.mark.parametrize(
    ("size", "grid"), [(8, 8), (12, 6), (16, 8), (20, 10), (28, 7), (30, 15), (32, 8), (48, 6), (256, 8)]
)
def test_the_grid_of_codes_follows_the_size(size: int, grid: int) -> None:
    assert methods.load("vqvae").codes_per_side(size) == grid  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "levels"), [(8, 3), (28, 2), (30, 1), (32, 3), (64, 3)])
def test_the_levels_of_a_flow_follow_the_size(size: int, levels: int) -> None:
    assert methods.load("glow").depth(size) == levels  # type: ignore[attr-defined]
    assert methods.load("realnvp").depth(size) == min(levels + 1, 3)  # type: ignore[attr-defined]


def test_a_batch_of_one_is_enough_or_the_norm_that_needs_two_is_named() -> None:
    for name in methods.names():
        if name == "gan":
            with pytest.raises(ValueError, match=r"batch_size: batch norm needs two images or more.*layer"):
                rehearsed(name, 16, samples=1)
            rehearsed(name, 16, samples=1, generator_norm="layer")
        else:
            rehearsed(name, 16, samples=1)
    with pytest.raises(ValueError, match="batch_size: batch norm needs two images"):
        rehearsed("nsf", 8, samples=1)


def test_an_instance_norm_over_one_pixel_is_named() -> None:
    with pytest.raises(ValueError, match=r"data\.size: instance norm needs maps of more than one pixel"):
        rehearsed("nsf", 8, net_norm="instance")


def test_a_rehearsal_says_what_a_training_on_numbers_says() -> None:
    """The batch that the rehearsal refuses is one that torch refuses."""
    generator = methods.load("gan").build(ImageSpec(channels=1, size=16))["generator"].train()
    generator(torch.randn(2, 100))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        generator(torch.randn(1, 100))
