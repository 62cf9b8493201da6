"""An exported program, the classifier and others' statistics through real DVC: what they redo."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from repository import RUNS, call, stages_that_ran, write_params
from torch import Tensor, nn

pytestmark = pytest.mark.slow
SCORES = {"evaluate@vae", "evaluate_real", "report"}
ALL = SCORES | {"extractors", "reference", "generate@vae"}


class Rows(nn.Module):
    """The mean of each row of pixels, times a factor: (n, 16)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 3)) * self.factor


def export(path: Path, factor: float) -> None:
    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("n", min=1)},)
    torch.export.save(torch.export.export(Rows(factor), (images,), dynamic_shapes=shapes), path)


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    """A copy of the finished project with one of its runs."""
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True)
    params = yaml.safe_load((copy / "params.yaml").read_text())
    params["runs"] = {"vae": RUNS["vae"]}
    write_params(copy, params)
    return copy


def with_evaluate(folder: Path, **changes: object) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["evaluate"] |= changes
    write_params(folder, params)


def repro(folder: Path) -> set[str]:
    return set(stages_that_ran(call(folder, "dvc", "repro"))) - {"code"}


def scores(folder: Path) -> tuple[dict[str, float], dict[str, dict[str, object]]]:
    run = folder / "out/runs/vae"
    return json.loads((run / "metrics.json").read_text()), json.loads((run / "protocol.json").read_text())


def test_they_redo_what_follows_from_them_and_nothing_else(folder: Path) -> None:
    with_evaluate(folder, extractors=["rows.pt2"])
    said = call(folder, "dvc", "repro", ok=False)
    assert "params.yaml: evaluate.path: there is no file 'rows.pt2' in 'extractors'" in said
    export(folder / "extractors/rows.pt2", 1.0)
    assert repro(folder) == ALL
    first, protocol = scores(folder)
    assert first["fid_rows"] > 0 and protocol["fid_rows"]["extractor"] == "rows"
    assert not repro(folder)

    export(folder / "extractors/rows.pt2", 2.0)
    assert repro(folder) == ALL
    second, again = scores(folder)
    assert second["fid_rows"] == pytest.approx(4 * first["fid_rows"], rel=1e-3)
    assert again["fid_rows"]["weights_sha256"] != protocol["fid_rows"]["weights_sha256"]

    call(folder, "python", "-m", "pipeline", "reference", "export", "mine.npz")
    with np.load(folder / "mine.npz") as content:
        np.savez(folder / "shifted.npz", mu=content["mu"] + 3, sigma=content["sigma"])
    said = call(folder, "python", "-m", "pipeline", "reference", "import", "shifted.npz")
    assert "statistics: {rows: shifted.npz}" in said
    with_evaluate(folder, statistics={"rows": "shifted.npz"})
    assert repro(folder) == SCORES | {"extractors"}
    third, protocol = scores(folder)
    assert third["fid_rows"] != second["fid_rows"]
    assert protocol["fid_rows"]["reference"]["statistics"] == "shifted.npz"  # type: ignore[index]
    assert "compared with the imported statistics shifted.npz" in (folder / "out/report.html").read_text()


def test_the_classifier_is_trained_once_and_judges_all_runs(folder: Path) -> None:
    with_evaluate(folder, extractors=["classifier"], metrics=["fid", "inception_score", "mode_coverage"])
    assert repro(folder) == ALL
    weights = (folder / "out/extractors/classifier.safetensors").read_bytes()
    found, protocol = scores(folder)
    assert {"fid_classifier", "is_classifier", "modes_classifier", "mode_kl_classifier"} <= set(found)
    real = json.loads((folder / "out/real/metrics.json").read_text())
    assert real["modes_classifier"] == 10 and real["is_classifier"] > found["is_classifier"]
    assert 0.97 < protocol["fid_classifier"]["test_accuracy"] <= 1  # type: ignore[operator]
    with_evaluate(folder, seed=5)
    assert repro(folder) == ALL - {"extractors"}
    assert (folder / "out/extractors/classifier.safetensors").read_bytes() == weights
