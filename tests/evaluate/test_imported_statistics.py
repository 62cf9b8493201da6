"""FID compared with statistics of others in the place of our real images': evaluate.statistics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samplers import random_features

from pipeline.config import Evaluate
from pipeline.errors import UserError
from pipeline.evaluate.extraction import prepare_statistics
from pipeline.evaluate.extractor import Features
from pipeline.evaluate.feature_set import Statistics, write_set
from pipeline.evaluate.metrics.fid import frechet_distance
from pipeline.evaluate.prepared import read_hashes
from pipeline.evaluate.scoring import score_real, score_run
from pipeline.evaluate.statistics_files import export_statistics

LITE = "efficientnet_lite0"
FID, KID = f"fid_{LITE}", f"kid_{LITE}"
SETTINGS = Evaluate(extractors=[LITE], metrics=["fid", "kid"], statistics={LITE: "theirs.npz"}, samples=60)


def feature_set(folder: Path, seed: int, count: int = 60, dimensions: int = 6) -> Path:
    folder.mkdir()
    pooled = random_features(count, dimensions, seed)
    protocol: dict[str, Any] = {
        "images": {"seed": seed, "digest": "d", "count": count},
        "extractors": {LITE: {"extractor": LITE}},
    }
    found = {LITE: Features(pooled=pooled, logits=torch.zeros(count, 1))}
    write_set(folder, torch.zeros(count, dtype=torch.int64), found, protocol, statistics=True)
    (folder / "scores.json").write_text('{"values": {}, "images": {"split": "test", "seed": 0}}')
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Samples, our reference, others' statistics in evaluate.path, and the prepared folder."""
    found = {name: feature_set(tmp_path / name, seed) for seed, name in enumerate(("samples", "ours", "theirs"))}
    export_statistics(found["theirs"], LITE, tmp_path / "theirs.npz")
    (tmp_path / "prepared").mkdir()
    prepare_statistics(tmp_path / "prepared", replace(SETTINGS, path=str(tmp_path)))
    return found | {"prepared": tmp_path / "prepared"}


def moments(seed: int, rows: slice = slice(None)) -> Statistics:
    return Statistics.of(random_features(60, 6, seed)[rows])


def test_fid_is_of_the_imported_statistics_and_says_so(folders: dict[str, Path]) -> None:
    found = score_run(folders["samples"], folders["ours"], SETTINGS, folders["prepared"])
    plain = score_run(folders["samples"], folders["ours"], replace(SETTINGS, statistics={}))
    assert found.metrics[FID] == pytest.approx(frechet_distance(moments(0), moments(2)), rel=1e-9)
    assert plain.metrics[FID] == pytest.approx(frechet_distance(moments(0), moments(1)), rel=1e-9)
    assert abs(found.metrics[FID] / plain.metrics[FID] - 1) > 0.1
    assert found.metrics[KID] == plain.metrics[KID]  # which needs features
    how = found.protocol[FID]
    assert how["reference"] == {"statistics": "theirs.npz", "sha256": read_hashes(folders["prepared"])["theirs.npz"]}
    assert "imported statistics theirs.npz" in how["note"] and "note" not in found.protocol[KID]
    assert found.protocol[KID]["reference"]["digest"] == plain.protocol[FID]["reference"]["digest"] == "d"


def test_real_images_are_compared_with_the_same(folders: dict[str, Path]) -> None:
    settings = replace(SETTINGS, samples=40)
    found = score_real(folders["ours"], settings, folders["prepared"])
    assert found.metrics[FID] == pytest.approx(frechet_distance(moments(1, slice(40)), moments(2)), rel=1e-9)
    assert found.protocol[FID]["real"]["count"] == 40 and found.protocol[KID]["real"]["count"] == 30


def test_statistics_of_another_extractor_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    narrow = feature_set(tmp_path / "narrow", 3, dimensions=5)
    export_statistics(narrow, LITE, tmp_path / "theirs.npz")
    prepare_statistics(folders["prepared"], replace(SETTINGS, path=str(tmp_path)))
    with pytest.raises(UserError, match=r"evaluate\.statistics: theirs\.npz is of 5 features, but .* has 6"):
        score_run(folders["samples"], folders["ours"], SETTINGS, folders["prepared"])


def test_a_damaged_file_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(3))
    (tmp_path / "prepared").mkdir()
    with pytest.raises(UserError, match=r"theirs\.npz: no statistics of pytorch-fid or clean-fid"):
        prepare_statistics(tmp_path / "prepared", replace(SETTINGS, path=str(tmp_path)))


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"inception": "a.npz"}, "statistics: inception is not in evaluate.extractors"),
        ({LITE: "a.npy"}, "ends in .npz, not a.npy"),
        ({LITE: "../a.npz"}, r"name a file of evaluate.path"),
    ],
)
def test_the_params_are_checked(statistics: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluate(extractors=[LITE], statistics=statistics)
