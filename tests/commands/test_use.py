"""genloom sample, encode and reconstruct as a person calls them: from a run, a file and MLflow, and their refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import ROOT
from typer.testing import CliRunner

from pipeline import methods
from pipeline.__main__ import app
from pipeline.core.batch import ImageSpec
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.inference.weights import save_weights

SPEC = ImageSpec(channels=1, size=16, classes=2)


def publish(name: str, method: str, **settings: Any) -> Path:
    """A run of fresh weights, as the train stage leaves it."""
    folder = Path("out/runs") / name
    made = methods.load(method, width=8, **settings)
    torch.manual_seed(0)
    nets = made.build(SPEC)
    settings = {"width": 8, **settings}
    about = {"name": method, "params": settings, "spec": SPEC, "seen": 64}
    save_weights(folder / "weights.safetensors", nets=nets, ema=torch.nn.ModuleDict(), **about)
    write_json(folder / "train.json", {"dataset": {"classes": ["cat", "dog"]}})
    return folder / "weights.safetensors"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        Path("mine", name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (20, 30), dtype=np.uint8)
        Image.fromarray(noise).save(Path("mine", name))
    return tmp_path


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments])
    if result.exception:
        raise result.exception
    return result.stdout


def test_a_run_a_folder_and_a_file_are_one_model() -> None:
    file = publish("gan", "cgan")
    for number, source in enumerate(["gan", "out/runs/gan", str(file)]):
        assert "3 samples written, 0 were there" in call("sample", source, "--count", "3", "--to", f"s{number}")
    contents = [[path.read_bytes() for path in sorted(Path(f"s{number}").glob("*.png"))] for number in range(3)]
    assert len(contents[0]) == 3 and contents[0] == contents[1] == contents[2]
    assert "0 samples written, 3 were there" in call("sample", "gan", "--count", "3", "--to", "s0")


def test_classes_have_names_and_numbers() -> None:
    publish("gan", "cgan")
    call("sample", "gan", "--count", "2", "--label", "dog", "--to", "named")
    call("sample", "gan", "--count", "2", "--label", "1", "--to", "numbered")
    assert json.loads(Path("named/samples.json").read_text())["label"] == 1
    assert Path("named/000000.png").read_bytes() == Path("numbered/000000.png").read_bytes()
    with pytest.raises(UserError, match=r"no class 'dgo'\. Did you mean 'dog'"):
        call("sample", "gan", "--count", "2", "--label", "dgo", "--to", "x")


def test_params_of_sampling_are_set() -> None:
    publish("flow", "realnvp", levels=1, blocks=1)
    call("sample", "flow", "--count", "2", "--set", "temperature=0.5", "--to", "cold")
    call("sample", "flow", "--count", "2", "--to", "warm")
    assert json.loads(Path("cold/samples.json").read_text())["params"]["temperature"] == 0.5
    assert Path("cold/000000.png").read_bytes() != Path("warm/000000.png").read_bytes()
    with pytest.raises(UserError, match="--set temperature: say which param and its value"):
        call("sample", "flow", "--count", "2", "--set", "temperature", "--to", "x")


def test_images_are_encoded_under_their_names_and_reconstructed() -> None:
    publish("vae", "vae", latent=4)
    assert "3 images; mean (3, 4), log_variance (3, 4)" in call("encode", "vae", "mine", "--to", "x.npz")
    with np.load("x.npz", allow_pickle=False) as found:
        assert found["names"].tolist() == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert "of 255 levels" in call("reconstruct", "vae", "mine", "--to", "back")
    assert sorted(path.relative_to("back").as_posix() for path in Path("back").rglob("*.png")) == [
        "cat/1.png",
        "cat/2.png",
        "dog/1.png",
    ]
    assert "1 images; mean (1, 4)" in call("encode", "vae", "mine/dog/1.png", "--to", "one.npy")
    with pytest.raises(UserError, match="already"):
        call("encode", "vae", "mine", "--to", "x.npz")


def test_class_folders_give_the_classes_that_an_encoder_needs() -> None:
    publish("cvae", "cvae", latent=4)
    call("encode", "cvae", "mine", "--to", "folders.npz")
    call("encode", "cvae", "mine", "--to", "cats.npz", "--label", "cat")
    with np.load("folders.npz") as folders, np.load("cats.npz") as cats:
        same = np.abs(folders["mean"] - cats["mean"]).max(1) < 1e-6
    assert same.tolist() == [True, True, False]
    with pytest.raises(UserError, match="class-conditional"):
        call("encode", "cvae", "mine/cat", "--to", "x.npz")


def test_a_model_that_translates_wants_images_and_a_direction() -> None:
    publish("cycle", "cyclegan", blocks=0)
    assert "3 images translated" in call("sample", "cycle", "--images", "mine", "--to", "there")
    call("sample", "cycle", "--images", "mine", "--direction", "b_to_a", "--to", "back")
    assert Path("there/dog/1.png").read_bytes() != Path("back/dog/1.png").read_bytes()
    with pytest.raises(UserError, match="either --count N, or --images"):
        call("sample", "cycle", "--to", "x")
    with pytest.raises(UserError, match="translates images"):
        call("sample", "cycle", "--count", "3", "--to", "x")
    with pytest.raises(UserError, match="direction: there is no 'c'"):
        call("sample", "cycle", "--images", "mine", "--direction", "c", "--to", "x")
    assert not Path("x").exists()


def test_what_is_not_there_or_cannot_is_said() -> None:
    with pytest.raises(UserError, match=r"nothing: neither a trained run .*dvc repro"):
        call("sample", "nothing", "--count", "1", "--to", "x")
    publish("gan", "dcgan")
    with pytest.raises(UserError, match=r"gna: neither a trained run .*Did you mean 'gan'"):
        call("sample", "gna", "--count", "1", "--to", "x")
    with pytest.raises(UserError, match="dcgan cannot encode images"):
        call("encode", "gan", "mine", "--to", "x.npz")
    with pytest.raises(UserError, match="dcgan cannot reconstruct images"):
        call("reconstruct", "gan", "mine", "--to", "x")
    with pytest.raises(UserError, match="no such file or folder"):
        call("encode", "gan", "absent", "--to", "x.npz")


def test_the_commands_load_nothing_heavy_before_they_are_called() -> None:
    check = "import sys, pipeline.__main__; sys.exit(int(bool({'torch', 'mlflow', 'ray'} & set(sys.modules))))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_a_run_is_exported_to_onnx_by_its_name() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    publish("mine", "cvae", latent=5)
    assert call("export", "--onnx", "mine") == "mine.onnx: latent (n, 5), labels (n) -> images (n, 1, 16, 16)\n"
    inputs = {"latent": np.zeros((3, 5), np.float32), "labels": np.array([0, 1, 1])}
    (images,) = onnxruntime.InferenceSession("mine.onnx").run(["images"], inputs)
    assert images.shape == (3, 1, 16, 16) and np.abs(images[1] - images[0]).max() > 1e-6
    assert np.array_equal(images[1], images[2])
    with pytest.raises(UserError, match="Name the format: --onnx"):
        call("export", "mine")
    publish("translator", "cyclegan", blocks=0)
    with pytest.raises(UserError, match="cyclegan translates images: it has no latents"):
        call("export", "--onnx", "translator", "-o", "other.onnx")
    assert not Path("other.onnx").exists()
