"""Samples belong to (seed, number) and to the real images, not to batches; what is not an image is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samplers import Copying, Overflowing, trained
from torch import Tensor
from toy_data import toy_split

from pipeline.core.batch import Batch, ImageSpec, to_unit_range
from pipeline.core.noise import Noise
from pipeline.data.dataset import ArrayStore, Split
from pipeline.errors import UserError
from pipeline.inference import generate as sampling
from pipeline.inference.weights import Trained, save_weights
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
    with pytest.raises(UserError, match=r"8 of 8 samples, in each of 10 draws, are not finite, though"):
        list(sampling.samples(trained(Copying(factor=float("nan")), GRAY), iter(like)))


def overflowing(share: float) -> Trained:
    return trained(Overflowing(share=share), GRAY)


def drawn(model: Trained, batch_size: int, tally: sampling.Tally | None = None) -> Tensor:
    like = sampling.batches(toy_split(8), torch.arange(8).repeat(25), seed=0, batch_size=batch_size, device="cpu")
    return torch.cat(list(sampling.samples(model, like, tally)))


def test_a_sample_that_is_not_finite_is_drawn_anew_and_counted() -> None:
    tally = sampling.Tally()
    found, sound = drawn(overflowing(0.05), 40, tally), drawn(overflowing(0.0), 40)
    other = (found != sound).flatten(1).any(1)
    assert tally.samples == 200 and 2 <= tally.redrawn <= 20
    assert tally.redrawn == other.sum()  # all others are as they were
    again = sampling.Tally()
    assert torch.equal(drawn(overflowing(0.05), 7, again), found) and again == tally
    assert found[other].unique().numel() >= 0.8 * tally.redrawn  # samples like any other, not one image


def test_too_many_samples_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match=r"\d+ of 200 samples are not finite, though .*Turn the knob"):
        drawn(overflowing(0.3), 40)


def test_a_diverged_training_is_told_from_an_overflow(tmp_path: Path) -> None:
    """By its weights, or by its losses; a falling loss and finite weights are no divergence."""
    model = replace(overflowing(1.0), source=tmp_path / "weights.safetensors")
    history = tmp_path / "history.csv"
    history.write_text("seen,flow/loss,flow/grad_norm\n1000,6.4,1\n2000,,1\n3000,4.5,1e30\n")
    overflow = r"weights\.safetensors: .* flow/loss went from 6\.4 to 4\.5\): 'toy' overflows .* Turn the knob\.$"
    with pytest.raises(UserError, match=overflow):
        drawn(model, 40)
    for end in ("nan", "", "1e9"):
        history.write_text(f"seen,flow/loss\n1000,6.4\n3000,{end}\n")
        with pytest.raises(UserError, match=r"training diverged: flow/loss ended at (nan|1e\+09)\. Lower its"):
            drawn(model, 40)
    history.unlink()
    with torch.no_grad():
        model.nets["scale"].weight.fill_(torch.inf)  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match=r"the training diverged: 1 of the 2 tensors of its weights hold NaN"):
        drawn(model, 40)


def test_pictures_of_a_run_in_trouble_are_black_where_it_gives_no_numbers() -> None:
    like = sampling.batches(toy_split(8), torch.arange(8), seed=0, batch_size=8, device="cpu")
    assert torch.cat(list(sampling.samples_as_they_are(overflowing(1.0), like))).max() == 0


def means(model: Trained, real: Iterator[Batch]) -> dict[str, sampling.Mean]:
    return sampling.mean_scores(sampling.scores_of(model, real))


def test_scores_are_means_over_images_not_over_batches() -> None:
    split, model = toy_split(10), trained(Copying(), GRAY)
    pixels = to_unit_range(split.images(range(10)), torch.device("cpu")).double().flatten(1).mean(1)
    error = float((pixels - pixels.mean()).square().sum() / 9 / 10) ** 0.5
    for size in (10, 4):
        real = sampling.batches(split, torch.arange(10), seed=0, batch_size=size, device="cpu")
        found = means(model, real)
        assert found.keys() == {"mean_pixel"}
        assert found["mean_pixel"].value == pytest.approx(float(pixels.mean()), rel=1e-5)
        assert found["mean_pixel"].error == pytest.approx(error, rel=1e-4)
    one = sampling.batches(split, torch.arange(1), seed=0, batch_size=4, device="cpu")
    assert means(model, one)["mean_pixel"].error is None
    nan = Batch(
        images=torch.full((2, 1, 16, 16), float("nan")), labels=torch.zeros(2).long(), noise=Noise(0, torch.arange(2))
    )
    with pytest.raises(UserError, match="'mean_pixel' of some test images are not finite"):
        means(model, iter([nan]))
    assert means(trained(load("dcgan", width=8), GRAY), iter([nan])) == {}


def test_weights_of_other_images_are_refused(tmp_path: Path) -> None:
    method = load("vae", width=8)
    nets = method.build(GRAY)
    save_weights(
        tmp_path / "w", name="vae", params={"width": 8}, spec=GRAY, seen=10, nets=nets, ema=torch.nn.ModuleDict()
    )
    assert sampling.load_fitting(tmp_path / "w", GRAY).seen == 10
    with pytest.raises(UserError, match=r"trained on .*size=16.*out/data has .*size=8.*dvc repro"):
        sampling.load_fitting(tmp_path / "w", replace(GRAY, size=8))
