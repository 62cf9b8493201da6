"""The exported sampler is the method's: the same images for the same numbers, in a batch of any size, or no file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from samplers import Copying
from samplers import trained as as_trained
from small_flows import shaken
from torch import Tensor, nn

from pipeline import methods
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Nets
from pipeline.errors import UserError
from pipeline.inference import onnx as exporting
from pipeline.inference.directions import find_directions
from pipeline.inference.onnx import LatentSampler, export_onnx
from pipeline.inference.weights import Trained

onnxruntime = pytest.importorskip("onnxruntime")
SPEC = ImageSpec(channels=1, size=8, classes=3)
PYRAMID = {"width": 4, "max_width": 8, "latent": 5}
FLOW = {"levels": 2, "width": 4}
# What each method's samples are made from, beside labels.
SMALL: dict[str, tuple[dict[str, Any], dict[str, tuple[str, list[int]]], bool]] = {
    "dcgan": ({"width": 4, "latent": 5}, {"latent": ("normal", [5])}, False),
    "gan": ({"width": 4, "latent": 5}, {"latent": ("uniform", [5])}, False),
    "cvae": ({"width": 4, "latent": 5}, {"latent": ("normal", [5])}, True),
    "infogan": (
        {"width": 4, "latent": 10, "categories": 3},
        {"latent": ("normal", [5]), "category": ("integers", []), "codes": ("uniform", [2])},
        False,
    ),
    "stylegan2": (
        PYRAMID | {"mapping_layers": 1},
        {"latent": ("normal", [5]), "pixels": ("normal", [4 * 4 + 2 * 8 * 8])},
        False,
    ),
    "glow": (FLOW | {"steps": 1}, {"latent": ("normal", [64])}, False),
    "nsf": (FLOW | {"steps": 1}, {"latent": ("normal", [64])}, False),
    "flow_matching": (FLOW | {"sampling_steps": 3}, {"latent": ("normal", [64])}, True),
    "ladder_vae": ({"width": 4, "latent": 2}, {"latent": ("normal", [2 * 4 * 4])}, False),
    "vqvae": ({"width": 4, "codes": 4, "embedding": 4}, {"codes": ("uniform", [8, 8])}, False),
}


@dataclass(frozen=True, kw_only=True)
class Linear(Copying):
    """Images that are a known matrix times normal latents, (64, 3)."""

    sampled: ClassVar[tuple[str, ...]] = ("matrix",)

    def build(self, spec: ImageSpec) -> Nets:
        matrix = nn.Linear(3, spec.size**2, bias=False)
        torch.nn.init.orthogonal_(matrix.weight)
        matrix.weight.data.mul_(torch.tensor([0.02, 0.06, 0.04]))
        return nn.ModuleDict({"matrix": matrix})

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        images: Tensor = nets["matrix"](like.noise.normal("latent", 3))
        return images.unflatten(1, like.images.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Even(Linear):
    """Images that are the latents: each of 64 directions has the same share."""

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return like.noise.normal("latent", 64).unflatten(1, like.images.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Fixing(Linear):
    """Takes the batch's size as a plain number."""

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        images = super().sample(nets, like)
        return images + torch.zeros(int(len(like.images)), *images.shape[1:])


def small(name: str) -> Trained:
    torch.manual_seed(0)
    method = methods.load(name, **SMALL[name][0])
    nets = shaken(method.build(SPEC), 0.1)
    return Trained(method=method, nets=nets, spec=SPEC, seen=1000, name=name, params={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ("nsf", "stylegan2", "gan") else []) for name in SMALL],
)
def test_the_file_gives_the_methods_images_in_any_batch(name: str, tmp_path: Path) -> None:
    trained, (_, inputs, conditional) = small(name), SMALL[name]
    before = {key: value.clone() for key, value in trained.nets.state_dict().items()}
    about = export_onnx(trained, tmp_path / "model.onnx")
    assert {given["name"]: (given["kind"], given["shape"]) for given in about["inputs"]} == inputs
    assert about["classes"] == (3 if conditional else 0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # no file of weights beside it
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in metadata.items()} == about
    sampler = LatentSampler(trained)
    weights = sum(value.nbytes for value in sampler.state_dict().values())
    assert weights < (tmp_path / "model.onnx").stat().st_size < weights + 2**19, "little but the weights"
    content = (tmp_path / "model.onnx").read_bytes()
    for module in (methods, torch):
        folder = str(Path(module.__file__).parents[1])  # type: ignore[arg-type]
        assert folder.encode() not in content, "paths of this machine"
    for count in (1, 2, 11):
        given = sampler.examples(count)
        (found,) = session.run(["images"], {key: value.numpy() for key, value in given.items()})
        expected = trained.method.sample(trained.nets, sampler.like(sampler.labels(count), sampler_noise(count)))
        assert found.shape == (count, 1, 8, 8) and float(expected.detach().std()) > 1e-3
        torch.testing.assert_close(torch.from_numpy(found), expected.detach(), rtol=0, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in trained.nets.state_dict().items())


def sampler_noise(count: int) -> Any:
    return exporting.Noise(0, torch.arange(count))


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path: Path) -> None:
    translator = as_trained(methods.load("cyclegan", width=2, blocks=0), SPEC)
    with pytest.raises(UserError, match="translates images: it has no latents"):
        export_onnx(replace(translator, name="cyclegan"), tmp_path / "model.onnx")
    prior = as_trained(methods.load("vq_transformer", width=4, layers=1, transformer_width=8), SPEC)
    with pytest.raises(UserError, match="draws its codes one after another"):
        export_onnx(prior, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="depend on no random numbers"):
        export_onnx(as_trained(Copying(), SPEC), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_for_one_batch_size_alone_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch"):
        export_onnx(as_trained(Fixing(), SPEC), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_from_pytorch_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = as_trained(Linear(), SPEC)
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"differ from PyTorch's by .* so nothing was written"):
        export_onnx(trained, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_directions_of_a_linear_sampler_are_its_singular_vectors() -> None:
    found = find_directions(LatentSampler(as_trained(Linear(), SPEC)), most=2, at_a_time=64, points=2048)
    shares = torch.tensor([0.02, 0.06, 0.04]).square()
    shares /= shares.sum()
    assert found.of == "latent"
    torch.testing.assert_close(found.sensitivity, shares, rtol=0.1, atol=0)
    torch.testing.assert_close(found.shares, shares[[1, 2]], rtol=0.1, atol=0)
    torch.testing.assert_close(found.vectors, torch.eye(3)[[1, 2]], rtol=0, atol=0.1)


def test_shares_of_an_even_sampler_are_not_overstated() -> None:
    """Found and measured by the same latents the first of 64 equal directions would seem twice its share."""
    found = find_directions(LatentSampler(as_trained(Even(), SPEC)), most=4, at_a_time=64, points=512)
    torch.testing.assert_close(found.shares, torch.full((4,), 1 / 64), rtol=0.35, atol=0)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4), rtol=0, atol=1e-4)


def test_codes_have_no_directions() -> None:
    found = find_directions(LatentSampler(small("vqvae")), most=4, at_a_time=32, points=64)
    assert found.of == "" and found.vectors.shape == (0, 0)
