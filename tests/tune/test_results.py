"""What a search leaves: the comparison with the run's own setting, its page, and its runs in MLflow."""

import json
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from browser import browser
from mlflow import MlflowClient
from PIL import Image
from scipy.stats import ttest_ind
from toy_search import project_task

from pipeline.config import Tracking
from pipeline.storage.store import training_folder
from pipeline.tracking.search_shipper import shipping_search
from pipeline.tracking.searches import BEST, PARENT, STATE, TRIAL, read_search, send_search, write_search
from pipeline.tune.confirm import Comparison, fresh_seeds
from pipeline.tune.record import Handover, Record, Trial
from pipeline.tune.report import importance, write_report
from pipeline.tune.results import as_sent, write_best, write_trials
from pipeline.tune.trial import Task, picture_at

SPACE = {
    "lr": {"loguniform": [1e-4, 1e-2]},
    "beta": {"uniform": [0.5, 8]},
    "net": {"choice": ["mlp", "dcgan"]},
    "upsampling": {"choice": ["nearest", "transposed"], "when": {"net": "dcgan"}},
}


def filled(task: Task, count: int = 16) -> Record:
    """A record of trials whose value is beta, with a little noise."""
    draw = random.Random(0)
    task.folder.mkdir(parents=True, exist_ok=True)
    record = Record(task.folder)
    for number in range(count):
        values: dict[str, Any] = {"lr": 10 ** draw.uniform(-4, -2), "beta": draw.uniform(0.5, 8)}
        values |= {"net": "mlp"} if number % 2 else {"net": "dcgan", "upsampling": "nearest"}
        record.begin(values, f"key{number}")
        value = values["beta"] + draw.gauss(0, 0.1)
        for images in (128, 384, 640):
            scores = {"elbo_bits_per_dim": value + 1000 / images, "seconds": images * draw.uniform(0.5, 1.5)}
            record.value(number, images, {name: scores[name] for name in task.search.objectives}, images / 100)
            if number % 3 == 2:
                record.end(number, "pruned", "worse <than> others")
                break
        else:
            if number != count - 1:
                record.end(number, "finished")
    record.begin({"lr": 0.001, "beta": 1.0, "net": "mlp"}, "failed")
    record.end(count, "failed", "no reason")
    return record


def draw(task: Task, trial: Trial) -> None:
    """Pictures of a trial at two of its three rungs."""
    store = training_folder(task.scratch, task.name, trial.key)
    store.mkdir(parents=True)
    for images in (128, 640):
        Image.new("L", (16, 16), images % 256).save(picture_at(store, images))


def test_a_comparison_is_welchs_test() -> None:
    own, best = (5.0, 5.2, 4.9, 5.1), (4.6, 4.8, 4.5, 4.75)
    found = Comparison(shown="x", better="lower", seeds=(1, 2, 3, 4), own=own, best=best, trial=7)
    low, high = ttest_ind(own, best, equal_var=False).confidence_interval(0.95)
    assert found.gain == pytest.approx(fmean(own) - fmean(best))
    assert (found.gain - found.luck, found.gain + found.luck) == pytest.approx((low, high))
    assert found.verdict.startswith("better by 0.3875") and "4 seeds each" in found.verdict
    assert replace(found, better="higher").verdict.startswith("worse by 0.3875")
    assert replace(found, best=(5.1, 5.0, 5.2, 4.8)).verdict.startswith("not told apart")
    assert json.dumps(found.as_dict())


def test_seeds_are_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"seed": {"choice": [3, 9]}, **SPACE}
    assert fresh_seeds(project_task(tmp_path, monkeypatch, run={"seed": 4}, space=space, confirm=3)) == (10, 11, 12)
    task = project_task(tmp_path, monkeypatch, run={"seeds": [4, 5]}, confirm=2)
    assert fresh_seeds(task) == (6, 7)


def test_files_say_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = project_task(tmp_path, monkeypatch, space=SPACE)
    record = filled(task)
    write_best(tmp_path / "best.yaml", task, record)
    write_trials(tmp_path / "trials.csv", task, record)
    finished = [t for t in record.trials.values() if t.state == "finished"]
    best = min(finished, key=lambda trial: trial.values[640]["elbo_bits_per_dim"])
    assert f"- trial: {best.number}\n" in (tmp_path / "best.yaml").read_text()
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == "trial,state,images,seconds,elbo_bits_per_dim_test16,lr,beta,net,upsampling,key,reason"
    assert len(lines) == 18 and ",unfinished," in lines[16] and "no reason" in lines[17]


