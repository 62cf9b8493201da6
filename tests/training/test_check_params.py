"""`genloom check`: everything that params.yaml decides by itself, all of it at once, one line each."""

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from toy_data import ROOT

from pipeline.errors import UserError
from pipeline.training.check_params import check_params
from pipeline.training.checks import check_workers
from pipeline.training.processor import INSTRUCTIONS

RIGHT: dict[str, Any] = {
    "data": {"source": "digits", "size": 16},
    "runs": {"a": {"method": "dcgan", "init_from": "scratch", "width": 4}},
    "evaluate": {"extractors": ["efficientnet_lite0"]},
}


def problems(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> list[str]:
    """Of RIGHT with sections changed, without "params.yaml: "."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / "data").mkdir(exist_ok=True)
    params = RIGHT | {name: RIGHT.get(name, {}) | section for name, section in changes.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    try:
        check_params()
    except UserError as error:
        assert all(line.startswith("params.yaml: ") for line in error.problems)
        return [line.removeprefix("params.yaml: ") for line in error.problems]
    return []


def run(method: str, **settings: Any) -> dict[str, Any]:
    return {"x": {"method": method, "init_from": "scratch"} | settings}


def test_what_is_right_has_no_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(tmp_path, monkeypatch) == []
    for name in ("vqvae", "vqgan"):
        both = run(name, width=8) | {"y": {"method": "vq_transformer", "init_from": "runs/x", "width": 8}}
        assert problems(tmp_path, monkeypatch, runs=both, cluster={"workers": [1, 2], "storage": "memory://x"}) == []
    assert problems(tmp_path, monkeypatch, runs=run("cyclegan", domains=["0", "1"], width=4)) == []
    assert problems(tmp_path, monkeypatch, runs=run("pix2pix", domains=["edges", "images"], width=4)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": {"source": "image_folder", "path": "photos"}}, "data.path: there is no 'photos'. Name a folder"),
        ({"data": {"path": "/no/such"}}, ""),
        ({"data": {"mirror": "nowhere"}}, "data.mirror: 'nowhere' is no directory"),
        (
            {"data": {"source": "cifar10", "classes": ["automobil", "ship"], "size": 32}},
            "data.classes: there is no class 'automobil'. Did you mean 'automobile'? Known: airplane, automobile, bird",
        ),
        ({"data": {"classes": [3, 10]}}, "data.classes: there is no class '10'. Did you mean '1'? Known: 0, 1, 2, 3,"),
        ({"data": {"classes": [3, 5]}}, ""),
        ({"data": {"source": "food101", "classes": ["not known before the download"]}}, ""),
        (
            {"data": {"classes": [3]}, "runs": run("cgan")},
            "runs.x.method: cgan needs labels, but data.source has 1 class",
        ),
        ({"data": {"classes": [3, 5]}, "runs": run("cyclegan", domains=["5", "3"], width=4)}, ""),
        (
            {"data": {"classes": [3, 5]}, "runs": run("cyclegan", domains=["3", "4"])},
            "runs.x.domains: no class '4' in the data. Known: 3, 5.",
        ),
        (
            {"data": {"classes": [3]}, "evaluate": {"extractors": ["classifier"]}},
            "evaluate.extractors: classifier learns the classes of the data, which have 1 class",
        ),
        ({"data": {"size": 100}}, "data.size: 100 is not 4, 5"),
        ({"evaluate": {"metrics": ["fid", "fid"]}}, "evaluate.metrics: fid stands there more than once"),
        ({"evaluate": {"weights": "a.pth"}}, "evaluate.weights: there is no file 'a.pth'"),
        (
            {"evaluate": {"extractors": ["a.pt2"]}},
            "evaluate.path: there is no file 'a.pt2' in 'extractors'. Put it there",
        ),
        (
            {"evaluate": {"statistics": {"efficientnet_lite0": "a.npz"}, "path": "mine"}},
            "evaluate.path: there is no file 'a.npz' in 'mine'",
        ),
        ({"cluster": {"storage": "s4://bucket"}}, "cluster.storage: cannot open s4://bucket (Protocol not known: s4)"),
        ({"cluster": {"storage": "params.yaml"}}, "cluster.storage: 'params.yaml' is a file"),
        (
            {"runs": run("vae", keep="critic_auc")},
            "runs.x.keep: vae is not watched by critic_auc, which needs a critic. Take last, frechet_pixels.",
        ),
        (
            {"runs": run("vae", keep="diversity")},
            "runs.x.keep: of diversity neither more nor less is better, so it chooses none. Take last, frechet_pixels.",
        ),
        (
            {"runs": run("dcgan", stop_on=["collapse", "posterior_collapse"])},
            "runs.x.stop_on: dcgan is never warned of posterior_collapse. Take of collapse, critic_won, divergence, or "
            "leave it out.",
        ),
        ({"cluster": {"workers": [8, 2]}}, "cluster.workers: [8, 2]: the least comes first: [2, 8]."),
        (
            {"cluster": {"workers": 3}},
            "cluster.workers: 3 workers cannot share a batch_size of 64 equally; make runs.a.",
        ),
        ({"tracking": {"uri": "nonsense"}}, "tracking.uri: MLflow cannot write to 'nonsense'"),
        (
            {"tracking": {"uri": "http://"}},
            "tracking.uri: MLflow cannot write to 'http://': it lacks the server's name",
        ),
        ({"tracking": {"experiment": " "}}, "tracking.experiment: name the experiment"),
        ({"runs": run("gan", batch_size=1)}, "runs.x.batch_size: batch norm needs two images"),
        (
            {"runs": run("gan", batch_size=2, sync_batch_norm=False), "cluster": {"workers": 2}},
            "runs.x.batch_size: batch norm needs two images",
        ),
        ({"runs": run("dcgan", freeze=["crtic"])}, "runs.x.freeze: 'crtic' names no parameter"),
        ({"runs": run("dcgan", domains=["0", "1"])}, "runs.x.domains: leave it out: dcgan has one domain."),
        ({"runs": run("cyclegan")}, "runs.x.domains: name two classes of the data, for example [0, 1]"),
        ({"runs": run("cyclegan", domains=["0", "0"])}, "runs.x.domains: name two different classes"),
        ({"runs": run("cyclegan", domains=["0", "x"])}, "runs.x.domains: no class 'x' in the data. Known: 0, 1"),
        ({"runs": run("cyclegan", domains=["edges", "0"])}, "runs.x.domains: no class 'edges' in the data."),
        ({"runs": run("pix2pix")}, "runs.x.domains: name two domains: of images, gray, edges, for example [edges,"),
        ({"runs": run("pix2pix", domains=["edges", "edges"])}, "runs.x.domains: name two different domains"),
        ({"runs": run("pix2pix", domains=["edge", "images"])}, "runs.x.domains: no class 'edge' in the data."),
        ({"runs": run("pix2pix", domains=["edges", "1"])}, "runs.x.domains: edges and 1: name two classes, or two of"),
        ({"runs": run("pix2pix", domains=["0", "1"])}, "runs.x.domains: the classes 0 and 1 are no pairs, which pix2"),
        ({"runs": run("pix2pix", domains=["gray", "images"])}, "runs.x.domains: the images are gray already"),
        ({"runs": run("vq_transformer")}, "runs.x.init_from: vq_transformer needs trained weights of encoder"),
        ({"runs": run("dcgan", weights="a.safetensors")}, "runs.x.weights: 'a.safetensors' is no file. Name a weights"),
        ({"runs": run("dcgan", weights="params.yaml")}, "runs.x.weights: params.yaml: not a readable weights file"),
        ({"runs": run("dcgan", init_from="runs/a") | RIGHT["runs"]}, ""),
        ({"runs": run("vae", init_from="runs/a") | RIGHT["runs"]}, "runs.x.init_from: nothing of runs/a fits"),
    ],
)
def test_a_problem_is_named_with_its_key_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: str
) -> None:
    found = problems(tmp_path, monkeypatch, **changes)
    found = [line for line in found if not line.startswith("runs.a.") or "runs.a." in expected]
    assert [line[: len(expected)] for line in found] == ([expected] if expected else [])


def test_one_class_of_pairs_is_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: dict[str, Any] = {"source": "paired", "path": ["a", "b"], "channels": 3}
    for name in "ab":
        (tmp_path / name).mkdir()
    runs = run("pix2pix", domains=["a", "b"], width=4)
    assert problems(tmp_path, monkeypatch, data=data, runs=runs) == []
    assert problems(tmp_path, monkeypatch, data=data | {"classes": ["b", "a"]}, runs=runs) == []
    (line,) = problems(tmp_path, monkeypatch, data=data | {"classes": ["a"]}, runs=runs)
    assert line.startswith("runs.x.domains: no class 'b' in the data.")
    (line,) = problems(tmp_path, monkeypatch, data=data | {"classes": ["a", "c"]})
    assert line.startswith("data.classes: there is no class 'c'. Known: a, b.")


def test_a_param_that_dvc_would_miss_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """params.yaml of an earlier version lacks it; DVC says so too late, and not what to write."""
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert problems(tmp_path, monkeypatch, **whole) == []
    for section in ("data", "evaluate"):
        monkeypatch.setitem(RIGHT, section, {})
    old = {name: dict(section) for name, section in whole.items()}
    del old["data"]["classes"], old["evaluate"]["metrics"], old["evaluate"]["extractors"]
    stops = "missing. DVC compares it and would stop without it: add the default to"
    assert sorted(problems(tmp_path, monkeypatch, **old)) == [
        f"data.classes: {stops} data, the line `classes: null`.",
        "evaluate.extractors: expected a list of at least 1, but it is missing.",
        f"evaluate.metrics: {stops} evaluate, the line `metrics: ['fid', 'inception_score']`.",
    ]


def test_weights_of_another_program_have_the_right_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (line,) = problems(tmp_path, monkeypatch, runs=run("dcgan", weights="other.safetensors"))
    assert "not a weights file of this program" in line and "Name a weights.safetensors" in line
    assert "dvc repro" not in line


def test_the_classifier_is_refused_a_folder_of_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"data": {"source": "image_folder", "path": "photos"}, "evaluate": {"extractors": ["classifier"]}}
    found = []
    for name in ("all", "others"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(b"only its name is looked at")
        found.append(problems(tmp_path, monkeypatch, **changes))
    assert found[1] == [] and len(found[0]) == 1
    assert found[0][0].startswith("evaluate.extractors: classifier learns the classes of the data, which have 1 class")


def test_methods_that_need_classes_are_refused_a_folder_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos/all").mkdir(parents=True)
    (tmp_path / "photos/all/1.png").write_bytes(b"only its name is looked at")
    data = {"source": "image_folder", "path": "photos"}
    assert problems(tmp_path, monkeypatch, data=data) == []
    (line,) = problems(tmp_path, monkeypatch, data=data, runs=run("cgan"))
    assert line.startswith("runs.x.method: cgan needs labels, but data.source has 1 class")


def test_all_problems_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run("dcgan", lr="fast", lrr=1, batch_size=0) | {
        "y": {"method": "dcgan", "init_from": "scratch", "freeze": ["z"]}
    }
    found = problems(tmp_path, monkeypatch, data={"siz": 3, "channels": 2}, runs=runs, tracking={"uri": "nonsense"})
    keys = ["data.siz", "data.channels", "tracking.uri", "runs.x.batch_size", "runs.x.lrr", "runs.x.lr"]
    assert [line.partition(":")[0] for line in found] == keys  # y's nets need data
    assert "Did you mean 'size'?" in found[0] and "expected 1, 3 or 'auto', got 2" in found[1]


def test_no_worker_at_all_is_one_process() -> None:
    from pipeline.config import Cluster

    check_workers("", 1, Cluster(workers=0))


@pytest.mark.parametrize(
    ("precision", "capabilities", "cluster", "warned"),
    [
        ("bf16", {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, {}, True),
        ("bf16", {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, {}, False),
        ("bf16", {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, {}, False),
        ("bf16", {"architecture": "aarch64"}, {}, False),  # which has others
        ("bf16", {"architecture": "x86_64"}, {"address": "auto", "workers": 1}, False),  # unknown nodes
        ("fp32", {"architecture": "x86_64"}, {}, False),
    ],
)
def test_a_processor_without_bf16_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    capabilities: dict[str, Any],
    cluster: dict[str, Any],
    warned: bool,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert problems(tmp_path, monkeypatch, runs=run("dcgan", width=4, precision=precision), cluster=cluster) == []
    assert ("runs.x.precision: this machine's processor has no instructions for bf16" in caplog.text) is warned


def test_torch_says_what_the_processor_is() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert capabilities["architecture"] == platform.machine()
    assert capabilities["architecture"] != "x86_64" or set(INSTRUCTIONS) <= capabilities.keys()
