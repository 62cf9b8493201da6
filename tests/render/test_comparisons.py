"""Pictures of features and of runs: their planes are what they claim, and they are drawn where they are asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from samplers import measured, random_features
from test_report import LITE, board_of, make_run, write_measured

from pipeline import config
from pipeline.evaluate.extractor import Features
from pipeline.evaluate.feature_set import Statistics, write_set
from pipeline.render import comparisons
from pipeline.render.compare import compare
from pipeline.render.comparisons.pca import principal_axes
from pipeline.render.comparisons.tsne import embed
from pipeline.render.report import write_page, write_pictures
from pipeline.render.scatter import some
from pipeline.render.shown import read_list
from pipeline.render.tradeoff import draw_tradeoff, tradeoffs
from pipeline.tracking.standing import read_standing


def test_the_principal_axes_are_those_of_greatest_variance() -> None:
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    spread = torch.tensor([1.0, 5.0, 0.5, 3.0, 0.25, 0.125], dtype=torch.float64)
    points = torch.randn(4000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * spread @ axes.T
    found, share = principal_axes(Statistics.of(points))
    assert (found.T @ axes[:, [1, 3]]).diagonal().abs().min() > 0.995
    torch.testing.assert_close(found.T @ found, torch.eye(2, dtype=torch.float64))
    values = torch.linalg.eigvalsh(points.T.cov())
    assert share == pytest.approx(float(values[-2:].sum() / values.sum()), rel=1e-9)
    again, _ = principal_axes(Statistics.of(-points))
    torch.testing.assert_close(again, found)  # no sign is left to chance


def test_pca_shows_real_images_and_samples_in_the_plane_of_the_real_ones() -> None:
    real = measured(random_features(300, 8, 0).float())
    figure = comparisons.load("pca").draw(measured(random_features(200, 8, 0).float()[:200]), real)
    shown = np.asarray(figure.axes[0].collections[0].get_offsets())
    axes, _ = principal_axes(real.statistics)
    expected = (real.features.double() - real.statistics.mean) @ axes
    assert len(shown) == 500
    order = np.lexsort(np.round(shown, 9).T)
    both = np.concatenate([expected.numpy(), expected.numpy()[:200]])
    np.testing.assert_allclose(shown[order], both[np.lexsort(np.round(both, 9).T)], atol=1e-6)


def test_too_few_images_are_not_compared() -> None:
    few, many = measured(torch.randn(2, 4)), measured(torch.randn(30, 4))
    for name in comparisons.names():
        assert comparisons.load(name).draw(few, many) is None and comparisons.load(name).draw(many, few) is None
    assert len(some(many, 7)) == 7 and len(some(many, 100)) == 30


def test_tsne_keeps_heaps_apart_and_is_the_same_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    heaps = torch.randn(40, 10, dtype=torch.float64, generator=generator)
    heaps[20:] += 30
    real, samples = embed(heaps[::2], heaps[1::2], seed=3)
    for places in (real, samples):
        near, far = torch.cdist(places[:10], places[:10]).mean(), torch.cdist(places[:10], places[10:]).mean()
        assert far > 3 * near
    for first, second in zip(embed(heaps[::2], heaps[1::2], seed=3), (real, samples), strict=True):
        assert torch.equal(first, second)


def folder_of(path: Path, features: torch.Tensor, refused: str | None = None) -> Path:
    path.mkdir(parents=True)
    about = {"images": {"seed": 0, "count": len(features)}, "extractors": {LITE: {}}, "refused": refused}
    found = {LITE: Features(pooled=features, logits=torch.zeros(len(features), 1))}
    write_set(path, torch.zeros(len(features), dtype=torch.int64), found, about, statistics=True)
    return path


def test_comparisons_are_drawn_by_extractor_and_none_of_samples_that_are_refused(tmp_path: Path) -> None:
    real = folder_of(tmp_path / "real", torch.randn(50, 4))
    settings = config.Evaluate(extractors=[LITE], comparisons=["pca"])
    compare(tmp_path / "c", folder_of(tmp_path / "samples", torch.randn(30, 4)), real, settings)
    (shown,) = read_list(tmp_path / "c")
    assert (shown.file, shown.kind) == (f"pca_{LITE}.png", "figure") and shown.title.endswith(LITE)
    compare(tmp_path / "c", folder_of(tmp_path / "spoilt", torch.randn(30, 4), refused="not finite"), real, settings)
    assert read_list(tmp_path / "c") == [] and json.loads((tmp_path / "c" / "pictures.json").read_text()) == []


def test_a_misspelt_comparison_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"comparisons: there is no comparison 'tnse'.*'tsne'"):
        config.Evaluate(extractors=[LITE], comparisons=["tnse"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two runs with precision and recall, one without; the first has a comparison."""
    out = tmp_path / "out"
    for name, numbers in (("first", (0.9, 0.2)), ("second", (0.4, 0.8)), ("third", None)):
        keys = (f"precision_{LITE}", f"recall_{LITE}")
        folder = make_run(out, name, None)
        if numbers:
            about = {"generated": {"count": 9}, "extractor": LITE, "metric": "precision_recall"}
            write_measured(folder, dict(zip(keys, numbers, strict=True)), **about)
    (out / "data").mkdir()
    (out / "data" / "spec.json").write_text('{"source": "digits"}')
    real = folder_of(tmp_path / "reference", torch.randn(50, 4))
    (out / "reference").mkdir()
    settings = config.Evaluate(extractors=[LITE])
    for name in ("first", "third"):
        compare(out / "runs" / name / "comparisons", folder_of(tmp_path / name, torch.randn(30, 4)), real, settings)
    (out / "real").mkdir()
    write_measured(out / "real", dict(zip(keys, (0.95, 0.93), strict=True)), real={"count": 9}, extractor=LITE)
    return out


def test_precision_against_recall_has_a_point_for_each_run_that_has_both_and_for_the_real_images(out: Path) -> None:
    board = board_of(out, "first", "second", "third", metrics=["precision_recall"])
    found = tradeoffs(board)
    assert {(point.name, point.recall, point.precision) for point in found[LITE]} == {
        ("first", 0.2, 0.9),
        ("second", 0.8, 0.4),
        ("real images", 0.93, 0.95),
    }
    ax = draw_tradeoff(found[LITE]).axes[0]
    assert {text.get_text(): tuple(text.xy) for text in ax.texts} == {
        point.name: (point.recall, point.precision) for point in found[LITE]
    }
    write_page(out / "report.html", board)
    page = (out / "report.html").read_text()
    assert "Precision against recall" in page and "Precision of every run against its recall" in page
    write_pictures(out / "pictures", board)
    assert (out / "pictures" / "precision_recall" / f"{LITE}.png").is_file()


def test_comparisons_are_shown_of_runs_that_are_evaluated_and_go_to_mlflow(out: Path) -> None:
    board = board_of(out, "first", "second", "third", metrics=["precision_recall"])
    write_page(out / "report.html", board)
    page = (out / "report.html").read_text()
    assert page.count("Real and generated features (PCA)") == 2  # heading and alternative text, of the first alone
    assert "What reconstructions show." in page
    sent = {}
    for name in ("first", "third"):
        standing = read_standing(out / "runs" / name, json.loads((out / "runs" / name / "train.json").read_text()))
        sent[name] = [path.name for path in standing.pictures]
    plain = ["samples.png", "film.webp", "reconstructions.png", "curves.png"]
    assert sent == {"first": [*plain, f"pca_{LITE}.png"], "third": plain}
