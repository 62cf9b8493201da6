"""Samples belong to (seed, number) and to the real images, not to batches; what is not an image is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samplers import Copying, trained
from torch import Tensor
from toy_data import toy_split

from pipeline.core.batch import Batch, ImageSpec, to_unit_range
from pipeline.core.noise import Noise
from pipeline.data.dataset import ArrayStore, Split
from pipeline.errors import UserError
from pipeline.inference import generate as sampling
from pipeline.inference.weights import save_weights
from pipeline.methods import load

GRAY = ImageSpec(channels=1, size=16, classes=10)


def test_the_order_is_a_seeded_shuffle_that_starts_again() -> None:
    order = sampling.shuffled(50, 120, 3)
    assert torch.equal(order[:50].sort().values, torch.arange(50))
    assert torch.equal(order[:50], order[50:100]) and torch.equal(order[100:], order[:20])
    assert not torch.equal(order[:50], torch.arange(50))
    assert not torch.equal(order, sampling.shuffled(50, 120, 4))
    assert torch.equal(order[:7], sampling.shuffled(50, 7, 3))


def test_labels_come_as_often_as_among_the_real_images() -> None:
    split = Split(
        ArrayStore((np.zeros((40, 8, 8, 1), dtype=np.uint8),)), np.repeat([0, 1, 2], [30, 9, 1]).astype(np.int64)
    )
    rows = sampling.shuffled(40, 40, 0)
    found = torch.cat([b.labels for b in sampling.batches(split, rows, seed=0, batch_size=7, device="cpu")])
    assert found.bincount().tolist() == [30, 9, 1]
    assert found.tolist() != sorted(found.tolist())


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_samples_do_not_depend_on_the_batch_size(name: str) -> None:
    model, split, rows = trained(load(name, width=8), GRAY), toy_split(48), sampling.shuffled(48, 30, 0)

    def sampled(batch_size: int, seed: int = 0) -> Tensor:
        like = sampling.batches(split, rows, seed=seed, batch_size=batch_size, device="cpu")
        return torch.cat(list(sampling.samples(model, like))).int()

    whole = sampled(30)
    assert whole.shape == (30, 1, 16, 16)
    for size in (1, 7):  # 30 is no multiple of 7: nothing is padded
        assert sampled(size).shape == whole.shape
        assert (sampled(size) - whole).abs().max() <= 1  # one level of rounding
    assert (sampled(30, seed=1) - whole).abs().max() > 10


def test_samples_are_drawn_beside_their_real_images() -> None:
    split, rows = toy_split(48), sampling.shuffled(48, 20, 0)
    like = sampling.batches(split, rows, seed=0, batch_size=8, device="cpu")
    found = torch.cat(list(sampling.samples(trained(Copying(), GRAY), like)))
    assert torch.equal(found, split.images(rows.numpy()))


def test_images_out_of_range_or_not_finite_raise() -> None:
    like = list(sampling.batches(toy_split(8), torch.arange(8), seed=0, batch_size=8, device="cpu"))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        list(sampling.samples(trained(Copying(factor=2.0), GRAY), iter(like)))
    with pytest.raises(UserError, match=r"not finite.*learning rate"):
        list(sampling.samples(trained(Copying(factor=float("nan")), GRAY), iter(like)))


def test_scores_are_means_over_images_not_over_batches() -> None:
    split, model = toy_split(10), trained(Copying(), GRAY)
    expected = to_unit_range(split.images(range(10)), torch.device("cpu")).double().flatten(1).mean()
    for size in (10, 4):
        real = sampling.batches(split, torch.arange(10), seed=0, batch_size=size, device="cpu")
        assert sampling.mean_scores(model, real) == {"mean_pixel": pytest.approx(float(expected), rel=1e-5)}
    nan = Batch(
        images=torch.full((2, 1, 16, 16), float("nan")), labels=torch.zeros(2).long(), noise=Noise(0, torch.arange(2))
    )
    with pytest.raises(ValueError, match="'mean_pixel' is not finite"):
        sampling.mean_scores(model, iter([nan]))
    assert sampling.mean_scores(trained(load("dcgan", width=8), GRAY), iter([nan])) == {}


def test_weights_of_other_images_are_refused(tmp_path: Path) -> None:
    method = load("vae", width=8)
    nets = method.build(GRAY)
    save_weights(
        tmp_path / "w", name="vae", params={"width": 8}, spec=GRAY, seen=10, nets=nets, ema=torch.nn.ModuleDict()
    )
    assert sampling.load_fitting(tmp_path / "w", GRAY).seen == 10
    with pytest.raises(UserError, match=r"trained on .*size=16.*out/data has .*size=8.*dvc repro"):
        sampling.load_fitting(tmp_path / "w", replace(GRAY, size=8))
