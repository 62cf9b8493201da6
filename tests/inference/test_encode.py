"""Encoding: decoding undoes it, codes exist, no batch size matters, and what cannot be done is said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from samplers import trained
from small_flows import shaken
from toy_data import toy_batch

from pipeline import methods
from pipeline.core.batch import ImageSpec, to_uint8
from pipeline.core.noise import Noise
from pipeline.errors import UserError
from pipeline.inference.encode import describe, encode, reconstruct, write_encodings
from pipeline.inference.weights import Trained
from pipeline.registry import names

SPEC = ImageSpec(channels=1, size=16, classes=10)
IMAGES = to_uint8(toy_batch(7).images)
LABELS = torch.arange(7)
CONTINUOUS = {"width": 8, "levels": 2, "solver": "rk4", "likelihood_steps": 12}
SMALL: dict[str, dict[str, Any]] = {
    "vae": {"width": 8, "latent": 5},
    "iwae": {"width": 8, "latent": 5},
    "cvae": {"width": 8, "latent": 5},
    "ladder_vae": {"width": 8, "latent": 2},
    "vqvae": {"width": 8, "codes": 12, "grid": 4, "embedding": 3},
    "vqgan": {"width": 8, "codes": 12, "grid": 4, "embedding": 3},
    "vq_transformer": {"width": 8, "codes": 12, "grid": 4, "embedding": 3, "layers": 1, "transformer_width": 8},
    "realnvp": {"width": 4, "levels": 2},
    "glow": {"width": 8, "levels": 2, "steps": 1},
    "nsf": {"width": 4, "levels": 2, "steps": 1, "blocks": 1},
    "flow_matching": CONTINUOUS,
    "reflow": CONTINUOUS,
    "infogan": {"width": 8},
    "cyclegan": {"width": 4, "blocks": 1},
}
FLOWS = ("realnvp", "glow", "nsf", "flow_matching", "reflow")


def model(name: str, **settings: Any) -> Trained:
    method = methods.load(name, **SMALL.get(name, {}) | settings)
    if name in FLOWS:
        torch.manual_seed(0)
        nets = method.build(SPEC)
        shaken(nets, 0.05)
    else:
        nets = trained(method, SPEC).nets
    return Trained(method=method, nets=nets, spec=SPEC, seen=5, name=name, params=settings)


def encoded(found: Trained, *sizes: int) -> dict[str, torch.Tensor]:
    parts = list(encode(found, IMAGES.split(sizes), LABELS))
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def test_every_method_that_can_encode_is_tested_here() -> None:
    assert {name for name in names("pipeline.methods") if methods.find(name).encodes} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_an_image_is_encoded_alike_in_any_batch_and_at_any_place(name: str) -> None:
    found = model(name)
    whole, parts = encoded(found, 7), encoded(found, 1, 4, 2)
    assert set(whole) == set(found.method.encodes)
    for key, values in whole.items():
        assert len(values) == 7 and float(values.float().std(0).abs().max()) > 0
        torch.testing.assert_close(values, parts[key], rtol=1e-4, atol=1e-4)
    backwards = next(encode(found, [IMAGES.flip(0)], LABELS.flip(0)))
    for key, values in whole.items():
        torch.testing.assert_close(values, backwards[key].flip(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_decodes_to_the_very_pixels_and_knows_their_likelihood(name: str) -> None:
    found = model(name)
    (back,) = reconstruct(found, [IMAGES], LABELS)
    assert (back.int() - IMAGES.int()).abs().max() <= 1
    assert (back == IMAGES).float().mean() > 0.999  # a pixel on the edge of its level may round to the next
    batch = toy_batch(7)
    batch = type(batch)(images=IMAGES / 127.5 - 1, labels=LABELS, noise=Noise(0, LABELS * 0))
    with torch.no_grad():
        bits = found.method.scores(found.nets, batch)["bits_per_dim"]
    nats = encoded(found, 7)["log_likelihood"]
    torch.testing.assert_close(-nats / (256 * np.log(2)), bits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vae", "cvae", "iwae"])
def test_a_vae_reconstructs_by_its_posterior_mean(name: str) -> None:
    found, batch = model(name), toy_batch(7)
    batch = type(batch)(images=IMAGES / 127.5 - 1, labels=LABELS, noise=batch.noise)
    with torch.no_grad():
        posterior = found.method.posterior(found.nets, batch)
        expected = to_uint8(found.method.image(found.nets, posterior.mean, LABELS))
    (back,) = reconstruct(found, [IMAGES], LABELS)
    assert torch.equal(back, expected)
    torch.testing.assert_close(encoded(found, 7)["log_variance"], posterior.log_variance)


@pytest.mark.parametrize("name", ["vqvae", "vqgan", "vq_transformer"])
def test_codes_are_indices_of_the_codebook(name: str) -> None:
    codes = encoded(model(name), 7)["codes"]
    assert codes.dtype == torch.int64 and codes.shape == (7, 4, 4)
    assert codes.min() >= 0 and codes.max() < 12 and len(codes.unique()) > 1


def test_infogan_gives_a_distribution_and_the_codes() -> None:
    found = encoded(model("infogan"), 7)
    assert found["category"].shape == (7, 10) and found["codes"].shape == (7, 2)
    torch.testing.assert_close(found["category"].sum(1), torch.ones(7))


def test_cyclegan_goes_there_and_back_in_both_directions() -> None:
    found = model("cyclegan")
    real = IMAGES / 127.5 - 1
    for there, back in (("a_to_b", "b_to_a"), ("b_to_a", "a_to_b")):
        with torch.no_grad():
            translated = found.nets[there](real)
            expected = to_uint8(found.nets[back](translated))
        torch.testing.assert_close(encoded(found, 7)[there], translated)
        assert torch.equal(next(reconstruct(found, [IMAGES], via=there)), expected)
    assert not torch.equal(found.nets["a_to_b"](real), found.nets["b_to_a"](real))


def test_what_cannot_be_encoded_is_said_with_those_that_can() -> None:
    with pytest.raises(UserError, match=r"dcgan cannot encode images: no encoder\. Methods that can: .*vae.*vqvae"):
        list(encode(model("dcgan", width=8), [IMAGES]))
    with pytest.raises(UserError, match=r"infogan cannot reconstruct images: what it encodes \(category, codes\)"):
        list(reconstruct(model("infogan"), [IMAGES]))
    with pytest.raises(UserError, match=r"direction: there is no 'c'; this model has a_to_b, b_to_a"):
        list(reconstruct(model("cyclegan"), [IMAGES], via="c"))


def test_a_class_is_asked_for_where_it_matters_and_nowhere_else() -> None:
    with pytest.raises(UserError, match=r"class-conditional.*label"):
        list(encode(model("cvae"), [IMAGES]))
    assert len(next(encode(model("vae"), [IMAGES]))["mean"]) == 7


def test_images_of_another_shape_or_type_raise() -> None:
    for wrong in (IMAGES[..., :8], IMAGES.float()):
        with pytest.raises(ValueError, match="images must be uint8"):
            list(encode(model("vae"), [wrong]))


def test_files_hold_arrays_names_and_the_model(tmp_path: Path) -> None:
    found = model("vae")
    files, about = [f"{number}.png" for number in range(7)], describe(model("vae"))
    parts = list(encode(found, IMAGES.split(4)))
    whole = torch.cat([part["mean"] for part in parts])
    shapes = write_encodings(tmp_path / "x.npz", parts, files, about)
    assert shapes == {"mean": (7, 5), "log_variance": (7, 5)}
    with np.load(tmp_path / "x.npz", allow_pickle=False) as loaded:
        assert loaded["names"].tolist() == files and json.loads(str(loaded["about"]))["seen"] == 5
        np.testing.assert_array_equal(loaded["mean"], whole.numpy())
    write_encodings(tmp_path / "x.safetensors", parts, files, about)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert torch.equal(opened.get_tensor("mean"), whole)
        assert json.loads(opened.metadata()["genloom-encodings-1"])["names"] == files
    write_encodings(tmp_path / "x.npy", parts, files, about)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), whole.numpy())
    assert json.loads((tmp_path / "x.json").read_text())["names"] == files
    with pytest.raises(UserError, match="already"):
        write_encodings(tmp_path / "x.npz", parts, files, about)
    with pytest.raises(UserError, match=r"use one of \.npz"):
        write_encodings(tmp_path / "x.csv", parts, files, about)
    parts[1]["mean"][1, 0] = torch.inf
    with pytest.raises(UserError, match=r"'5\.png': its mean is not finite"):
        write_encodings(tmp_path / "y.npz", parts, files, about)
    assert not list(tmp_path.glob("*y.npz*"))


def test_the_hash_tells_weights_apart() -> None:
    found, other = model("vae"), model("vae")
    assert describe(found) == describe(other)
    with torch.no_grad():
        next(other.nets.parameters()).add_(1e-3)
    assert describe(found)["weights_sha256"] != describe(other)["weights_sha256"]
