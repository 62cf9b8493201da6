"""The examples of docs/extend and docs/python.md, as a reader would use them: copied into the project, and run."""

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
# Where each page says that its example goes.
PLACES = {
    "method_hinge": "methods/hinge",
    "metric_vendi": "evaluate/metrics/vendi",
    "extractor_random_features": "evaluate/extractors/random_features",
    "picture_mean_image": "render/pictures/mean_image",
    "source_shapes": "ingest/sources/shapes",
}
RUN = {"method": "hinge", "init_from": "scratch", "margin": 2.0, "width": 8, "latent": 8, "images": 256} | {
    "batch_size": 32,
    "log_every": 64,
}
STAGES = """
from pipeline import methods
from pipeline.stages import code, download, evaluate, evaluate_real, extractors, generate, normalize, reference, render
from pipeline.stages import train
code.main(), download.main(), normalize.main(), extractors.main(), reference.main()
train.main("hinge"), render.main("hinge"), generate.main("hinge"), evaluate.main("hinge"), evaluate_real.main()
try:
    methods.load("hinge", margin=-1.0)
except ValueError as error:
    assert "margin" in str(error)
else:
    raise SystemExit("a negative margin was accepted")
"""


def load(name: str) -> ModuleType:
    """The example as a module, where it lies."""
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder: Path, *arguments: str) -> str:
    """Python in the project's folder, whose package is the one imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all five examples, chosen in params.yaml, after its stages up to the scores."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    for example, place in PLACES.items():
        shutil.copy(EXAMPLES / f"{example}.py", folder / "pipeline" / f"{place}.py")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= {"source": "shapes", "channels": 3, "size": 16}
    params["runs"] = {"hinge": RUN}
    params["cluster"] |= {"workers": 0}
    params["render"] |= {"pictures": ["mean_image"], "explorer": False}
    params["evaluate"] |= {"metrics": ["vendi", "fid"], "extractors": ["random_features"], "samples": 200}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert "fine" in run(folder, "-m", "pipeline", "check")
    run(folder, "-c", STAGES)
    return folder


def test_the_method_is_trained_with_its_own_param(project: Path) -> None:
    with safe_open(project / "out/runs/hinge/weights.safetensors", "pt") as file:
        about = json.loads(next(iter((file.metadata() or {}).values())))
    assert about["method"] == "hinge" and about["params"]["margin"] == 2.0 and about["seen"] == 256
    history = (project / "out/runs/hinge/history.csv").read_text().splitlines()
    assert len(history) == 1 + 256 // 64
    assert {"critic/real", "critic/fake", "generator/loss"} <= set(history[0].split(","))


def test_the_metric_and_the_extractor_are_in_the_scores_and_their_protocol(project: Path) -> None:
    metrics = json.loads((project / "out/runs/hinge/metrics.json").read_text())
    real = json.loads((project / "out/real/metrics.json").read_text())
    names = {"vendi_random_features", "fid_random_features"}
    assert names <= set(metrics) and names == set(real)
    assert all(1 < scores["vendi_random_features"] < 200 for scores in (metrics, real))
    assert metrics["fid_random_features"] > real["fid_random_features"]
    protocol = json.loads((project / "out/runs/hinge/protocol.json").read_text())["vendi_random_features"]
    assert protocol["settings"] == {"kernel": "cosine"} and protocol["better"] == "higher"
    assert protocol["extractor"] == "random_features" and len(protocol["weights_sha256"]) == 64


def test_the_source_brings_its_images_and_classes(project: Path) -> None:
    spec = json.loads((project / "out/data/spec.json").read_text())
    assert (spec["source"], spec["channels"], spec["size"]) == ("shapes", 3, 16)
    assert spec["classes"] == ["disc", "square", "triangle"]
    counts = [spec["splits"][split]["class_counts"] for split in ("train", "test")]
    assert counts == [[400, 400, 400], [100, 100, 100]]


def test_train_sample_and_evaluate_from_python(project: Path) -> None:
    output = run(project, str(EXAMPLES / "train_sample_evaluate.py"))
    scores = ast.literal_eval(output[output.rindex("{") :])
    assert set(scores) == {"fid_efficientnet_lite0", "kid_efficientnet_lite0"} and scores["fid_efficientnet_lite0"] > 0
    with Image.open(project / "out/samples.png") as picture:
        assert picture.mode == "RGB" and picture.width == picture.height > 8 * 16


def test_the_picture_is_drawn_with_what_is_to_be_said_of_it(project: Path) -> None:
    panels = project / "out/runs/hinge/panels"
    (shown,) = json.loads((panels / "pictures.json").read_text())
    assert (shown["file"], shown["title"], shown["kind"]) == ("mean_image.png", "Mean image", "images")
    with Image.open(panels / "mean_image.png") as picture:
        assert picture.mode == "RGB" and picture.height > 2 * 64


def test_the_mean_image_of_images_that_are_known() -> None:
    drawn = load("picture_mean_image").mean_and_spread
    black_and_white = torch.ones(10, 1, 2, 2) * torch.tensor([1.0, -1.0]).repeat(5)[:, None, None, None]
    mean, spread = drawn(black_and_white)
    assert not mean.any() and torch.equal(spread, torch.ones(1, 2, 2))
    mean, spread = drawn(torch.full((7, 3, 2, 2), 0.25))
    assert (mean == 0.25).all() and (spread == -1).all()


def test_the_vendi_score_of_sets_that_are_known() -> None:
    measure = load("metric_vendi").vendi_score
    directions = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    lengths = torch.linspace(0.5, 2, 8)[:, None]
    for different in (1, 3, 8):
        score = measure((lengths * directions)[:different].repeat(5, 1))
        assert score == pytest.approx(different, rel=1e-6)  # of which each is there five times
    uneven = directions[:3].repeat_interleave(torch.tensor([7, 2, 1]), dim=0)
    entropy = torch.special.entr(torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)).sum()
    assert measure(uneven) == pytest.approx(float(entropy.exp()), rel=1e-6)


def test_the_random_features_are_the_same_numbers_everywhere() -> None:
    extractor = load("extractor_random_features").load(None, torch.device("cpu"))
    assert extractor.weights_sha256 == "b1d3a77f494bdbb6587956f421b98cc384cdbd06033e931348a64d06fce32bb7"
    images = torch.randint(0, 256, (5, 1, 20, 20), dtype=torch.uint8)
    features = extractor(images)
    assert features.pooled.shape == (5, 256) and features.logits.shape == (5, 1)
    assert (features.pooled.std(0) > 0).any()


@pytest.mark.parametrize("page", ["method", "metric", "extractor", "picture", "source"])
def test_a_page_shows_its_example_and_names_its_place(page: str) -> None:
    text = (ROOT / f"docs/extend/{page}.md").read_text()
    example = next(name for name in PLACES if name.startswith(page))
    assert f'--8<-- "docs/examples/{example}.py"' in text
    assert f"pipeline/{PLACES[example]}.py" in text
