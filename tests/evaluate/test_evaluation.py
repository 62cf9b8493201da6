"""The stages reference, generate, evaluate and evaluate_real: what they keep, and the numbers made of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samplers import Copying, random_features, trained
from toy_data import toy_split

from pipeline import config
from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.evaluate import extractors
from pipeline.evaluate.extraction import write_reference, write_samples
from pipeline.evaluate.extractor import Extractor, Features
from pipeline.evaluate.extractors import efficientnet_lite0
from pipeline.evaluate.feature_set import read_protocol, read_set, write_set
from pipeline.evaluate.scoring import Scores, score_real, score_run
from pipeline.inference.weights import Trained
from pipeline.methods import load
from pipeline.stages import evaluate as evaluate_stage
from pipeline.stages import evaluate_real as real_stage
from pipeline.stages import generate as generate_stage
from pipeline.stages import reference as reference_stage
from pipeline.tracking.journal import Journal, read

LITE = "efficientnet_lite0"
FID, IS, KID = f"fid_{LITE}", f"is_{LITE}", f"kid_{LITE}"
SETTINGS = config.Evaluate(extractors=[LITE], samples=30, reference_samples=40, batch_size=8)


def toy_dataset(channels: int = 1, digest: str = "d1") -> Dataset:
    info = {"digest": digest, "source": "toy", "classes": [str(i) for i in range(10)]}
    splits = {"train": toy_split(48, channels=channels), "test": toy_split(20, channels=channels)}
    return Dataset(spec=ImageSpec(channels=channels, size=16, classes=10), info=info, splits=splits)


@pytest.fixture(scope="module")
def known() -> list[Extractor]:
    return extractors.load_all(SETTINGS)


@pytest.fixture(scope="module", params=[1, 3])
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return toy_dataset(request.param)


@pytest.fixture(scope="module")
def reference(dataset: Dataset, known: list[Extractor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    write_reference(folder, dataset, SETTINGS, known)
    return folder


@pytest.fixture(scope="module")
def kept(dataset: Dataset, known: list[Extractor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE's samples."""
    folder = tmp_path_factory.mktemp("features")
    write_samples(folder, trained(load("vae", width=8), dataset.spec), dataset, SETTINGS, known)
    return folder


@pytest.fixture(scope="module")
def first(kept: Path, reference: Path) -> Scores:
    """Their scores."""
    return score_run(kept, reference, SETTINGS)


@pytest.fixture
def evaluate(reference: Path, known: list[Extractor], tmp_path: Path) -> Any:
    """Both halves of an evaluation in a row: samples kept in a fresh folder, and their scores."""
    counter = iter(range(10))

    def both(
        model: Trained, dataset: Dataset, settings: config.Evaluate = SETTINGS, second: Dataset | None = None
    ) -> Scores:
        folder = tmp_path / f"features-{next(counter)}"
        folder.mkdir()
        write_samples(folder, model, dataset, settings, known, second)
        return score_run(folder, reference, settings)

    return both


# What is kept


def test_the_reference_keeps_all_that_a_metric_may_need(dataset: Dataset, reference: Path) -> None:
    protocol, whole = read_protocol(reference, "reference"), read_set(reference, LITE, "reference")
    assert (len(whole), whole.distinct, whole.seed) == (40, 40, 0)
    assert (whole.features.shape, whole.logits.shape) == ((40, 1280), (40, 1000))
    assert whole.statistics is whole.stored and whole.statistics.covariance.shape == (1280, 1280)
    assert whole.labels.bincount(minlength=10).min() > 0
    assert protocol["images"] == {"split": "train", "count": 40, "seed": 0, "digest": "d1"}
    assert protocol["extractors"][LITE]["weights_sha256"] == efficientnet_lite0.SHA256
    files = {str(file.relative_to(reference)) for file in reference.rglob("*") if file.is_file()}
    arrays = {f"{LITE}/{name}.npy" for name in ("features", "logits", "mean", "covariance")}
    assert files == arrays | {"labels.npy", "protocol.json"}


def test_a_run_keeps_its_samples_features_and_its_own_scores(
    dataset: Dataset, reference: Path, known: list[Extractor], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, samples=40, batch_size=17, truncation=2.0)
    write_samples(tmp_path, trained(Copying(), dataset.spec), dataset, settings, known)
    found, real = read_set(tmp_path, LITE, "generate"), read_set(reference, LITE, "reference")
    torch.testing.assert_close(found.features, real.features, rtol=1e-4, atol=1e-4)  # copies of the same 40 images
    assert torch.equal(found.labels, real.labels) and found.stored is None
    images = {"split": "train", "count": 40, "seed": 0, "digest": "d1", "images_seen": 1000, "truncation": 2.0}
    assert read_protocol(tmp_path, "generate")["images"] == images
    assert json.loads((tmp_path / "scores.json").read_text())["values"].keys() == {"mean_pixel"}