def test_the_param_that_matters_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = project_task(tmp_path, monkeypatch, space=SPACE)
    shares = importance(task, list(filled(task, 40).trials.values()))
    assert shares.keys() == {"lr", "beta", "net"}, "those that every trial has"
    assert sum(shares.values()) == pytest.approx(1) and 0.8 < shares["beta"] <= 1
    assert importance(task, list(filled(task, 3).trials.values())[:3]) == {}


@pytest.mark.parametrize("several", [False, True])
def test_the_page_shows_all_and_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool) -> None:
    objective = ["elbo_bits_per_dim", "seconds"] if several else "elbo_bits_per_dim"
    task = project_task(tmp_path, monkeypatch, space=SPACE, objective=objective)
    compared = Comparison(shown="x", better="lower", seeds=(1, 2), own=(2.0, 2.1), best=(1.0, 1.1), trial=7)
    write_report(tmp_path / "report.html", task, filled(task), None if several else compared)
    with browser(tmp_path / "profile") as tab:
        for scheme in ("light", "dark"):
            tab.open(tmp_path / "report.html", scheme=scheme)
        titles = tab.run("[...document.querySelectorAll('figure h3')].map(e => e.textContent)")
        shown = ["History", "Learning curves", *(["Pareto front"] if several else []), "Parallel coordinates"]
        assert titles == [*shown, *SPACE, "Importance"]
        assert tab.run("document.querySelectorAll('tbody tr').length") == 17 + 2 * (not several)
        assert tab.run("[...document.querySelectorAll('svg')].every(e => !e.innerHTML.includes('NaN'))")
        assert tab.run("document.body.textContent").count("better by 1 ±") == (not several)
        tab.open(tmp_path / "report.html", width=400)
        assert tab.run("document.documentElement.scrollWidth") == 400
        assert tab.problems == [] and all(request.startswith("file:") for request in tab.requests)


def test_the_page_of_a_population_shows_the_way_of_its_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"lr": {"loguniform": [1e-4, 1e-2]}, "schedule": {"choice": ["constant", "cosine"]}}
    settings = {"scheduler": "pbt", "searcher": "random", "trials": 8}
    task = project_task(tmp_path, monkeypatch, space=space, **settings)
    task.folder.mkdir(parents=True)
    record = Record(task.folder)
    for number in range(8):
        record.begin({"lr": 0.001 * (number + 1), "schedule": "constant"}, f"key{number}")
        record.value(number, 128, {"elbo_bits_per_dim": 5.0 - number}, 1.0)
    after = {"lr": 0.0001, "schedule": "cosine"}
    record.hand(Handover(0, 7, 128, record.trials[0].params, after, "new"))
    for number in range(8):
        record.value(number, 640, {"elbo_bits_per_dim": 2.0 + number}, 2.0)
        record.end(number, "finished")
    write_report(tmp_path / "report.html", task, record)
    page = (tmp_path / "report.html").read_text()
    titles = re.findall("<h3>(.*?)</h3>", page)
    assert titles[-2:] == ["lr on the way", "schedule on the way"] and "NaN" not in page
    assert "a population (pbt) with 1 hand-overs: 8 finished" in page and "trial 0 takes over from 7" in page
    assert "trains anew with them as constants" in page and "that it had last" in page
    write_best(tmp_path / "best.yaml", task, record)
    (best,) = yaml.safe_load((tmp_path / "best.yaml").read_text())["best"]
    first = {"lr": 0.008, "schedule": "constant"}
    assert best["params"] == after
    assert best["schedule"] == [
        {"images": 0, "trial": 7, "params": first},
        {"images": 128, "trial": 0, "params": after},
    ]
    assert "&id" not in (tmp_path / "best.yaml").read_text(), "a person reads it"


