"""The contract of extractors, and that EfficientNet-Lite0 sees what it should."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_data import toy_split

from pipeline.core.batch import to_uint8, to_unit_range
from pipeline.errors import UserError
from pipeline.evaluate import extractors as features
from pipeline.evaluate.extractor import Extractor, extract
from pipeline.evaluate.extractors import efficientnet_lite0
from pipeline.evaluate.feature_set import Statistics
from pipeline.evaluate.metrics.fid import frechet_distance
from pipeline.files import sha256_of, verified
from pipeline.nets import efficientnet


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


def test_folded_and_padding_as_it_goes_it_gives_the_packages_own_features(lite: Extractor, colour: Tensor) -> None:
    with torch.inference_mode():
        pooled, logits = efficientnet_lite0.Network(efficientnet.pretrained(efficientnet_lite0.SIZE))(colour)
    torch.testing.assert_close(lite(colour).pooled, pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lite(colour).logits, logits, rtol=1e-4, atol=1e-3)


def test_the_weights_know_real_photographs() -> None:
    """At the resolution of its training the network names what scikit-learn's two photographs show."""
    from sklearn.datasets import load_sample_images
    from torchvision.transforms.v2.functional import center_crop

    network = efficientnet_lite0.Network(efficientnet.pretrained(224), size=224)
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
    monkeypatch.setattr(efficientnet, "SHA256", "00")
    with pytest.raises(UserError, match="Reinstall"):
        features.load("efficientnet_lite0")
