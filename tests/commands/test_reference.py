"""`genloom reference export` and `import`, as a person calls them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from samplers import random_features
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.evaluate.extractor import Features
from pipeline.evaluate.feature_set import write_set

LITE = "efficientnet_lite0"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    runs = {"a": {"method": "vae", "init_from": "scratch"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"runs": runs, "evaluate": {"extractors": [LITE]}}))
    folder = tmp_path / "out/reference"
    folder.mkdir(parents=True)
    found = {LITE: Features(pooled=random_features(50, 4, 0), logits=torch.zeros(50, 1))}
    protocol = {"images": {"seed": 0, "count": 50, "split": "train"}, "extractors": {LITE: {}}}
    write_set(folder, torch.zeros(50, dtype=torch.int64), found, protocol, statistics=True)
    return tmp_path


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["reference", *arguments])
    assert result.exit_code == code, result.output
    return result.output if code == 0 else str(result.exception)


def test_what_is_exported_is_what_numpy_computes_and_can_be_imported(project: Path) -> None:
    assert f"of 50 images (train) as {LITE} sees them" in call("export", "mine.npz")
    with np.load("mine.npz") as content:
        pooled = random_features(50, 4, 0).double().numpy()
        np.testing.assert_allclose(content["mu"], pooled.mean(0), rtol=1e-12)
        np.testing.assert_allclose(content["sigma"], np.cov(pooled, rowvar=False), rtol=1e-10)
    said = call("import", "mine.npz")
    assert "extractors/mine.npz: 4 features" in said and f"statistics: {{{LITE}: mine.npz}}" in said
    assert Path("extractors/mine.npz").read_bytes() == Path("mine.npz").read_bytes()
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["evaluate"] |= yaml.safe_load(f"statistics: {{{LITE}: mine.npz}}")
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert "Write" not in call("import", "mine.npz")


def test_mistakes_are_named(project: Path) -> None:
    assert "must end in .npz" in call("export", "mine.npy", code=1)
    assert "'inception' is not in params.yaml: evaluate.extractors" in call(
        "export", "a.npz", "--extractor", "inception", code=1
    )
    assert "absent.npz: no statistics" in call("import", "absent.npz", code=1)
    Path("text.npz").write_text("no archive")
    assert "text.npz: no statistics" in call("import", "text.npz", code=1)
    np.savez("wide.npz", mu=np.zeros(7), sigma=np.eye(7))
    assert f"wide.npz: of 7 features, but {LITE} has 4" in call("import", "wide.npz", code=1)
    for name, sigma in (("mine.npz", np.eye(4)), ("other/mine.npz", 2 * np.eye(4))):
        Path(name).parent.mkdir(exist_ok=True)
        np.savez(name, mu=np.zeros(4), sigma=sigma)
    call("import", "mine.npz")
    assert "another file of this name is there" in call("import", "other/mine.npz", code=1)
    assert not Path("extractors/wide.npz").exists() and not Path("extractors/text.npz").exists()
