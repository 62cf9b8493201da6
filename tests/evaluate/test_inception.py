"""Inception, whose published weights are not at hand: random ones in the same format."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_data import toy_split

from pipeline.errors import UserError
from pipeline.evaluate import extractors as features
from pipeline.evaluate.extractors import inception
from pipeline.files import sha256_of


@pytest.fixture(scope="module")
def colour() -> Tensor:
    return toy_split(12, channels=3, size=16).images(range(12))


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
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for values, low, high in ((norm.running_mean, -0.1, 0.1), (norm.running_var, 0.5, 1.5)):
                values.uniform_(low, high)  # type: ignore[union-attr]
            torch.nn.init.uniform_(norm.weight, 0.8, 1.2)
            torch.nn.init.uniform_(norm.bias, -0.1, 0.1)
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
    assert [file.name for file in served.glob("*.pth")] == ["weights.pth"]
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(served / "weights.pth"))
    with torch.inference_mode():
        pooled, logits = theirs(colour[:2])
    found = extractor(colour[:2])
    assert pooled.std() > 0.01 and float((found.pooled - pooled).norm() / pooled.norm()) < 1e-5
    assert (found.pooled.shape, found.logits.shape) == ((2, 2048), (2, 1008))
    torch.testing.assert_close(found.pooled, pooled, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [16, 299, 301])
def test_the_resize_is_torch_fidelitys_to_the_bit(size: int) -> None:
    module = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = 255 * torch.rand(2, 3, size, size + 1, generator=torch.Generator().manual_seed(0))
    theirs = module.interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert torch.equal(inception.resized(images, 299), theirs)


def test_a_damaged_download_is_refused_and_not_kept(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"not the published file.*evaluate\.weights"):
        features.load("inception")
    assert [file.name for file in served.iterdir() if file.suffix != ".lock"] == []


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
