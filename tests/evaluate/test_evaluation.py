"""The stages reference, generate, evaluate and evaluate_real: what they keep, and the numbers made of it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samplers import Copying, Overflowing, Unscored, random_features, trained
from torch import Tensor
from toy_data import toy_split

from pipeline import config, registry
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Nets
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.evaluate import extractors, metrics
from pipeline.evaluate.extraction import write_reference, write_samples
from pipeline.evaluate.extractor import Extractor, Features
from pipeline.evaluate.extractors import efficientnet_lite0
from pipeline.evaluate.feature_set import read_protocol, read_set, write_set
from pipeline.evaluate.scoring import Scores, score_real, score_run
from pipeline.inference.weights import Trained
from pipeline.methods import load
from pipeline.render import board
from pipeline.stages import evaluate as evaluate_stage
from pipeline.stages import evaluate_real as real_stage
from pipeline.stages import generate as generate_stage
from pipeline.stages import reference as reference_stage

LITE = "efficientnet_lite0"
FID, IS, KID = f"fid_{LITE}", f"is_{LITE}", f"kid_{LITE}"
SETTINGS = config.Evaluate(extractors=[LITE], samples=30, reference_samples=40, batch_size=8)


def toy_dataset(channels: int = 1, digest: str = "d1") -> Dataset:
    info = {"digest": digest, "source": "toy", "classes": [str(i) for i in range(10)]}
    splits = {"train": toy_split(48, channels=channels), "test": toy_split(20, channels=channels)}
    return Dataset(spec=ImageSpec(channels=channels, size=16, classes=10), info=info, splits=splits)


@pytest.fixture(scope="module")
def known() -> list[Extractor]:
    return extractors.load_all(SETTINGS, Path("unread"))


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
    arrays = {f"{LITE}/{name}.npy" for name in ("features", "logits", "mean", "covariance", "factor")}
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
    images["labelled"] = False  # copying heeds no labels
    assert read_protocol(tmp_path, "generate")["images"] == images
    own = json.loads((tmp_path / "scores.json").read_text())
    assert own["values"].keys() == own["errors"].keys() == {"mean_pixel"} and own["errors"]["mean_pixel"] > 0


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


@pytest.mark.parametrize(("count", "lacking"), [(19, ("fid",)), (3, ("fid", "kid")), (1, ("fid", "kid"))])
def test_a_metric_that_needs_more_images_says_so_and_hinders_no_other(
    count: int, lacking: tuple[str, ...], known: list[Extractor], tmp_path: Path
) -> None:
    """Of so few real images a reference is made all the same: nothing waits for what only a metric needs."""
    dataset = replace(toy_dataset(), splits={"train": toy_split(count), "test": toy_split(2)})
    settings = replace(SETTINGS, metrics=["fid", "kid", "inception_score"])
    real, run = tmp_path / "real", tmp_path / "run"
    real.mkdir()
    run.mkdir()
    write_reference(real, dataset, settings, known)
    write_samples(run, trained(Copying(), dataset.spec), dataset, settings, known)
    found = score_run(run, real, settings)
    keys = {f"{name}_{LITE}" for name in lacking}
    refused = {key: how["lacks"] for key, how in found.protocol.items() if "lacks" in how}
    assert refused.keys() == keys and not keys & found.metrics.keys() and IS in found.metrics
    assert refused[FID].startswith(f"{count} real images to compare with; at least 20 are needed. Add images")
    of_real = score_real(real, settings).protocol
    assert of_real[FID]["lacks"].startswith(f"{count - count // 2} real images to compare with; at least 20")
    assert ("lacks" in of_real[IS]) == (count < 10)
    if count < 10:
        assert of_real[IS]["lacks"].startswith(f"{count} real images; at least 10 are needed. Add images")


def test_samples_that_are_not_finite_are_refused_with_the_reason(
    dataset: Dataset, reference: Path, known: list[Extractor], tmp_path: Path
) -> None:
    model = trained(Overflowing(share=0.5), dataset.spec)
    write_samples(tmp_path, model, dataset, SETTINGS, known)
    found = score_run(tmp_path, reference, SETTINGS)
    assert found.metrics == {} and found.protocol.keys() == {FID, IS}
    assert all("samples are not finite" in how["refused"] for how in found.protocol.values())
    assert found.protocol[FID]["title"] == "FID" and read_protocol(tmp_path, "x")["images"]["images_seen"] == 1000


def test_few_samples_that_are_not_finite_are_drawn_anew_and_their_count_stands_beside_the_score(
    dataset: Dataset, evaluate: Any
) -> None:
    found = evaluate(trained(Overflowing(share=0.05), dataset.spec), dataset)
    count = found.metrics["redrawn_samples"]
    assert 1 <= count <= 3 and found.protocol[FID]["generated"]["redrawn"] == count and FID in found.metrics
    assert "redrawn" not in evaluate(trained(Copying(), dataset.spec), dataset).protocol[FID]["generated"]


def test_own_scores_that_are_not_finite_are_left_out_alone(dataset: Dataset, evaluate: Any) -> None:
    found = evaluate(trained(Unscored(), dataset.spec), dataset)
    assert found.metrics.keys() == {FID, IS, f"{IS}_std"}
    assert "'mean_pixel' of some test images are not finite" in found.protocol["own_scores"]["refused"]


def test_extractors_see_as_many_images_at_once_however_few_the_nets_take(
    dataset: Dataset, known: list[Extractor], tmp_path: Path
) -> None:
    """So that small batches of training change neither the features nor their speed."""
    seen: list[int] = []
    taken: list[int] = []

    @dataclass(frozen=True, kw_only=True)
    class Counting(Copying):
        def sample(self, nets: Nets, like: Batch) -> Tensor:
            taken.append(len(like))
            return super().sample(nets, like)

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(images))
        return known[0].network(images)

    watched = replace(known[0], network=network)
    write_samples(tmp_path, trained(Counting(), dataset.spec), dataset, SETTINGS, [watched], at_a_time=3)
    assert max(taken) == 3 and sum(taken[:11]) == 30 and seen == [8, 8, 8, 6]
    whole = tmp_path / "whole"
    whole.mkdir()
    write_samples(whole, trained(Copying(), dataset.spec), dataset, SETTINGS, [known[0]])
    assert torch.equal(read_set(tmp_path, LITE, "x").features, read_set(whole, LITE, "x").features)


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
    generated = {"split": "train", "count": 40, "seed": 0, "digest": "d1", "images_seen": 1000, "labelled": False}
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
    more = toy_split(210, channels=dataset.spec.channels)  # 21 of each class
    dataset = replace(dataset, splits=dataset.splits | {"train": more})
    settings = replace(SETTINGS, samples=30)
    same = evaluate(model, dataset.of_class("1"), settings, dataset.of_class("1"))
    other = evaluate(model, dataset.of_class("1"), settings, dataset.of_class("2"))
    assert same.protocol[FID]["reference"]["class"] == 1
    assert same.protocol[FID]["generated"]["distinct"] == 21  # 30 translations of 21 images
    assert same.metrics[FID] < 0.5 * other.metrics[FID]


def test_a_reference_of_other_images_or_extractors_is_refused(dataset: Dataset, evaluate: Any, reference: Path) -> None:
    other = replace(dataset, info={**dataset.info, "digest": "d2"})
    with pytest.raises(UserError, match="dvc repro reference"):
        evaluate(trained(Copying(), dataset.spec), other)
    with pytest.raises(UserError, match="made without the extractor 'inception'"):
        score_real(reference, replace(SETTINGS, extractors=["inception"]))


def test_labels_count_where_the_method_heeds_them(dataset: Dataset, evaluate: Any) -> None:
    settings = replace(SETTINGS, samples=40, metrics=["class_fid"])
    found = evaluate(trained(load("cvae", width=8), dataset.spec), dataset, settings)
    assert "labelled" not in found.protocol[f"class_fid_{LITE}"].get("generated", {})
    assert found.protocol[f"class_fid_{LITE}"]["lacks"].startswith("Class 0 has")
    found = evaluate(trained(load("vae", width=8), dataset.spec), dataset, settings)
    assert "samples without regard to labels" in found.protocol[f"worst_class_fid_{LITE}"]["lacks"]


@pytest.fixture
def new_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A metric in a file of its own, and nothing else; as if it lay in pipeline/evaluate/metrics."""
    (tmp_path / "brightest.py").write_text(
        "from pipeline.evaluate.metric import Metric, Quantity, Score\n"
        "def _compute(samples, real):\n"
        "    return {'toy': Score(float(samples.features.max()))}\n"
        "METRIC = Metric(quantities={'toy': Quantity(title='Toy', better='higher')}, compute=_compute,\n"
        "                needs=frozenset({'features'}), compares=False)\n"
    )
    known = registry.names
    monkeypatch.setattr(registry, "names", lambda package: [*known(package), "brightest"])
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    return "brightest"