def test_mlflow_has_a_run_of_the_search_and_one_of_each_trial_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = project_task(tmp_path, monkeypatch, space=SPACE)
    record, tracking = filled(task, 5), Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db")
    path = tmp_path / "report.html"
    path.write_text("page")
    draw(task, record.trials[0])
    pages = {send_search(as_sent(task, record, [path]), tracking, task.folder) for _ in range(2)}
    record.end(4, "finished")
    pages.add(send_search(as_sent(task, record, [path]), tracking, task.folder))
    (page,) = pages
    assert page is not None and "orderByKey=metrics.%60elbo_bits_per_dim_test16%60&orderByAsc=true" in page
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert experiment is not None
    metric = "elbo_bits_per_dim_test16"
    runs = client.search_runs([experiment.experiment_id], order_by=[f"metrics.{metric} ASC"])
    (parent,) = [run for run in runs if TRIAL not in run.data.tags]
    trials = {int(run.data.tags[TRIAL]): run for run in runs if TRIAL in run.data.tags}
    assert sorted(trials) == list(range(6)) and {t.data.tags[PARENT] for t in trials.values()} == {parent.info.run_id}
    states = [trials[number].data.tags[STATE] for number in range(6)]
    assert states == ["finished", "finished", "pruned", "finished", "finished", "failed"]
    assert len(client.get_metric_history(trials[0].info.run_id, metric)) == 3
    pictures = [item.path for item in client.list_artifacts(trials[0].info.run_id, "images")]
    assert len(pictures) == 2 * 2 and {path.split("+")[2] for path in pictures} == {"128", "640"}, "each once"
    assert client.list_artifacts(trials[1].info.run_id) == []
    best = [number for number, run in trials.items() if run.data.tags[BEST] == "true"]
    assert parent.data.tags[BEST] == f"trial {best[0]}" and len(best) == 1
    assert parent.data.metrics[metric] == trials[best[0]].data.metrics[metric]
    assert [item.path for item in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    assert send_search(as_sent(task, record, []), Tracking(uri="http://127.0.0.1:9"), task.folder) is None
    assert "make tune RUN=vae" in caplog.text


def test_a_search_comes_back_from_its_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = project_task(tmp_path, monkeypatch, space=SPACE)
    record = filled(task, 5)
    draw(task, record.trials[0])
    search = as_sent(task, record, [tmp_path / "page"], status="RUNNING")
    assert len(search.trials[0].pictures) == 2
    assert read_search(tmp_path / "none.json") is None
    write_search(tmp_path / "search.json", search)
    assert read_search(tmp_path / "search.json") == search


@pytest.mark.slow
def test_mlflow_gets_trials_while_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = project_task(tmp_path, monkeypatch, space=SPACE)
    record, tracking = filled(task, 5), Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db")
    draw(task, record.trials[0])
    send_search(as_sent(task, record, status="RUNNING"), tracking, task.folder)  # makes the database
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert experiment is not None

    def found() -> dict[str, Any]:
        runs = client.search_runs([experiment.experiment_id])
        return {run.data.tags.get(TRIAL, "parent"): run for run in runs}

    assert found()["parent"].info.status == "RUNNING" and found()["4"].data.tags[STATE] == "unfinished"
    with shipping_search(task.folder, tracking) as tell:
        record.end(4, "finished")
        tell(as_sent(task, record, status="RUNNING"))
        end = time.monotonic() + 90
        while found()["4"].info.status == "RUNNING":
            assert time.monotonic() < end, (task.folder / "shipper.log").read_text()
            time.sleep(0.5)
        assert found()["parent"].info.status == "RUNNING"
    assert found()["parent"].info.status == "KILLED", "until the search says that it is finished"
    send_search(as_sent(task, record), tracking, task.folder)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 7 and found()["parent"].info.status == "FINISHED"


@pytest.mark.slow
def test_mlflow_that_does_not_answer_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = project_task(tmp_path, monkeypatch, space=SPACE)
    record = filled(task, 5)
    begun = time.monotonic()
    with shipping_search(task.folder, Tracking(uri="http://127.0.0.1:9")) as tell:
        for _ in range(3):
            tell(as_sent(task, record, status="RUNNING"))
        assert time.monotonic() - begun < 2
        time.sleep(6)
    assert time.monotonic() - begun < 45
    assert (task.folder / "shipper.log").read_text().strip()
