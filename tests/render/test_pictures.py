"""Every picture says what it claims: each has a law, of methods and nets whose answer is known."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from toy_data import ROOT, toy_split

from pipeline import config, methods
from pipeline.config.pictures import PICTURES
from pipeline.core.batch import Batch, ImageSpec, to_uint8, to_unit_range
from pipeline.core.method import TWO_DOMAINS, Method, Nets
from pipeline.data.dataset import Dataset
from pipeline.inference.directions import find_directions
from pipeline.inference.weights import Trained
from pipeline.render import comparisons, pictures
from pipeline.render.drawn import Film
from pipeline.render.grid import panel
from pipeline.render.picture import Subject
from pipeline.render.pictures import seeds, temperature
from pipeline.render.pictures.codes import varied
from pipeline.render.pictures.critic_outputs import outputs
from pipeline.render.pictures.gradient_norms import histogram_over_time
from pipeline.render.pictures.interpolation import walks
from pipeline.render.pictures.neighbours import LEVELS, nearest_images
from pipeline.render.pictures.pairs import rows_of
from pipeline.render.pictures.real_interpolation import walks_between
from pipeline.render.pictures.reconstructions import error_map, reconstructed
from pipeline.render.pictures.saliency import saliency
from pipeline.render.pictures.there_and_back import cycle
from pipeline.render.pictures.traversal import REACH, traversals
from pipeline.render.pictures.truncation import BOUNDS, sweep

SIZE, LATENT = 4, 16
SPEC = ImageSpec(channels=1, size=SIZE, classes=10)


@dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """All that pictures ask for, linear: an image is its latents plus its label; the critic is a weighted sum."""

    sampled: ClassVar[tuple[str, ...]] = ("linear",)
    encodes: ClassVar[tuple[str, ...]] = ("latents",)
    decodes: ClassVar[tuple[str, ...]] = ("latents",)
    criticizes: ClassVar[bool] = True

    temperature: float = 1.0

    def build(self, spec: ImageSpec) -> Nets:
        linear = nn.Linear(LATENT, LATENT, bias=False)
        linear.weight.data = torch.eye(LATENT)
        return nn.ModuleDict({"linear": linear})

    def phases(self) -> tuple[()]:
        return ()

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return self._image(nets, self.temperature * like.noise.normal("latent", LATENT), like.labels)

    def encode(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {"latents": batch.images.flatten(1) - batch.labels[:, None]}

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return self._image(nets, encoded["latents"], labels)

    def criticize(self, nets: Nets, images: Tensor, labels: Tensor) -> Tensor:
        return (images.flatten(1) * _weights()).sum(1)

    def _image(self, nets: Nets, latents: Tensor, labels: Tensor) -> Tensor:
        return (nets["linear"](latents) + labels[:, None]).unflatten(1, (1, SIZE, SIZE))


@dataclass(frozen=True, kw_only=True)
class Coded(Plain):
    """Its images are the numbers drawn: 12 latents, a category, two codes, and a blank."""

    encodes: ClassVar[tuple[str, ...]] = ("category", "codes")
    decodes: ClassVar[tuple[str, ...]] = ()

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        noise = like.noise
        parts = (noise.normal("latent", LATENT - 4), noise.integers("category", 12)[:, None], noise.uniform("codes", 2))
        images = torch.cat((*parts, torch.zeros_like(parts[1])), dim=1)
        return nets["linear"](images).unflatten(1, (1, SIZE, SIZE))


@dataclass(frozen=True, kw_only=True)
class Uniform(Plain):
    """Latents of U[0, 1)."""

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return self._image(nets, like.noise.uniform("latent", LATENT), like.labels * 0)


@dataclass(frozen=True, kw_only=True)
class Turning(Plain):
    """Translates by a change of sign, there and back."""

    directions: ClassVar[tuple[str, ...]] = ("a_to_b", "b_to_a")
    decodes: ClassVar[tuple[str, ...]] = directions

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return -like.images

    def translate(self, nets: Nets, images: Tensor, direction: str) -> Tensor:
        return -images

    def decode(self, nets: Nets, encoded: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return -next(iter(encoded.values()))


@dataclass(frozen=True, kw_only=True)
class Paired(Plain):
    """Becomes the image that it is given, a quarter darker."""

    directions: ClassVar[tuple[str, ...]] = ("a_to_b",)
    needs: ClassVar[frozenset[str]] = frozenset({"pair"})

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return 0.75 * like.images


def _weights() -> Tensor:
    return torch.linspace(-1, 2, LATENT)


def dataset(spec: ImageSpec, count: int = 48) -> Dataset:
    splits = {
        name: toy_split(n, channels=spec.channels, size=spec.size) for name, n in (("train", count), ("test", 20))
    }
    return Dataset(spec=spec, info={"classes": [f"class {label}" for label in range(spec.classes)]}, splits=splits)


def subject(method: Method | None = None, spec: ImageSpec = SPEC, **known: Any) -> Subject:
    method = method or Plain()
    torch.manual_seed(0)
    nets = method.build(spec)
    for parameter in nets.parameters():
        if parameter.ndim == 4:  # fresh nets draw an all but even gray, of which nothing could be told apart
            parameter.data.mul_(8)
    name = type(method).__name__
    of = Trained(method=method, nets=nets.eval(), spec=spec, seen=1000, name=name, params=asdict(method))
    plain = {"trained": of, "data": dataset(spec), "settings": config.Render(), "at_a_time": 64}
    return Subject(**(plain | known))


# The laws


def test_the_middle_of_a_traversal_is_the_sample_and_the_rest_differs_in_one_dimension() -> None:
    plain = subject()
    sample = plain.images_of(plain.numbers(1), plain.labels(1))[0].flatten()
    found = traversals(plain, torch.tensor([3, 0]), 5).flatten(2)
    assert torch.equal(found[:, 2], sample.expand(2, -1))
    for row, dimension in enumerate((3, 0)):
        change = found[row] - sample
        torch.testing.assert_close(change[:, dimension], torch.linspace(-REACH, REACH, 5))
        assert not change[:, torch.arange(LATENT) != dimension].any()


def test_a_uniform_dimension_is_walked_from_end_to_end() -> None:
    found = traversals(subject(Uniform()), torch.tensor([5]), 7).flatten(2)[0]
    assert found[0, 5] == 0 and found[-1, 5] == 1 and (found[1:, 5] > found[:-1, 5]).all()
    assert torch.equal(found[3], subject(Uniform()).numbers(1)["latent"][0])


def test_interpolation_keeps_the_ends_and_the_class_and_the_norm_of_normal_latents() -> None:
    plain = subject()
    drawn, labels = plain.numbers(6)["latent"], plain.labels(3)
    found = walks(plain, 3, 9).flatten(2) - labels[:, None, None]
    torch.testing.assert_close(found[:, 0], drawn[:3])
    torch.testing.assert_close(found[:, -1], drawn[3:])
    norms, ends = found.norm(dim=2), drawn.norm(dim=1)
    low, high = torch.minimum(ends[:3], ends[3:]), torch.maximum(ends[:3], ends[3:])
    assert (norms > 0.85 * low[:, None]).all() and (norms < 1.15 * high[:, None]).all()
    middle = (drawn[:3] + drawn[3:]).norm(dim=1) / 2
    assert (norms[:, 4] > 1.1 * middle).all()  # where a straight line would be


def test_uniform_latents_are_interpolated_straight() -> None:
    uniform = subject(Uniform())
    drawn = uniform.numbers(4)["latent"]
    found = walks(uniform, 2, 5).flatten(2)
    torch.testing.assert_close(found[:, 2], (drawn[:2] + drawn[2:]) / 2)


def test_a_walk_between_real_images_has_their_reconstructions_at_its_ends() -> None:
    plain = subject()
    images, labels = plain.shown(6)
    found = walks_between(plain, images, labels, 7)
    assert found is not None and found.shape == (3, 7, 1, SIZE, SIZE)
    torch.testing.assert_close(found[:, 0], images[:3])
    torch.testing.assert_close(found[:, -1], images[3:])


def test_truncation_at_0_gives_one_image_to_a_class_and_each_bound_holds() -> None:
    plain = subject()
    found = sweep(plain, 12).flatten(2) - plain.labels(12)[:, None, None]
    assert not found[:, 0].any()
    for column, bound in enumerate(BOUNDS):
        assert found[:, column].abs().max() <= bound and (
            not column or found[:, column].abs().max() > 0.5 * min(bound, 2)
        )
    signs = found[:, 1:].sign()
    assert torch.equal(signs, signs[:, :1].expand_as(signs))  # a row is one sample


def test_the_temperature_scales_the_latents() -> None:
    plain = subject()
    found = temperature.sweep(plain, 6).flatten(2)
    labels = torch.cat([batch.labels for batch in plain.real("train", 6)])
    latents = found - labels[:, None, None]
    for column, value in enumerate(temperature.TEMPERATURES):
        torch.testing.assert_close(latents[:, column], value * latents[:, -1], atol=1e-5, rtol=0)
    assert temperature.TEMPERATURES[-1] == 1 and latents[:, -1].std() > 0.5


def test_the_rows_of_seeds_are_samples_of_each_training() -> None:
    one, other = (subject().trained for _ in range(2))
    for parameter in other.nets.parameters():
        parameter.data.mul_(-1)
    of = subject(seeds={0: one, 7: other})
    rows = [replace(of, trained=trained).samples(seeds.COLUMNS)[0] for trained in (one, other)]
    assert not torch.equal(*rows)
    drawn, expected = np.asarray(seeds.PICTURE.draw(of)), np.asarray(panel(torch.stack(rows)))
    height, width = expected.shape
    assert np.array_equal(drawn[-height:, -width:], expected) and drawn.shape[1] > width, "names stand to the left"


def test_the_rows_of_classes_share_their_latents() -> None:
    plain = subject()
    numbers = {name: values.repeat_interleave(10, 0) for name, values in plain.numbers(5).items()}
    images = plain.images_of(numbers, torch.arange(10).repeat(5)).unflatten(0, (5, 10))
    torch.testing.assert_close(images - images[:, :1], torch.arange(10.0)[None, :, None, None, None].expand_as(images))
    assert "labels" in plain.offers and "labels" not in subject(Uniform()).offers


def test_codes_vary_one_number_and_keep_all_others() -> None:
    coded = subject(Coded())
    assert [code.name for code in coded.codes] == ["category", "codes"]
    whole = coded.images_of(coded.numbers(3), coded.labels(3)).flatten(1)
    category, codes = coded.codes
    for code, place, pixel, values in (
        (category, 0, 12, torch.arange(9.0)),
        (codes, 1, 14, (torch.linspace(-2, 2, 9) + 1) / 2),
    ):
        found = varied(coded, code, place, 9).flatten(2)
        torch.testing.assert_close(found[:, :, pixel], values.expand(3, 9))
        others = torch.arange(LATENT) != pixel
        assert torch.equal(found[:, :, others], whole[:, None, others].expand(3, 9, -1))


def test_the_error_of_a_perfect_autoencoder_is_black_and_of_a_negative_white() -> None:
    plain = subject()
    images, labels = plain.shown(10)
    again = reconstructed(plain, images, labels)
    assert torch.equal(error_map(images, images), -torch.ones_like(images))
    assert (error_map(images, again) + 1).abs().max() < 1e-6
    assert torch.equal(error_map(torch.ones(1), -torch.ones(1)), torch.ones(1))


def test_pairs_are_test_images_their_translations_and_their_own_partners() -> None:
    data = dataset(SPEC)
    other = data.seen_as(lambda images: 255 - images)
    of = subject(Paired(), other=other, at_a_time=3)
    images, made, partners, error = rows_of(of, 7)
    assert len(images) == 7 and torch.equal(made, 0.75 * images)
    torch.testing.assert_close(partners, -images, rtol=0, atol=1e-6)
    torch.testing.assert_close(error, 1.75 * images.abs() - 1, rtol=0, atol=1e-5)
    held_out = {image.numpy().tobytes() for image in data.splits["test"].images(range(20))}
    shown = [image.numpy().tobytes() for image in to_uint8(images)]
    assert set(shown) <= held_out and len(set(shown)) == 7


def test_there_and_back_of_translators_that_undo_each_other_is_the_image() -> None:
    turning = subject(Turning(), other=dataset(SPEC))
    images, _ = turning.shown(8, turning.other)
    there, back = cycle(turning, images, "b_to_a")
    assert torch.equal(there, -images) and torch.equal(back, images)
    assert {"directions", "critic"} <= turning.offers and not {"decodes", "latents"} & turning.offers


def test_the_nearest_training_image_of_one_is_itself_and_the_others_are_as_by_brute_force() -> None:
    split = toy_split(48, size=SIZE)
    images = to_unit_range(split.images(range(48)), torch.device("cpu"))
    distances, rows = nearest_images(images, split, 4)
    assert torch.equal(rows[:, 0], torch.arange(48)) and distances[:, 0].max() < 1e-6
    brute = (images[:, None] - images).square().mean((2, 3, 4)).sqrt()
    torch.testing.assert_close(distances.float(), brute.sort(dim=1).values[:, :4], atol=1e-5, rtol=1e-5)
    assert LEVELS * 2 == 255  # black to white


def test_a_chunk_at_a_time_finds_the_same_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    split = toy_split(48, size=SIZE)
    images = to_unit_range(split.images(range(0, 48, 5)), torch.device("cpu"))
    whole = nearest_images(images, split, 3)
    monkeypatch.setattr("pipeline.render.pictures.neighbours.CHUNK_BYTES", 7 * 8 * SIZE**2)
    for found, expected in zip(nearest_images(images, split, 3), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_saliency_of_a_linear_critic_is_its_weights_size() -> None:
    plain = subject(at_a_time=3)
    images, labels = plain.shown(8)
    expected = _weights().abs().view(1, 1, SIZE, SIZE).expand(8, -1, -1, -1)
    torch.testing.assert_close(saliency(plain, images, labels), expected)


def test_the_critics_outputs_are_its_scores_of_each_kind_without_those_that_are_not_finite() -> None:
    plain = subject(at_a_time=7)
    found = outputs(plain)
    assert {name: len(scores) for name, scores in found.items()} == {
        "training images": 48,
        "test images": 20,
        "samples": 48,
    }
    images = to_unit_range(plain.data.splits["test"].images(range(20)), torch.device("cpu"))
    expected = (images.flatten(1) * _weights()).sum(1)
    torch.testing.assert_close(found["test images"].sort().values, expected.sort().values)
    plain.trained.nets["linear"].weight.data[0, 0] = math.nan
    assert not len(outputs(plain)["samples"]) and len(outputs(plain)["test images"]) == 20


def test_the_sensitivity_of_a_linear_decoder_is_its_columns_norms() -> None:
    plain = subject()
    scale = torch.linspace(0.5, 2, LATENT)
    plain.trained.nets["linear"].weight.data = torch.linalg.qr(torch.randn(LATENT, LATENT)).Q * scale
    expected = scale.square() / scale.square().sum()
    figure = pictures.load("sensitivity").draw(plain)
    heights = torch.tensor([bar.get_height() for bar in figure.axes[0].patches]) / 100
    assert heights.sum() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(heights, expected.flip(0), rtol=0.25, atol=0.01, check_dtype=False)


def test_a_time_of_the_gradient_norms_is_a_distribution() -> None:
    generator = np.random.default_rng(0)
    points = [(seen, float(10 ** generator.normal(seen / 1000))) for seen in range(0, 4000, 10)]
    shares, times, sizes = histogram_over_time([*points, (5, math.nan), (6, math.inf), (7, 0.0)])
    assert shares.shape == (len(sizes) - 1, len(times) - 1) and times[0] == 0 and times[-1] == 3990
    np.testing.assert_allclose(shares.sum(0), 1)
    centres = (shares * ((sizes[1:] + sizes[:-1]) / 2)[:, None]).sum(0)
    np.testing.assert_allclose(centres, (times[1:] + times[:-1]) / 2000, atol=1.0)
    constant, _, edges = histogram_over_time([(seen, 100.0) for seen in range(80)])
    assert (constant.max(0) == 1).all() and edges[0] < 2 < edges[-1]
    assert not histogram_over_time([(1, math.nan)])[0].size


# What all of them keep


def small(name: str) -> Method:
    own = {field.name for field in fields(methods.find(name))}
    wanted = {
        "width": 8,
        "latent": 6,
        "categories": 3,
        "continuous": 1,
        "blocks": 1,
        "pool": 4,
        "levels": 2,
        "steps": 1,
    }
    wanted |= {
        "codes": 16,
        "embedding": 8,
        "grid": 4,
        "transformer_width": 16,
        "layers": 1,
        "heads": 2,
        "test_draws": 3,
    }
    wanted |= {"sampling_steps": 2, "likelihood_steps": 2}
    return methods.load(
        name, **{key: value for key, value in wanted.items() if key in own and (key, name) != ("latent", "infogan")}
    )


HISTORY = {"a/loss": [(500, 1.0), (1000, 2.0)], "a/gradient_norm": [(500, 1.0), (1000, 2.0)]}
# By method: what it has besides curves, gradient norms and the film, which are of every training.
SAMPLER = {"interpolation", "traversal", "sensitivity", "truncation"}
CRITIC = {"critic_outputs", "saliency"}
OWN = {
    "dcgan": SAMPLER | CRITIC,
    "cgan": SAMPLER | CRITIC | {"classes"},
    "infogan": SAMPLER | {"critic_outputs", "saliency", "codes"},
    "stylegan2": SAMPLER | CRITIC,
    "cyclegan": CRITIC | {"there_and_back"},
    "pix2pix": {"pairs"},
    "vae": SAMPLER | {"reconstructions", "real_interpolation"},
    "cvae": SAMPLER | {"reconstructions", "real_interpolation", "classes"},
    "ladder_vae": SAMPLER | {"reconstructions", "real_interpolation"},
    "vqvae": {"reconstructions"},
    "vqgan": CRITIC | {"reconstructions"},
    "vq_transformer": {"reconstructions"},
    "realnvp": SAMPLER | {"reconstructions", "real_interpolation", "temperature"},
    "glow": SAMPLER | {"reconstructions", "real_interpolation", "temperature"},
    "flow_matching": SAMPLER | {"reconstructions", "real_interpolation", "classes"},
}


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_method_has_the_pictures_that_its_hooks_allow_of_no_more_images_at_once_than_it_was_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.render.picture.find_directions", partial(find_directions, points=10))
    spec = ImageSpec(channels=3 if name == "cgan" else 1, size=16, classes=10)
    Image.new("L", (20, 20)).save(tmp_path / "000000500.png")
    other = dataset(spec) if methods.find(name).needs & TWO_DOMAINS else None
    of = subject(small(name), spec, other=other, at_a_time=5, history=HISTORY, snapshots=[*tmp_path.iterdir()])
    offers = of.offers  # its sampler is made of two samples
    taken = set[int]()
    for module in of.trained.nets.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(lambda module, inputs: taken.add(len(inputs[0])))
    found = {}
    for picture in pictures.names():
        made = pictures.load(picture)
        if made.needs <= offers and (drawn := made.draw(of)) is not None:
            found[picture] = drawn
    assert set(found) == OWN[name] | {"curves", "gradient_norms", "film", "neighbours"}
    assert isinstance(found["film"], Film) and max(taken, default=0) <= 5
    mode = {1: "L", 3: "RGB"}[spec.channels]
    assert all(drawn.mode == mode for drawn in found.values() if isinstance(drawn, Image.Image))


@pytest.mark.parametrize("name", pictures.names())
def test_a_picture_says_how_to_read_it_and_is_the_same_each_time(name: str) -> None:
    picture = pictures.load(name)
    assert picture.title and picture.caption.endswith(".") and len(picture.caption) > 30
    method = {"codes": Coded(), "there_and_back": Turning(), "pairs": Paired()}.get(name, Plain())
    known: dict[str, Any] = {"other": dataset(SPEC)} if name in ("there_and_back", "pairs") else {}
    known |= {"seeds": {seed: subject(method).trained for seed in (0, 1)}} if name == "seeds" else {}
    made = [subject(method, history=HISTORY, **known) for _ in range(2)]
    drawn = [picture.draw(of) for of in made if picture.needs <= of.offers]
    if name != "film":
        assert len(drawn) == 2
        pixels = [np.asarray(one) if isinstance(one, Image.Image) else _pixels(one) for one in drawn]
        assert np.array_equal(*pixels) and len(np.unique(pixels[0])) > 2


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_the_default_pictures_are_all_there_are_and_those_of_params_yaml() -> None:
    assert sorted(PICTURES) == pictures.names()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert params["render"]["pictures"] == list(PICTURES)
    schema = json.loads((ROOT / "params.schema.json").read_text())["properties"]["render"]["properties"]["pictures"]
    assert schema["items"]["enum"] == pictures.names()


def test_a_misspelt_picture_is_refused_with_the_nearest_name_and_none_stands_twice() -> None:
    with pytest.raises(ValueError, match=r"pictures: there is no picture 'saliencie'.*'saliency'"):
        config.Render(pictures=["saliencie"])
    with pytest.raises(ValueError, match="pictures: film stands there more than once"):
        config.Render(pictures=["film", "curves", "film"])
    assert config.Render(pictures=[]).pictures == []


def test_the_documentation_lists_every_picture_and_comparison() -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    assert [name for name in (*PICTURES, *comparisons.names()) if f"| `{name}` |" not in text] == []
