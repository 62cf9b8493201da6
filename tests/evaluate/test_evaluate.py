"""The laws of FID and Inception Score, the extractors' contract, and the stages reference and evaluate."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import toy_split
from pipeline.evaluate.metrics.frechet import Statistics, frechet_distance
from pipeline.evaluate.reference import read_reference, write_reference
from torch import Tensor, nn

from pipeline import config
from pipeline.core.batch import Batch, ImageSpec, to_uint8, to_unit_range
from pipeline.core.method import Method, Nets
from pipeline.core.noise import Noise
from pipeline.data.dataset import ArrayStore, Dataset, Split
from pipeline.errors import UserError
from pipeline.evaluate import extractors as features
from pipeline.evaluate.extractor import Extractor, extract, verified
from pipeline.evaluate.extractors import efficientnet_lite0, inception
from pipeline.evaluate.metrics.inception_score import inception_score
from pipeline.files import sha256_of
from pipeline.inference import generate as sampling
from pipeline.inference.weights import Trained
from pipeline.methods import load
from pipeline.stages import evaluate as evaluate_stage
from pipeline.stages import reference as reference_stage
from pipeline.tracking.journal import Journal, read


def gaussian(mean: list[float], covariance: Tensor) -> Statistics:
    return Statistics(count=100, mean=torch.tensor(mean).double(), covariance=covariance.double())


def random_features(count: int, dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator)
    return torch.randn(count, dimensions, generator=generator) @ mixing + seed


# Frechet distance


def test_frechet_of_diagonal_gaussians_is_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 0.25, 0.0])
    expected = (1 + 4 + 0) + ((1 - 3) ** 2 + (2 - 0.5) ** 2)
    found = frechet_distance(gaussian([0, 0, 0], a.diag()), gaussian([1, -2, 0], b.diag()))
    assert found == pytest.approx(expected, rel=1e-12)


def test_frechet_of_commuting_but_rotated_gaussians_is_the_closed_form() -> None:
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double())
    a, b = torch.arange(1.0, 6.0).double(), torch.tensor([4.0, 1.0, 9.0, 0.5, 2.0]).double()
    zero = [0.0] * 5
    found = frechet_distance(gaussian(zero, turn @ a.diag() @ turn.T), gaussian(zero, turn @ b.diag() @ turn.T))
    assert found == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)


@pytest.mark.parametrize("count", [10, 300])
def test_frechet_of_identical_sets_is_zero_also_with_fewer_samples_than_dimensions(count: int) -> None:
    statistics = Statistics.of(random_features(count, 64, 1))
    assert abs(frechet_distance(statistics, statistics)) < 1e-10 * float(statistics.covariance.trace())


def test_frechet_of_a_shift_is_its_squared_length_for_a_singular_covariance() -> None:
    x = random_features(10, 64, 2).double()
    shift = torch.full((64,), 0.5).double()
    assert frechet_distance(Statistics.of(x), Statistics.of(x + shift)) == pytest.approx(16.0, rel=1e-9)


def test_frechet_of_a_scaling_scales_the_deviations() -> None:
    x = random_features(200, 16, 3).double()
    x = x - x.mean(0)
    trace = float(Statistics.of(x).covariance.trace())
    assert frechet_distance(Statistics.of(x), Statistics.of(3 * x)) == pytest.approx(4 * trace, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(500, 400, 64), (40, 60, 128)])
def test_frechet_agrees_with_torch_fidelity(n: int, m: int, d: int) -> None:
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = random_features(n, d, 4), random_features(m, d, 5)
    theirs = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(z.double()) for z in (x, y)), verbose=False
    )
    ours = frechet_distance(Statistics.of(x), Statistics.of(y))
    assert ours == pytest.approx(theirs[metric_fid.KEY_METRIC_FID], rel=1e-5)
    assert ours == pytest.approx(frechet_distance(Statistics.of(y), Statistics.of(x)), rel=1e-9)


def test_statistics_of_more_samples_than_a_chunk_are_numpys() -> None:
    x = random_features(9001, 8, 6)
    found = Statistics.of(x)
    assert found.count == 9001
    np.testing.assert_allclose(found.mean.numpy(), x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_refuse_what_is_not_finite(bad: float) -> None:
    x = torch.zeros(4, 3)
    x[2, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        Statistics.of(x)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(gaussian([0, bad, 0], torch.eye(3)), gaussian([0, 0, 0], torch.eye(3)))


def test_statistics_refuse_one_sample_and_other_dimensions() -> None:
    with pytest.raises(ValueError, match="n >= 2"):
        Statistics.of(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="differ in dimension"):
        frechet_distance(gaussian([0, 0], torch.eye(2)), gaussian([0, 0, 0], torch.eye(3)))


# Inception Score


def test_inception_score_of_sure_and_diverse_predictions_is_the_number_of_classes() -> None:
    logits = torch.eye(7)[torch.arange(7 * 10) % 7] * 1e4  # probabilities of exactly 0 and 1
    mean, deviation = inception_score(logits)
    assert (mean, deviation) == (pytest.approx(7.0, rel=1e-12), pytest.approx(0.0, abs=1e-9))


def test_inception_score_of_equal_predictions_is_one() -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)).expand(50, 12)
    assert inception_score(logits) == (pytest.approx(1.0, rel=1e-12), pytest.approx(0.0, abs=1e-12))


def test_inception_score_is_of_ten_parts() -> None:
    sure = torch.eye(2)[torch.arange(50) % 2] * 1e3  # five parts of score 2
    same = torch.eye(2)[torch.zeros(50, dtype=torch.long)] * 1e3  # five of score 1
    assert inception_score(torch.cat((sure, same))) == (pytest.approx(1.5), pytest.approx(0.5))


@pytest.mark.parametrize("count", [100, 237])
def test_inception_score_agrees_with_torch_fidelity(count: int) -> None:
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(count, 20, generator=torch.Generator().manual_seed(count))
    theirs = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, deviation = inception_score(logits)
    assert mean == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_MEAN], rel=1e-9)
    assert deviation == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_STD], rel=1e-7)


def test_inception_score_refuses_few_samples_and_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="n >= 10"):
        inception_score(torch.zeros(9, 3))
    with pytest.raises(ValueError, match="finite"):
        inception_score(torch.full((10, 3), float("nan")))


# Extractors


@pytest.fixture(scope="module")
def lite() -> Extractor:
    return features.load("efficientnet_lite0")


@pytest.fixture(scope="module")
def colour() -> Tensor:
    return toy_split(12, channels=3, size=16).images(range(12))


@pytest.fixture(scope="module")
def gray() -> Tensor:
    return toy_split(12, size=16).images(range(12))


def test_features_have_their_shapes_and_do_not_depend_on_the_batch(lite: Extractor, colour: Tensor) -> None:
    whole, parts = lite(colour), extract([lite], colour.split(5))["efficientnet_lite0"]
    assert (whole.pooled.shape, whole.logits.shape) == ((12, 1280), (12, 1000))
    torch.testing.assert_close(parts.pooled, whole.pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-4, atol=1e-4)
    assert whole.pooled.std(0).max() > 0.1


def test_gray_is_repeated_to_three_channels(lite: Extractor, gray: Tensor) -> None:
    torch.testing.assert_close(lite(gray).pooled, lite(gray.repeat(1, 3, 1, 1)).pooled)


def test_the_float_path_gives_the_same_features(lite: Extractor, colour: Tensor) -> None:
    as_floats = to_unit_range(colour, torch.device("cpu"))
    assert torch.equal(to_uint8(as_floats), colour)
    assert torch.equal(lite(to_uint8(as_floats)).pooled, lite(colour).pooled)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_float_images_raise(lite: Extractor, colour: Tensor, scale: float) -> None:
    with pytest.raises(TypeError, match="uint8"):
        lite(colour / 255 * scale)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 4, 8, 8), (3, 8, 8)])
def test_other_shapes_raise(lite: Extractor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="n, 1 or 3, h, w"):
        lite(torch.zeros(shape, dtype=torch.uint8))


def test_folding_batch_normalization_changes_nothing_but_rounding(lite: Extractor, colour: Tensor) -> None:
    with torch.inference_mode():
        pooled, logits = efficientnet_lite0.Network(efficientnet_lite0.pretrained())(colour)
    torch.testing.assert_close(lite(colour).pooled, pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lite(colour).logits, logits, rtol=1e-4, atol=1e-3)


def test_the_weights_know_real_photographs() -> None:
    """At the resolution of its training the network names what scikit-learn's two photographs show."""
    from sklearn.datasets import load_sample_images
    from torchvision.transforms.v2.functional import center_crop

    network = efficientnet_lite0.Network(efficientnet_lite0.pretrained(), size=224)
    palace, daisy = 698, 985  # ImageNet's classes
    for photograph, expected in zip(load_sample_images().images, (palace, daisy), strict=True):
        image = torch.from_numpy(photograph.copy()).permute(2, 0, 1)
        with torch.inference_mode():
            _, logits = network(center_crop(image, [min(image.shape[1:])] * 2)[None])
        assert int(logits.argmax()) == expected