def test_a_feature_set_is_read_back_and_a_damaged_one_refused(tmp_path: Path) -> None:
    pooled, logits = random_features(20, 4, 0), random_features(20, 3, 1)
    protocol: dict[str, Any] = {"images": {"seed": 3}, "extractors": {"x": {}}}
    write_set(tmp_path, torch.arange(20), {"x": Features(pooled=pooled, logits=logits)}, protocol, statistics=True)
    whole = read_set(tmp_path, "x", "reference")
    assert torch.equal(whole.features, pooled) and torch.equal(whole.logits, logits) and whole.seed == 3
    np.testing.assert_allclose(whole.statistics.mean, pooled.double().mean(0), rtol=1e-12)
    part = whole.part(slice(5, None))
    assert len(part) == 15 and torch.equal(part.labels, torch.arange(5, 20)) and part.distinct == 15
    np.testing.assert_allclose(part.statistics.mean, pooled[5:].double().mean(0), rtol=1e-12)
    file = tmp_path / "x" / "features.npy"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"x: not readable.*dvc repro reference"):
        read_set(tmp_path, "x", "reference")
    (tmp_path / "protocol.json").write_text("{")
    with pytest.raises(UserError, match=r"protocol\.json: not readable.*dvc repro generate"):
        read_protocol(tmp_path, "generate")


def test_too_few_real_images_are_refused(known: list[Extractor], tmp_path: Path) -> None:
    dataset = replace(toy_dataset(), splits={"train": toy_split(19), "test": toy_split(5)})
    with pytest.raises(UserError, match=r"evaluate\.split.*19"):
        write_reference(tmp_path, dataset, SETTINGS, known)
    assert not list(tmp_path.iterdir())


# Scores


def test_evaluating_the_real_images_themselves_gives_zero_and_their_own_score(
    dataset: Dataset, reference: Path, evaluate: Any
) -> None:
    """The reference's 40 images, copied: both sides measure alike, whatever the batches."""
    settings = replace(SETTINGS, samples=40, batch_size=17)
    found = evaluate(trained(Copying(), dataset.spec), dataset, settings)
    trace = float(read_set(reference, LITE, "reference").statistics.covariance.trace())
    assert abs(found.metrics[FID]) < 1e-4 * trace
    assert found.metrics[IS] == pytest.approx(score_real(reference, settings).metrics[IS], rel=1e-4)
    assert found.protocol[FID]["reference"]["count"] == 40 and "reference" not in found.protocol[IS]
    generated = {"split": "train", "count": 40, "seed": 0, "digest": "d1", "images_seen": 1000}
    assert found.protocol[FID]["generated"] == generated
    assert found.protocol["mean_pixel_test"]["split"] == "test" and found.protocol.keys() == found.metrics.keys()


def test_evaluation_is_deterministic_and_independent_of_the_batch_size(
    dataset: Dataset, first: Scores, evaluate: Any
) -> None:
    model = trained(load("vae", width=8), dataset.spec)
    again = evaluate(model, dataset).metrics
    other = evaluate(model, dataset, replace(SETTINGS, batch_size=30)).metrics
    assert first.metrics == again
    assert again.keys() == {FID, IS, f"{IS}_std", "elbo_bits_per_dim_test"}
    for name, value in again.items():
        assert other[name] == pytest.approx(value, rel=1e-3), name
    seeded = evaluate(model, dataset, replace(SETTINGS, seed=1)).metrics
    assert seeded[FID] != pytest.approx(again[FID], rel=1e-2)


def test_a_protocol_says_title_direction_and_spread(first: Scores) -> None:
    described = {
        key: (how["metric"], how["title"], how["better"], how.get("spread")) for key, how in first.protocol.items()
    }
    assert described == {
        FID: ("fid", "FID", "lower", None),
        IS: ("inception_score", "IS", "higher", f"{IS}_std"),
        f"{IS}_std": ("inception_score", "IS", "higher", f"{IS}_std"),
        "elbo_bits_per_dim_test": ("own_scores", "ELBO bits/dim", "lower", None),
    }
    assert first.protocol[IS]["settings"] == {"splits": 10}