def test_a_metric_in_one_new_file_is_found_in_the_numbers_and_on_the_leaderboard(
    kept: Path, reference: Path, new_metric: str
) -> None:
    """From what is kept: nothing is trained or sampled."""
    settings = replace(SETTINGS, metrics=["fid", new_metric])
    for scores in (score_run(kept, reference, settings), score_real(reference, settings)):
        assert scores.metrics[f"toy_{LITE}"] > 0
        how = scores.protocol[f"toy_{LITE}"]
        assert (how["title"], how["better"], how["extractor"]) == ("Toy", "higher", LITE)
        column = board._column(f"toy_{LITE}", how)
        assert (column.name, column.arrow) == (f"Toy {LITE}", "\N{UPWARDS ARROW}")


# The stages


def test_the_stages_write_references_features_numbers_and_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = toy_dataset()
    params = config.read_params(Path(__file__).parents[2] / "params.yaml")
    params = replace(params, evaluate=SETTINGS, runs={"toy": {"method": "vae"}})

    sent: list[Path] = []
    for stage in (reference_stage, generate_stage, evaluate_stage, real_stage):
        monkeypatch.setattr(stage, "read_params", lambda: params)
    monkeypatch.setattr("pipeline.tracking.agreement.send_results", lambda name, *_: sent.append(name))
    for module in ("pipeline.evaluate.chunks", "pipeline.render.samples"):
        monkeypatch.setattr(f"{module}.open_dataset", lambda *_: dataset)
    model = trained(Copying(), dataset.spec)
    monkeypatch.setattr("pipeline.evaluate.chunks.load_fitting", lambda path, spec, device: model)
    monkeypatch.setattr("pipeline.evaluate.chunks.method_of", lambda path: type(model.method))
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
    assert sent == [Path("out/runs/toy")]
