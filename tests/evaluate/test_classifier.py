"""The extractor that learns the data's classes: it learns, the same each time, and says how well."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samplers import measured

from pipeline.config import Evaluate
from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import ArrayStore, Dataset, Split
from pipeline.errors import UserError
from pipeline.evaluate import extractors, metrics
from pipeline.evaluate.extractors import classifier

CPU = torch.device("cpu")


def stripes(count: int, seed: int, *, channels: int = 1, size: int = 16) -> Split:
    """Noisy images of three classes: horizontal stripes, vertical ones, and none."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    wave = 80 * np.sin(np.arange(size) * np.pi / 2 + generator.uniform(0, 6, (count, 1)))
    images = 128 + generator.normal(0, 20, (count, size, size, channels))
    images += np.where(labels == 0, 1, 0)[:, None, None, None] * wave[:, :, None, None]
    images += np.where(labels == 1, 1, 0)[:, None, None, None] * wave[:, None, :, None]
    return Split(ArrayStore((images.clip(0, 255).astype(np.uint8),)), labels)


def dataset(*, classes: int = 3, **shape: int) -> Dataset:
    spec = ImageSpec(channels=shape.get("channels", 1), size=shape.get("size", 16), classes=classes)
    splits = {"train": stripes(300, 0, **shape), "test": stripes(90, 1, **shape)}
    return Dataset(spec=spec, info={"digest": "d"}, splits=splits)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "IMAGES", 9_000)


@pytest.mark.parametrize("shape", [{}, {"channels": 3, "size": 8}, {"size": 40}], ids=["gray", "small RGB", "large"])
@pytest.mark.usefixtures("few")
def test_it_learns_and_its_protocol_says_how_well(tmp_path: Path, shape: dict[str, int]) -> None:
    data = dataset(**shape)
    classifier.fit(tmp_path / "a.safetensors", data, CPU)
    extractor = extractors.load("classifier", weights=str(tmp_path / "a.safetensors"))
    test = data.splits["test"]
    found = extractor(test.images(range(len(test))))
    assert found.pooled.shape == (90, 128) and found.logits.shape == (90, 3)
    accuracy = float((found.logits.argmax(1).numpy() == test.labels).mean())
    assert accuracy > 0.9 and extractor.protocol["test_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert extractor.protocol["trained"] == {"split": "train", "data": "d", "images_shown": 70 * 128, "seed": 0}
    assert extractor.protocol["channels"] == "as they are"
    assert extractor.protocol["resize"] == ("32x32 bilinear antialias float32" if shape.get("size") == 40 else "none")
    with pytest.raises(ValueError, match="channel"):
        extractor(torch.zeros(1, 4 - data.spec.channels, 16, 16, dtype=torch.uint8))


@pytest.mark.usefixtures("few")
def test_equal_data_make_equal_bytes_whatever_was_drawn_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.rand(17)
        classifier.fit(tmp_path / name, dataset(size=8), CPU)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    state = torch.random.get_rng_state()
    classifier.fit(tmp_path / "c", dataset(size=8), CPU)
    assert torch.equal(torch.random.get_rng_state(), state)  # a fit moves nobody's numbers
    other = dataset(size=8)
    other = replace(other, splits=other.splits | {"train": stripes(300, 5, size=8)})
    classifier.fit(tmp_path / "d", other, CPU)
    protocols = [extractors.load("classifier", weights=str(tmp_path / name)).protocol for name in ("a", "d")]
    assert protocols[0]["weights_sha256"] != protocols[1]["weights_sha256"]


def test_every_image_is_shown_equally_often() -> None:
    steps = 12
    order = list(classifier._order(100, steps))
    rows, ids = (torch.cat(parts) for parts in zip(*order, strict=True))
    counts = rows.bincount(minlength=100)
    assert len(rows) == steps * classifier.BATCH and counts.max() - counts.min() <= 1
    assert torch.equal(ids, torch.arange(len(rows)))
    assert not torch.equal(rows[:100], rows[100:200]) and sorted(rows[:100].tolist()) == list(range(100))


@pytest.mark.usefixtures("few")
def test_it_judges_modes_where_imagenets_classes_cannot(tmp_path: Path) -> None:
    data = dataset()
    classifier.fit(tmp_path / "classifier.safetensors", data, CPU)
    settings = Evaluate(extractors=["classifier"])
    (extractor,) = extractors.load_all(settings, tmp_path)
    split = data.splits["test"]
    seen = extractor(split.images(range(90)))
    real = measured(seen.pooled, logits=seen.logits, labels=torch.from_numpy(split.labels))
    two = torch.from_numpy(split.labels) != 2
    samples = measured(seen.pooled[two], logits=seen.logits[two])
    compute = metrics.load("mode_coverage").compute
    assert compute(samples, real)["modes"].value == 2 and compute(real, real)["modes"].value == 3
    assert compute(samples, real)["mode_kl"].value > 0.3 > abs(compute(real, real)["mode_kl"].value)
    score = metrics.load("inception_score").compute
    assert 1.5 < score(samples, real)["is"].value < 2.05 < 2.3 < score(real, real)["is"].value < 3.01


def test_without_classes_or_weights_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"learns the classes of the data, which have 1 class\(es\)\. Choose another"):
        classifier.fit(tmp_path / "a", dataset(classes=1), CPU)
    assert not (tmp_path / "a").exists()
    (tmp_path / "classifier.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"classifier\.safetensors: no readable classifier.*dvc repro extractors"):
        extractors.load_all(Evaluate(extractors=["classifier"]), tmp_path)
    with pytest.raises(UserError, match="dvc repro extractors"):
        extractors.load("classifier")