def test_a_further_metric_needs_no_further_samples_and_changes_no_other_number(
    kept: Path, reference: Path, first: Scores
) -> None:
    after = score_run(kept, reference, replace(SETTINGS, metrics=["kid", "inception_score"])).metrics
    assert after.keys() == first.metrics.keys() - {FID} | {KID, f"{KID}_std"}
    assert {key: after[key] for key in first.metrics if key != FID} == {
        key: value for key, value in first.metrics.items() if key != FID
    }
    assert after[KID] > 0 and after[f"{KID}_std"] > 0


def test_real_images_are_scored_in_parts_that_do_not_overlap_as_many_as_a_run_has(reference: Path) -> None:
    few = score_real(reference, replace(SETTINGS, samples=12))
    assert few.metrics.keys() == {FID, IS, f"{IS}_std"} and few.metrics[FID] > 1
    assert (few.protocol[FID]["real"]["count"], few.protocol[FID]["reference"]["count"]) == (12, 28)
    assert few.protocol[IS]["real"]["count"] == 12
    many = score_real(reference, replace(SETTINGS, samples=2000))
    assert (many.protocol[FID]["real"]["count"], many.protocol[FID]["reference"]["count"]) == (20, 20)
    assert many.protocol[IS]["real"]["count"] == 40
    assert few.metrics[IS] < many.metrics[IS]  # the score grows with the count


def test_a_translation_is_compared_with_the_domain_it_translates_into(dataset: Dataset, evaluate: Any) -> None:
    """The first class's images as they are: far from themselves only if measured against the second class."""
    model = trained(Copying(), dataset.spec)
    settings = replace(SETTINGS, samples=20)
    same = evaluate(model, dataset.of_class("1"), settings, dataset.of_class("1"))
    other = evaluate(model, dataset.of_class("1"), settings, dataset.of_class("2"))
    assert same.protocol[FID]["reference"]["class"] == 1
    assert same.protocol[FID]["generated"]["distinct"] == 5  # 20 translations of 5 images
    assert same.metrics[FID] < 0.5 * other.metrics[FID]


def test_a_reference_of_other_images_or_extractors_is_refused(dataset: Dataset, evaluate: Any, reference: Path) -> None:
    other = replace(dataset, info={**dataset.info, "digest": "d2"})
    with pytest.raises(UserError, match="dvc repro reference"):
        evaluate(trained(Copying(), dataset.spec), other)
    with pytest.raises(UserError, match="made without the extractor 'inception'"):
        score_real(reference, replace(SETTINGS, extractors=["inception"]))


# The stages


def test_the_stages_write_references_features_numbers_protocol_and_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = toy_dataset()
    params = config.read_params(Path(__file__).parents[2] / "params.yaml")
    params = replace(params, evaluate=SETTINGS, runs={"toy": {"method": "vae"}})

    @contextmanager
    def reopened(name: str) -> Iterator[Journal]:
        with Journal.open(Path("journal")) as journal:
            yield journal

    for stage in (reference_stage, generate_stage, evaluate_stage, real_stage):
        monkeypatch.setattr(stage, "read_params", lambda: params)
    monkeypatch.setattr(evaluate_stage, "reopen", reopened)
    for module in ("pipeline.evaluate.extraction", "pipeline.render.samples"):
        monkeypatch.setattr(f"{module}.open_dataset", lambda path: dataset)
    model = trained(Copying(), dataset.spec)
    monkeypatch.setattr("pipeline.evaluate.extraction.load_fitting", lambda path, spec, device: model)
    monkeypatch.chdir(tmp_path)
    reference_stage.main()
    generate_stage.main("toy")
    evaluate_stage.main("toy")
    real_stage.main()
    assert Path("out/reference/real.png").is_file()
    for folder in (Path("out/runs/toy"), Path("out/real")):
        metrics = json.loads((folder / "metrics.json").read_text())
        protocol = json.loads((folder / "protocol.json").read_text())
        assert metrics.keys() == protocol.keys() and all(isinstance(value, float) for value in metrics.values())
        assert {FID, IS, f"{IS}_std"} <= metrics.keys()
    metrics = json.loads(Path("out/runs/toy/metrics.json").read_text())
    records = [record for record, _ in read(Path("journal/journal.jsonl"))]
    assert [(r["values"], r["step"]) for r in records if r["kind"] == "metrics"] == [(metrics, 1000)]
    tags = {key: value for r in records if r["kind"] == "tags" for key, value in r["tags"].items()}
    protocol = json.loads(Path("out/runs/toy/protocol.json").read_text())
    assert json.loads(tags[f"protocol.{FID}"]) == protocol[FID]
