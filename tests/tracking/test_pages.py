"""What a person meets in MLflow: links that lead to the runs, a description of each, and registered models."""

import copy
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import torch
from journaled import DATASET, client_of, in_mlflow
from torch import nn

from pipeline import methods
from pipeline.config import Cluster, Data, Evaluate, Params, Render, Tracking
from pipeline.core.batch import ImageSpec
from pipeline.errors import UserError
from pipeline.evaluate.scoring import Scores
from pipeline.evaluate.seeds import average
from pipeline.inference.published import training_of, write_seeds
from pipeline.inference.scored import WEIGHTS, digest_of
from pipeline.inference.weights import save_weights
from pipeline.render.board import read_board
from pipeline.tracking.agreement import note_seconds, send_all_results, send_results, send_run
from pipeline.tracking.description import NOTE, write_description
from pipeline.tracking.pages import VIEW_TAG, View
from pipeline.tracking.references import RUNS
from pipeline.tracking.register import register
from pipeline.tracking.target import Target, resolve

FID = "fid_small"


def params(*runs: str, tracking: Tracking | None = None) -> Params:
    return Params(
        data=Data(),
        runs={name: {} for name in runs},
        cluster=Cluster(),
        evaluate=Evaluate(extractors=["efficientnet_lite0"]),
        render=Render(),
        tracking=tracking or Tracking(),
    )


def publish(project: Path, name: str, weights: bool = False) -> Path:
    """A trained and evaluated run in out/runs."""
    folder = project / "out/runs" / name
    folder.mkdir(parents=True)
    about: dict[str, Any] = {"run": name, "method": "vae", "key": name * 64, "params": {"lr": 0.1}, "dataset": DATASET}
    about |= {"seen": 6400, "spec": {"channels": 1, "size": 16, "classes": 10}, "seconds": 2.0}
    (folder / "train.json").write_text(json.dumps(about))
    (folder / "history.csv").write_text("seen,loss\n6400,2.0\n")
    how: dict[str, Any] = {"title": "FID", "better": "lower", "extractor": "small", "spread": f"{FID}_std"}
    how |= {"generated": {"count": 2000}, "reference": {"count": 1437}}
    (folder / "metrics.json").write_text(json.dumps({FID: 123.456, f"{FID}_std": 1.5}))
    (folder / "protocol.json").write_text(json.dumps({FID: how, f"{FID}_std": how}))
    if weights:
        method, spec = methods.load("vae", width=4, latent=2), ImageSpec(channels=1, size=16, classes=10)
        torch.manual_seed(0)
        nets = method.build(spec)
        ema = nn.ModuleDict({key: copy.deepcopy(nets[key]) for key in method.sampled})
        own: dict[str, Any] = {"name": "vae", "params": {"width": 4, "latent": 2}, "spec": spec, "seen": 6400}
        save_weights(folder / "weights.safetensors", **own, nets=nets, ema=ema)
    return folder


def query(link: str) -> dict[str, list[str]]:
    return parse_qs(link.partition("?")[2])


