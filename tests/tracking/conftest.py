"""An empty project, a small model, a whole run's journal, and a real MLflow server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from journaled import HARD, begin, picture, train
from mlflow_server import Server


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the current folder, away from any MLflow of the user's."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return tmp_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model of a real method."""
    import copy

    import torch
    from torch import nn

    from pipeline import methods
    from pipeline.core.batch import ImageSpec
    from pipeline.inference.weights import save_weights

    params = {"width": 8}
    method, spec = methods.load("dcgan", **params), ImageSpec(channels=1, size=16, classes=10)
    torch.manual_seed(0)
    nets = method.build(spec)
    ema = nn.ModuleDict({name: copy.deepcopy(nets[name]) for name in method.sampled})
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, name="dcgan", params=params, spec=spec, seen=640, nets=nets, ema=ema)
    return path


@pytest.fixture
def finished(project: Path, weights: Path) -> Path:
    """The journal of a whole run."""
    folder = project / "run"
    with begin(folder) as opened:
        train(opened, range(0, 700))
        opened.metrics(HARD, step=5)
        opened.image("samples/fixed", picture(project / "samples.png"), step=64)
        opened.artifact(project / "samples.png", "pictures")
        opened.tags({"colour": "blue"})
        opened.model(weights)
        opened.finish("FINISHED")
    return folder


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()
