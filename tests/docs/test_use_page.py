"""docs/use.md: every command and every snippet on it, as a reader would run them, on fresh weights."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pipeline import methods
from pipeline.__main__ import app
from pipeline.core.batch import ImageSpec
from pipeline.inference.weights import save_weights
from pipeline.registry import names
from pipeline.tracking.model import save_model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/use.md").read_text()
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    genloom ")]
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("vae", {"width": 8, "latent": 4}),
    "cgan": ("cgan", {"width": 8}),
    "dcgan": ("dcgan", {"width": 8}),
    "fm": ("flow_matching", {"width": 8, "sampling_steps": 2}),
    "cyc": ("cyclegan", {"width": 4, "blocks": 0}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs, and a reader's photos."""
    root = tmp_path_factory.mktemp("reader")
    spec = ImageSpec(channels=3, size=16, classes=10)
    for run, (name, params) in RUNS.items():
        nets = methods.load(name, **params).build(spec)
        file = root / "out/runs" / run / "weights.safetensors"
        save_weights(file, name=name, params=params, spec=spec, seen=1, nets=nets, ema=torch.nn.ModuleDict())
    (root / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    for name, pixels in zip(("a.jpg", "b.png", "photos/1.jpg", "photos/2.png", "photos/3.webp"), noise, strict=True):
        Image.fromarray(pixels).save(root / name)
    shutil.make_archive(str(root / "photos"), "zip", root / "photos")
    return root


def test_the_commands_do_what_the_page_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert len(COMMANDS) == 13
    for command in COMMANDS:
        arguments = shlex.split(command.partition("#")[0].replace("50000", "50"))[1:]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{command}: {result.output}"
        targets = [arguments[place + 1] for place, option in enumerate(arguments) if option in ("--to", "-o")]
        assert Path(*targets or ["dcgan.onnx"]).exists()
    assert len(list(Path("samples").glob("*.png"))) == 50
    with np.load("latents.npz", allow_pickle=False) as found:
        assert found["names"].tolist() == ["1.jpg", "2.png", "3.webp"]
    exec(compile(SNIPPETS[0], "use.md", "exec"), {})


def test_the_snippets_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    _, python, onnx, mlflow_predict, raw = SNIPPETS
    call = ["export", "--onnx", "dcgan"]
    assert CliRunner().invoke(app, call, catch_exceptions=False).exit_code == 0
    run: dict[str, Any] = {}
    exec(compile(onnx, "use.md", "exec"), run)
    assert run["images"].shape == (16, 3, 16, 16)
    exec(compile(python, "use.md", "exec"), {})
    assert len(list(Path("from_python").glob("*.png"))) == 16
    save_model(Path("out/runs/vae/weights.safetensors"), folder / "model")
    known: dict[str, Any] = {}
    exec(compile(mlflow_predict.replace("models:/<model id>", str(folder / "model")), "use.md", "exec"), known)
    exec(compile(raw, "use.md", "exec"), known)
    np.testing.assert_allclose(known["again"], known["same"], atol=1e-6)
    assert known["latents"]["mean"].shape == (16, 4)


def test_the_page_names_every_method_that_encodes() -> None:
    able = {name for name in names("pipeline.methods") if methods.find(name).encodes}
    rows = [line.split("|")[1] for line in _section("Encode and reconstruct") if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == able


def _section(title: str) -> list[str]:
    """The lines of one section of the page."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0].splitlines()
