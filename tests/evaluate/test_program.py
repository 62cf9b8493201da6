"""Exported programs as extractors: what they return, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_data import toy_split

from pipeline.config import Evaluate
from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import NewSplit, write_dataset
from pipeline.errors import UserError
from pipeline.evaluate import extractors, program
from pipeline.evaluate.extraction import prepare_extractors
from pipeline.evaluate.prepared import read_hashes
from pipeline.files import sha256_of

CPU = torch.device("cpu")


class Features(nn.Module):
    """Channel means and, if asked, two logits."""

    def __init__(self, *, logits: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2) if logits else None

    def forward(self, images: Tensor) -> Any:
        pooled = images.float().mean((2, 3)) / 255
        return pooled if self.head is None else (pooled, self.head(pooled))


class OfTheBatch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        pooled = images.float().mean((2, 3))
        return pooled - pooled.mean(0)


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 2, 3))


class NotFinite(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3)).log() * torch.inf


def export(
    path: Path, net: nn.Module, *, channels: int = 3, dtype: torch.dtype = torch.uint8, batch: bool = True
) -> Path:
    example = torch.zeros(2, channels, 16, 16, dtype=dtype)
    shapes = ({0: torch.export.Dim("n", min=1)},) if batch else None
    torch.export.save(torch.export.export(net.eval(), (example,), dynamic_shapes=shapes), path)
    return path


def loaded(path: Path) -> Any:
    return program.load(path, sha256_of(path), CPU)


def data(folder: Path, channels: int = 1) -> Path:
    split = toy_split(12, channels=channels)
    images = split.images(range(12)).permute(0, 2, 3, 1).numpy()
    splits = {name: NewSplit(split.labels, [images]) for name in ("train", "test")}
    spec = ImageSpec(channels=channels, size=16, classes=10)
    write_dataset(folder, source="toy", spec=spec, classes=[str(i) for i in range(10)], splits=splits)
    return folder


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_gives_the_networks_own_numbers(tmp_path: Path, logits: bool, channels: int) -> None:
    net = Features(logits=logits)
    extractor = loaded(export(tmp_path / "mine.pt2", net))
    for count in (1, 5):
        images = torch.randint(0, 256, (count, channels, 16, 16), dtype=torch.uint8)
        found, pooled = extractor(images), images.float().mean((2, 3)).expand(-1, 3) / 255
        torch.testing.assert_close(found.pooled, pooled)
        expected = net.head(pooled).detach() if net.head else torch.zeros(count, 1)
        torch.testing.assert_close(found.logits, expected)
    assert extractor.protocol["channels"] == "gray repeated to 3"
    assert (extractor.name, extractor.protocol["weights_sha256"]) == ("mine", sha256_of(tmp_path / "mine.pt2"))


def test_a_program_of_one_channel_takes_gray_images_as_they_are(tmp_path: Path) -> None:
    extractor = loaded(export(tmp_path / "gray.pt2", Features(), channels=1))
    assert extractor(torch.full((4, 1, 16, 16), 51, dtype=torch.uint8)).pooled.tolist() == [[pytest.approx(0.2)]] * 4
    assert extractor.protocol["channels"] == "as they are"
    with pytest.raises(UserError, match=r"gray\.pt2: it cannot take images \(4, 3, 16, 16\)"):
        extractor(torch.zeros(4, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("how", "net", "message"),
    [
        ({"batch": False}, Features(), "its batch is fixed at 2 images"),
        ({"dtype": torch.float32}, Features(), "its input is torch.float32, not uint8"),
        ({}, Flat(), "of 3 images it returns [(3,)]"),
        ({}, OfTheBatch(), "an image's features depend on the other images of its batch"),
        ({}, NotFinite(), "features of the data's first images are not all finite"),
    ],
)
def test_what_is_no_extractor_is_refused(tmp_path: Path, how: dict[str, Any], net: nn.Module, message: str) -> None:
    path = export(tmp_path / "x.pt2", net, **how)
    with pytest.raises(UserError, match=f"x.pt2: .*{re.escape(message)}"):
        program.try_out(loaded(path), path, toy_split(3).images(range(3)))


def test_a_file_that_is_no_program_or_another_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"x\.pt2: no program of torch\.export that can be loaded"):
        loaded(path)
    with pytest.raises(UserError, match=r"x\.pt2: its sha256 is .*, expected 0000\. Run `dvc repro`"):
        program.load(path, "0000", CPU)
    path.unlink()
    with pytest.raises(UserError, match="no such weights file"):
        program.load(path, "0000", CPU)


def test_the_stage_keeps_the_hash_and_notices_another_file(tmp_path: Path) -> None:
    settings = Evaluate(extractors=["mine.pt2"], path=str(tmp_path))
    folder, images = tmp_path / "prepared", data(tmp_path / "data")
    folder.mkdir()
    with pytest.raises(UserError, match=r"params\.yaml: evaluate\.path: there is no file 'mine\.pt2' in '.*'\. Put it"):
        prepare_extractors(folder, images, settings)
    export(tmp_path / "mine.pt2", Features())
    prepare_extractors(folder, images, settings)
    assert read_hashes(folder) == {"mine.pt2": sha256_of(tmp_path / "mine.pt2")}
    assert (
        [extractor.name for extractor in extractors.load_all(settings, folder)] == settings.extractor_names == ["mine"]
    )
    export(tmp_path / "mine.pt2", Features(logits=True))
    with pytest.raises(UserError, match=r"mine\.pt2: its sha256 is"):
        extractors.load_all(settings, folder)


@pytest.mark.parametrize(
    ("extractors", "message"),
    [
        (["a/b.pt2"], "name a file of evaluate.path"),
        (["a.b.pt2"], "name a file of evaluate.path"),
        (["classifier", "classifier.pt2"], "classifier stands there more than once"),
    ],
)
def test_a_programs_name_is_a_part_of_the_metrics_names(extractors: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Evaluate(extractors=extractors)