def test_links_lead_to_the_trainings_with_their_columns_and_to_all_published_runs(project: Path) -> None:
    for name in "ab":
        publish(project, name)
    view = View(metrics=[FID, "cost/seconds"])
    links = send_all_results(params("a", "b"), view)
    client = client_of(resolve(Tracking()).uri)
    experiment = client.get_experiment_by_name("genloom")
    there = json.loads(experiment.tags[VIEW_TAG])
    assert there["selectedColumns"] == ["params.`method`", f"metrics.`{FID}`", "metrics.`cost/seconds`"]
    assert (there["orderByKey"], there["orderByAsc"]) == (f"metrics.`{FID}`", True)
    assert links["Runs"].startswith(f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?")
    assert query(links["Runs"]) == {"workflowType": ["machine_learning"], "viewStateShareKey": ["genloom"]}
    runs = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert set(json.loads(query(links["Comparison"])["runs"][0])) == runs and len(runs) == 2
    tags = client.get_experiment_by_name("genloom").tags
    client.set_experiment_tag(experiment.experiment_id, "a_persons", "own")
    send_all_results(params("a", "b"), view)
    assert client.get_experiment_by_name("genloom").tags == tags | {"a_persons": "own"}


def test_each_seed_of_a_run_is_a_run_in_mlflow_with_its_own_numbers(project: Path) -> None:
    folder, seeds = publish(project, "a"), (0, 4)
    write_seeds(folder, seeds)
    trained = json.loads((folder / "train.json").read_text())
    for seed, key in zip(seeds, "ab", strict=True):
        place = training_of(folder, seed, seeds)
        place.mkdir(exist_ok=True)
        about = trained | {"key": key * 64, "params": {"lr": 0.1, "seed": seed}}
        (place / "train.json").write_text(json.dumps(about))
        (place / "history.csv").write_text("seen,loss\n6400,2.0\n")
    how = json.loads((folder / "protocol.json").read_text())
    means = average({0: Scores({FID: 100.0}, {FID: how[FID]}), 4: Scores({FID: 110.0}, {FID: how[FID]})})
    (folder / "metrics.json").write_text(json.dumps(means.metrics))
    (folder / "protocol.json").write_text(json.dumps(means.protocol))
    send_run(folder, params("a"), {"evaluate": 3.0})
    client = client_of(resolve(Tracking()).uri)
    runs = client.search_runs([client.get_experiment_by_name("genloom").experiment_id])
    assert {run.info.run_name for run in runs} == {"a"}
    found = {run.data.params["seed"]: run.data.metrics for run in runs}
    assert {seed: metrics[FID] for seed, metrics in found.items()} == {"0": 100.0, "4": 110.0}
    assert [metrics["cost/evaluate_seconds"] for metrics in found.values()] == [1.5, 1.5]

    def on_board() -> float | None:
        return read_board(project / "out", {"a": {}}, ["fid"], ["small"]).runs[0].metric(FID)

    (folder / "features").mkdir()
    (project / "out/reference").mkdir()
    assert on_board() == 105.0
    write_seeds(folder, [0])
    assert on_board() is None, "the means are of other trainings too"


def test_a_description_says_what_the_run_is_and_leaves_a_persons_words(project: Path) -> None:
    folder = publish(project, "a")
    send_results(RUNS / "a", params("a"))
    run = in_mlflow(resolve(Tracking()).uri)
    text = run.data.tags[NOTE]
    assert "**a**: vae on digits (grayscale images of 16 x 16 pixels; version dddddddddddd), 6,400 images seen" in text
    assert "| FID small \N{DOWNWARDS ARROW} | 123.5 ± 1.5 | 2,000 samples, 1,437 real images |" in text
    assert text.count("| FID") == 1 and f"runs:/{run.info.run_id}/model" in text
    (folder / "metrics.json").write_text(json.dumps({FID: 99.0, f"{FID}_std": 1.5}))
    send_results(RUNS / "a", params("a"))
    assert "| 99 ± 1.5 |" in in_mlflow(resolve(Tracking()).uri).data.tags[NOTE]
    client = client_of(resolve(Tracking()).uri)
    client.set_tag(run.info.run_id, NOTE, "mine")
    write_description(client, run.info.run_id, "other")
    assert client.get_run(run.info.run_id).data.tags[NOTE] == "mine"


def test_scores_of_earlier_weights_are_no_scores_of_the_run(project: Path) -> None:
    """As after `dvc repro train@a`: DVC leaves metrics.json until the stage evaluate runs."""
    folder = publish(project, "a", weights=True)
    protocol = json.loads((folder / "protocol.json").read_text())
    for digest, known in (("0" * 16, None), (digest_of(folder / "weights.safetensors"), 123.456)):
        for about in protocol.values():
            about["generated"][WEIGHTS] = digest
        (folder / "protocol.json").write_text(json.dumps(protocol))
        send_results(RUNS / "a", params("a"))
        assert in_mlflow(resolve(Tracking()).uri).data.metrics.get(FID) == known
        (project / "out/runs/a/features").mkdir(exist_ok=True)
        (project / "out/reference").mkdir(exist_ok=True)
        (run,) = read_board(project / "out", {"a": {"method": "vae"}}, ["fid"], ["small"]).runs
        assert run.metric(FID) == known


def test_what_stages_took_is_a_metric_beside_the_trainings_cost(project: Path) -> None:
    publish(project, "a")
    note_seconds(RUNS / "a", params("a"), {"generate": 3.0})
    send_results(RUNS / "a", params("a"), {"evaluate": 1.5})
    found = in_mlflow(resolve(Tracking()).uri).data.metrics
    assert (found["cost/generate_seconds"], found["cost/evaluate_seconds"], found["cost/seconds"]) == (3.0, 1.5, 2.0)


def test_a_model_is_registered_once_and_found_by_its_alias(project: Path) -> None:
    import mlflow

    publish(project, "a", weights=True)
    send_results(RUNS / "a", params("a"))
    target = resolve(Tracking())
    run_id = in_mlflow(target.uri).info.run_id
    assert register(target, run_id, "faces") == ("1", True)
    assert register(target, run_id, "faces", alias="champion") == ("1", False)
    model = mlflow.pyfunc.load_model("models:/faces@champion")
    assert model.get_raw_model().sample([0, 1]).shape == (2, 1, 16, 16)
    assert model.get_raw_model().class_names == list("0123456789")


def test_a_run_without_a_model_cannot_be_registered(project: Path) -> None:
    publish(project, "a")
    send_results(RUNS / "a", params("a"))
    with pytest.raises(UserError, match="has no model: `genloom sync` sends it"):
        register(resolve(Tracking()), in_mlflow(resolve(Tracking()).uri).info.run_id, "faces")


@pytest.mark.parametrize(("uri", "address"), [("http://u:p@host:81/m", "http://host:81/m/#/"), ("databricks", None)])
def test_a_servers_pages_are_named_without_passwords(uri: str, address: str | None) -> None:
    from pipeline.tracking.pages import _address

    found = _address(Target(uri, "genloom"), "x", {})
    assert found is None if address is None else (found or "").startswith(address)
