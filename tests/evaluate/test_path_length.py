"""Path length: closed forms of generators that are known, and the same pairs however they are dealt out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from samplers import Copying, trained
from torch import Tensor
from toy_data import toy_split

from pipeline.config import Evaluate
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Method, Nets, Phase
from pipeline.core.noise import Noise
from pipeline.data.dataset import Dataset
from pipeline.evaluate.chunks import STEP
from pipeline.evaluate.extraction import write_samples
from pipeline.evaluate.extractor import Extractor
from pipeline.evaluate.feature_set import FeatureSet, read_set
from pipeline.evaluate.metric import UnfitError
from pipeline.evaluate.metrics import path_length
from pipeline.inference.path import between

SPEC = ImageSpec(channels=1, size=16)
SETTINGS = Evaluate(extractors=["pixels.pt2"], samples=12, paths=300, batch_size=64, truncation=None)
ROUNDING = 256 * 2 / 12 / 127.5**2  # the variance of 256 differences of two values rounded to levels


class Showing(Method):
    """Latents as pixels: images are linear in the latents."""

    sampled: ClassVar[tuple[str, ...]] = ()

    def build(self, spec: ImageSpec) -> Nets:
        return Nets()

    def phases(self) -> tuple[Phase, ...]:
        return ()

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return (like.noise.normal("latent", 256) / 6).clamp(-1, 1).view(-1, 1, 16, 16)


def pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    flat = images[:, 0].flatten(1).float() / 127.5
    return flat, flat


def found(folder: Path, method: Method, **changes: Any) -> FeatureSet:
    split = toy_split(40)
    dataset = Dataset(spec=SPEC, splits={"train": split, "test": split}, info={"digest": "d"})
    extractor = Extractor(name="pixels", weights_sha256="", resize="none", network=pixels, device=torch.device("cpu"))
    folder.mkdir()
    write_samples(folder, trained(method, SPEC), dataset, replace(SETTINGS, **changes), [extractor])
    return read_set(folder, "pixels", "generate")


def test_of_latents_as_pixels_it_is_the_square_of_the_arc(tmp_path: Path) -> None:
    """Two latents of 256 dimensions are at a right angle, 16 long, so that a step turns by pi / 2 / 16: a chord of
    2 r sin(angle / 2), in pixels a sixth of it."""
    score = path_length.METRIC.compute(found(tmp_path / "a", Showing()), FeatureSet.of_scores({}, {}, 0))["path_length"]
    chord = 2 * 16 / 6 * math.sin(math.pi / 4 * STEP)
    assert score.value == pytest.approx((chord**2 + ROUNDING) / STEP**2, rel=0.02)
    assert score.error is not None and 0 < score.error < 0.02 * score.value


def test_pairs_do_not_depend_on_how_they_are_divided(tmp_path: Path) -> None:
    whole = found(tmp_path / "a", Showing()).paths
    assert len(whole) == 300 and len(np.unique(whole)) > 290
    for place, changes in (("b", {"batch_size": 7}), ("c", {"samples": 400})):
        assert torch.equal(found(tmp_path / place, Showing(), **changes).paths, whole)
    assert not torch.equal(found(tmp_path / "d", Showing(), seed=1).paths, whole)


def test_a_step_of_a_ten_thousandth_would_measure_the_rounding_to_256_levels() -> None:
    noise = Noise(0, torch.arange(64))
    place = noise.uniform("place") * 0.9

    def length(step: float, levels: bool) -> float:
        ends = [between(noise, noise.ids + 64, place + far).normal("latent", 256) / 6 for far in (0.0, step)]
        if levels:
            ends = [(end * 127.5).round() / 127.5 for end in ends]
        return float((ends[1] - ends[0]).square().sum(1).mean()) / step**2

    assert length(STEP, True) == pytest.approx(length(STEP, False) + ROUNDING / STEP**2, rel=0.01)
    assert 0.05 * length(STEP, False) > ROUNDING / STEP**2
    assert length(1e-4, True) > 20 * length(1e-4, False)


def test_ends_of_the_way_are_the_samples_themselves_and_other_draws_stay() -> None:
    noise, others = Noise(3, torch.arange(5)), Noise(3, torch.arange(5) + 5)
    for fraction, expected in ((0.0, noise), (1.0, others)):
        on_the_way = between(noise, others.ids, torch.full((5,), fraction))
        torch.testing.assert_close(on_the_way.normal("latent", 8), expected.normal("latent", 8), rtol=0, atol=1e-5)
        torch.testing.assert_close(on_the_way.uniform("latent", 8), expected.uniform("latent", 8), rtol=0, atol=1e-6)
        assert torch.equal(on_the_way.normal("pixels", 8), noise.normal("pixels", 8))
        truncated = replace(on_the_way, truncation=0.5).normal("latent", 8)
        torch.testing.assert_close(truncated, replace(expected, truncation=0.5).normal("latent", 8), rtol=0, atol=1e-5)


def test_without_pairs_or_latents_it_says_why(tmp_path: Path) -> None:
    none = FeatureSet.of_scores({}, {}, 0)
    with pytest.raises(UnfitError, match=r"set evaluate\.paths"):
        path_length.METRIC.compute(found(tmp_path / "a", Showing(), paths=0), none)
    with pytest.raises(UnfitError, match="do not depend on continuous latents"):
        path_length.METRIC.compute(found(tmp_path / "b", Copying()), none)