def test_the_distance_orders_real_images_by_how_much_they_are_spoilt(lite: Extractor) -> None:
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().images * (255 / 16)).round().to(torch.uint8)[:300, None]
    images = pixels[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    noise = torch.randn(150, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    spoilt = {0: images[150:]} | {s: (images[150:] + s * noise).clamp(0, 255).to(torch.uint8) for s in (20, 80)}
    real = Statistics.of(lite(images[:150]).pooled)
    none, little, much = (frechet_distance(real, Statistics.of(lite(x).pooled)) for x in spoilt.values())
    assert none > 0 and 1.5 * none < little and 1.5 * little < much


def test_an_unknown_extractor_is_named_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"evaluate\.extractors.*'inceptoin'.*'inception'"):
        features.load("inceptoin")


def test_other_weights_than_the_published_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=r"weights\.pth: its sha256 is .*expected 00.*Get it"):
        verified(path, "00", "Get it.")
    assert verified(path, sha256_of(path), "") == path
    monkeypatch.setattr(efficientnet_lite0, "SHA256", "00")
    with pytest.raises(UserError, match="Reinstall"):
        features.load("efficientnet_lite0")


# Inception, whose published weights are not at hand: random ones in the same format


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Unloaded(module.FeatureExtractorInceptionV3):  # type: ignore[misc, name-defined]
        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            """The constructor would load the published weights."""

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    torch.manual_seed(0)
    net = Unloaded("random", ["2048"], str(folder / "empty.pth"))
    torch.save(net.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture
def served(random_inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The random weights at a local URL that takes the published one's place; yields the cache's folder."""
    handler = functools.partial(Quiet, directory=str(random_inception.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(inception, "URL", f"http://127.0.0.1:{server.server_port}/weights.pth")
        monkeypatch.setattr(inception, "SHA256", sha256_of(random_inception))
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        yield tmp_path / "checkpoints"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No log in the tests' output."""


def test_inception_is_torch_fidelitys_on_the_downloaded_weights(served: Path, colour: Tensor) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    extractor = features.load("inception")
    assert [file.name for file in served.iterdir()] == ["weights.pth"]
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(served / "weights.pth"))
    with torch.inference_mode():
        pooled, logits = theirs(colour[:2])
    found = extractor(colour[:2])
    assert (found.pooled.shape, found.logits.shape) == ((2, 2048), (2, 1008))
    torch.testing.assert_close(found.pooled, pooled, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-6)


def test_a_damaged_download_is_refused_and_not_kept(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"damaged file.*evaluate\.weights"):
        features.load("inception")
    assert list(served.iterdir()) == []


def test_weights_that_cannot_be_had_are_an_error_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception, "URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(UserError, match=r"can't be downloaded.*evaluate\.weights"):
        features.load("inception")
    with pytest.raises(UserError, match=r"nowhere\.pth: no such weights file.*evaluate\.weights"):
        features.load("inception", weights=str(tmp_path / "nowhere.pth"))
    other = tmp_path / "other.pth"
    other.write_bytes(b"other")
    with pytest.raises(UserError, match=r"other\.pth: its sha256"):
        features.load("inception", weights=str(other))


# Sampling


@dataclass(frozen=True, kw_only=True)
class Copying(Method):
    """'Generates' the batch's own images, times a factor: what a translating method may do."""

    sampled: ClassVar[tuple[str, ...]] = ("scale",)
    factor: float = 1.0

    def build(self, spec: ImageSpec) -> Nets:
        return nn.ModuleDict({"scale": nn.Linear(1, 1)})

    def phases(self) -> tuple[()]:
        return ()

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return like.images * self.factor

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {"mean_pixel": batch.images.flatten(1).mean(1)}


def trained(method: Method, spec: ImageSpec) -> Trained:
    torch.manual_seed(0)
    nets = method.build(spec)
    for parameter in nets.parameters():
        if parameter.ndim == 4:  # fresh nets draw an all but even gray, of which nothing could be told apart
            parameter.data.mul_(8)
    return Trained(method=method, nets=nets.eval(), spec=spec, seen=1000, name="toy", params={})


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


# The stages


SETTINGS = config.Evaluate(extractors=["efficientnet_lite0"], samples=30, reference_samples=40, batch_size=8)


def toy_dataset(channels: int = 1, digest: str = "d1") -> Dataset:
    info = {"digest": digest, "source": "toy", "classes": [str(i) for i in range(10)]}
    splits = {"train": toy_split(48, channels=channels), "test": toy_split(20, channels=channels)}
    return Dataset(spec=ImageSpec(channels=channels, size=16, classes=10), info=info, splits=splits)


@contextmanager
def in_project(folder: Path, dataset: Dataset, settings: config.Evaluate, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A project's folder whose out/data is ``dataset`` and whose params say ``settings``."""
    params = replace(config.read_params(Path(__file__).parents[2] / "params.yaml"), evaluate=settings)
    with patch.context() as context:
        context.chdir(folder)
        context.setattr("pipeline.data.dataset.open_dataset", lambda path: dataset)
        for stage in (reference_stage, evaluate_stage):
            context.setattr(stage, "read_params", lambda: params)
        yield


@pytest.fixture(scope="module", params=[1, 3])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    dataset = toy_dataset(request.param)
    with in_project(tmp_path_factory.mktemp("project"), dataset, SETTINGS, pytest.MonkeyPatch()):
        reference_stage.main()
        yield dataset


def test_reference_says_what_was_measured_and_how(project: Dataset) -> None:
    statistics, about = read_reference(Path("out/reference"), "efficientnet_lite0")
    assert statistics.count == 40 and statistics.covariance.shape == (1280, 1280)
    assert about["protocol"]["reference"] == {"split": "train", "count": 40, "seed": 0, "digest": "d1"}
    assert about["protocol"]["weights_sha256"] == efficientnet_lite0.SHA256
    assert about["real"]["real_halves_counts"] == [20, 20]
    assert about["real"]["fid_efficientnet_lite0_real_halves"] > 1
    assert {file.name for file in Path("out/reference").iterdir()} == {
        "efficientnet_lite0.npz",
        "efficientnet_lite0.json",
        "real.png",
    }


def test_evaluating_the_real_images_themselves_gives_zero_and_their_own_score(project: Dataset) -> None:
    """The reference's 40 images, copied: the stage's two sides measure alike, whatever the batches."""
    model = trained(Copying(), project.spec)
    metrics, protocol = evaluate_stage.evaluate(model, project, replace(SETTINGS, samples=40, batch_size=17))
    statistics, about = read_reference(Path("out/reference"), "efficientnet_lite0")
    assert abs(metrics["fid_efficientnet_lite0"]) < 1e-4 * float(statistics.covariance.trace())
    assert metrics["is_efficientnet_lite0"] == pytest.approx(about["real"]["is_efficientnet_lite0"], rel=1e-4)
    assert protocol["fid_efficientnet_lite0"]["reference"]["count"] == 40
    assert protocol["fid_efficientnet_lite0"]["generated"] == {"count": 40, "seed": 0, "images_seen": 1000}
    assert protocol["mean_pixel_test"]["split"] == "test" and protocol.keys() == metrics.keys()


def test_evaluation_is_deterministic_and_independent_of_the_batch_size(project: Dataset) -> None:
    model = trained(load("vae", width=8), project.spec)
    first, _ = evaluate_stage.evaluate(model, project, SETTINGS)
    again, _ = evaluate_stage.evaluate(model, project, SETTINGS)
    other, _ = evaluate_stage.evaluate(model, project, replace(SETTINGS, batch_size=30))
    assert first == again
    assert first.keys() == {
        "fid_efficientnet_lite0",
        "is_efficientnet_lite0",
        "is_efficientnet_lite0_std",
        "elbo_bits_per_dim_test",
    }
    for name, value in first.items():
        assert other[name] == pytest.approx(value, rel=1e-3), name
    seeded, _ = evaluate_stage.evaluate(model, project, replace(SETTINGS, seed=1))
    assert seeded["fid_efficientnet_lite0"] != pytest.approx(first["fid_efficientnet_lite0"], rel=1e-2)


def test_a_translation_is_compared_with_the_domain_it_translates_into(project: Dataset) -> None:
    """The first class's images as they are: far from themselves only if measured against the second class."""
    model, info = trained(Copying(), project.spec), {**project.info, "classes": [str(k) for k in range(10)]}
    whole = replace(project, info=info)
    settings = replace(SETTINGS, samples=20)
    same, how = evaluate_stage.evaluate(model, whole.of_class("1"), settings, whole.of_class("1"))
    other, _ = evaluate_stage.evaluate(model, whole.of_class("1"), settings, whole.of_class("2"))
    assert how["fid_efficientnet_lite0"]["reference"]["class"] == 1
    assert same["fid_efficientnet_lite0"] < 0.5 * other["fid_efficientnet_lite0"]


def test_evaluate_writes_numbers_protocol_and_journal(project: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(Copying(), project.spec)

    @contextmanager
    def reopened(name: str) -> Iterator[Journal]:
        with Journal.open(Path("journal")) as journal:
            yield journal

    monkeypatch.setattr(evaluate_stage, "reopen", reopened)
    monkeypatch.setattr("pipeline.inference.weights.load_weights", lambda path, device: model)
    monkeypatch.setattr(evaluate_stage, "read_train_json", lambda name: {"params": {"domains": None}})
    evaluate_stage.main("toy")
    metrics = json.loads(Path("out/runs/toy/metrics.json").read_text())
    assert metrics and all(isinstance(value, float) for value in metrics.values())
    records = [record for record, _ in read(Path("journal/journal.jsonl"))]
    assert [r["values"] for r in records if r["kind"] == "metrics"] == [metrics]
    assert [r["step"] for r in records if r["kind"] == "metrics"] == [1000]
    tags = {key: value for r in records if r["kind"] == "tags" for key, value in r["tags"].items()}
    protocol = json.loads(Path("out/runs/toy/protocol.json").read_text())
    assert json.loads(tags["protocol.fid_efficientnet_lite0"]) == protocol["fid_efficientnet_lite0"]


def test_a_reference_of_other_images_is_refused(project: Dataset) -> None:
    other = replace(project, info={**project.info, "digest": "d2"})
    with pytest.raises(UserError, match="dvc repro reference"):
        evaluate_stage.evaluate(trained(Copying(), project.spec), other, SETTINGS)


def test_too_few_real_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = replace(toy_dataset(), splits={"train": toy_split(19), "test": toy_split(5)})
    with in_project(tmp_path, dataset, SETTINGS, monkeypatch), pytest.raises(UserError, match=r"evaluate\.split.*19"):
        reference_stage.main()
    assert not (tmp_path / "out").exists()


def test_a_reference_is_read_back_and_a_damaged_one_refused(tmp_path: Path) -> None:
    statistics = Statistics.of(random_features(20, 4, 0))
    write_reference(tmp_path, "x", statistics, {"protocol": {"a": 1}})
    found, about = read_reference(tmp_path, "x")
    assert about == {"protocol": {"a": 1}} and found.count == 20
    assert torch.equal(found.mean, statistics.mean) and torch.equal(found.covariance, statistics.covariance)
    file = tmp_path / "x.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"x\.npz: no readable statistics.*dvc repro reference"):
        read_reference(tmp_path, "x")
