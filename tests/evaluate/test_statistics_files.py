"""The .npz files of pytorch-fid and clean-fid: written as they read them, read as they write them, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from samplers import random_features

from pipeline.errors import UserError
from pipeline.evaluate.extractor import Features
from pipeline.evaluate.feature_set import Statistics, write_set
from pipeline.evaluate.metrics.fid import frechet_distance
from pipeline.evaluate.statistics_files import export_statistics, import_statistics


def test_a_reference_is_written_as_others_read_it_and_read_back(tmp_path: Path) -> None:
    pooled, protocol = random_features(50, 6, 0), {"images": {"seed": 0}, "extractors": {"x": {}}}
    found = {"x": Features(pooled=pooled, logits=pooled)}
    write_set(tmp_path, torch.zeros(50, dtype=torch.int64), found, protocol, statistics=True)
    export_statistics(tmp_path, "x", tmp_path / "statistics.npz")
    with np.load(tmp_path / "statistics.npz") as content:
        assert sorted(content.files) == ["mu", "sigma"]
        np.testing.assert_allclose(content["mu"], pooled.double().numpy().mean(0), rtol=1e-12)
        np.testing.assert_allclose(content["sigma"], np.cov(pooled.double().numpy(), rowvar=False), rtol=1e-10)
    again, own = import_statistics(tmp_path / "statistics.npz"), Statistics.of(random_features(90, 6, 1))
    assert frechet_distance(own, again) == pytest.approx(frechet_distance(own, Statistics.of(pooled)), rel=1e-12)
    with pytest.raises(UserError, match=r"must end in \.npz"):
        export_statistics(tmp_path, "x", tmp_path / "statistics.np")


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"mu": np.zeros(3)}, "no statistics.*sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "no finite moments"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) * np.nan}, "no finite moments"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
    ],
)
def test_what_are_no_statistics_is_refused(arrays: dict[str, np.ndarray], why: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=why):
        import_statistics(tmp_path / "other.npz")


def test_a_file_that_is_damaged_or_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.npz: no statistics"):
        import_statistics(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("PK no zip")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "array.npy"):
        with pytest.raises(UserError, match="no statistics of pytorch-fid"):
            import_statistics(tmp_path / name)
