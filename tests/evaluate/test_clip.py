"""CLIP, whose published weights are not at hand: a small encoder with random ones in the same format."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_data import toy_split

from pipeline.errors import UserError
from pipeline.evaluate import extractors
from pipeline.evaluate.extractors import clip
from pipeline.files import sha256_of


class Holder(nn.Module):
    """Nothing but tensors, as the published TorchScript archive is read."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture(scope="module")
def random_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = pytest.importorskip("torch_fidelity.feature_extractor_clip")
    torch.manual_seed(0)
    net = module.CLIPVisual(embed_dim=20, image_resolution=32, vision_layers=2, vision_width=64, vision_patch_size=16)
    root = Holder()
    for name, tensor in {**net.state_dict(), "text_projection": torch.zeros(1, 20)}.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, Holder())
            place = getattr(place, part)
        place.register_buffer(last, tensor)
    file = tmp_path_factory.mktemp("clip") / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(root), file)
    return file


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_torch_fidelitys_encoder_of_the_named_file(random_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    monkeypatch.setattr(clip, "SHA256", sha256_of(random_clip))
    extractor = extractors.load("clip", weights=str(random_clip))
    images = toy_split(5, channels=3).images(range(5))
    found = extractor(images)
    with torch.inference_mode():
        (theirs,) = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], str(random_clip)).eval()(images)
    torch.testing.assert_close(found.pooled, theirs, rtol=1e-4, atol=1e-5)
    assert found.pooled.shape == (5, 20) and found.pooled.std(0).min() > 0 and found.logits.tolist() == [[0.0]] * 5
    torch.testing.assert_close(extractor(images[2:3]).pooled, found.pooled[2:3], rtol=1e-4, atol=1e-5)
    assert extractor.protocol["weights_sha256"] == sha256_of(random_clip)


def test_another_file_is_refused(random_clip: Path) -> None:
    with pytest.raises(UserError, match=r"ViT-B-32\.pt: its sha256 is .*evaluate\.weights"):
        extractors.load("clip", weights=str(random_clip))


def test_weights_that_cannot_be_had_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(clip, "URL", "http://127.0.0.1:9/ViT-B-32.pt")
    with pytest.raises(UserError, match=r"extractor 'clip': its weights can't be downloaded.*evaluate\.weights"):
        extractors.load("clip")
