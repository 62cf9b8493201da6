"""Population-based training: who takes over from whom, with which params, and that it is the donor's whole state."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_space import problems_of
from toy_search import project_task

from pipeline.config.search import Search
from pipeline.tune.chooser import Chooser
from pipeline.tune.generations import Hooks, Population
from pipeline.tune.population import handover, member_key, member_of, pairs, perturbed
from pipeline.tune.record import NAME, Handover, Record, Trial
from pipeline.tune.results import way_of
from pipeline.tune.trial import Report, Task
from pipeline.tune.trial import Trial as Training

PBT: dict[str, Any] = {"scheduler": "pbt", "searcher": "random", "trials": 4}
SPACE: dict[str, Any] = {
    "lr": {"loguniform": [1e-4, 1e-2]},
    "beta": {"uniform": [0.5, 8], "step": 0.5},
    "warm_up": {"int": [1, 40]},
    "schedule": {"choice": ["constant", "linear", "cosine"]},
}


def search(**settings: Any) -> Search:
    return Search(**{"space": SPACE, "objective": "x", "rungs": (10,), **PBT} | settings)


def at_rung(*values: float | None, images: int = 10) -> list[Trial]:
    scores = [{} if value is None else {images: {"x": value}} for value in values]
    return [Trial(number, {}, "key", values=value) for number, value in enumerate(scores)]


def test_the_worst_take_over_from_the_best() -> None:
    values = [5.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0]
    found = pairs(search(), "lower", at_rung(*values), 10)
    assert [taker.number for taker, _ in found] == [2, 4] and {donor.number for _, donor in found} <= {1, 3}
    found = pairs(search(), "higher", at_rung(*values), 10)
    assert [taker.number for taker, _ in found] == [1, 3] and {donor.number for _, donor in found} <= {2, 4}
    seeds = [pairs(search(seed=seed), "lower", at_rung(*values), 10) for seed in range(40)]
    donors = Counter(donor.number for pairs_of in seeds for _, donor in pairs_of)
    assert donors.keys() == {1, 3} and min(donors.values()) > 20, "each of the best is as likely as the others"
    assert seeds[0] == pairs(search(seed=0), "lower", at_rung(*values), 10)


def test_those_that_fell_take_over_first_and_nobody_from_an_equal() -> None:
    found = pairs(search(), "lower", at_rung(3.0, None, 1.0, 2.0), 10)
    assert [(taker.number, donor.number) for taker, donor in found] == [(1, 2)], "a quarter of four is one"
    found = pairs(search(), "lower", at_rung(None, None, None, 2.0), 10)
    assert [(taker.number, donor.number) for taker, donor in found] == [(0, 3), (1, 3), (2, 3)]
    assert pairs(search(), "lower", at_rung(None, None), 10) == []
    assert pairs(search(), "lower", at_rung(2.0, 2.0, 2.0), 10) == []
    assert pairs(search(), "lower", at_rung(2.0), 10) == []
    ended = at_rung(9.0, 1.0, 2.0)
    ended[0].state = "failed"
    assert [taker.number for taker, _ in pairs(search(), "lower", ended, 10)] == [2]


def test_params_move_by_the_factor_within_their_range() -> None:
    values = {"lr": 1e-3, "beta": 4.0, "warm_up": 2, "schedule": "linear"}
    found = [perturbed(search(resample=0), values, np.random.default_rng(seed)) for seed in range(60)]
    assert {one["lr"] for one in found} == {1.2e-3, 8.333e-4}
    assert {one["beta"] for one in found} == {3.5, 5.0}, "4.8 and 3.33 on the steps"
    assert {one["warm_up"] for one in found} == {1, 3}, "2 times 1.2 is 2 again, so one step"
    assert {one["schedule"] for one in found} == {"constant", "cosine"}
    edge = {"lr": 1e-2, "beta": 0.5, "warm_up": 40, "schedule": "cosine"}
    found = [perturbed(search(resample=0), edge, np.random.default_rng(seed)) for seed in range(60)]
    assert {one["lr"] for one in found} == {1e-2, 8.333e-3} and {one["beta"] for one in found} == {0.5, 1.0}
    assert {one["warm_up"] for one in found} == {40, 33} and {one["schedule"] for one in found} == {"cosine", "linear"}
    drawn = [perturbed(search(resample=1), values, np.random.default_rng(seed)) for seed in range(200)]
    rates = sorted(one["lr"] for one in drawn)
    assert 1e-4 <= rates[0] < 2e-4 and 5e-3 < rates[-1] <= 1e-2 and 6e-4 < rates[100] < 1.6e-3
    assert {one["beta"] for one in drawn} == {k / 2 for k in range(1, 17)}
    assert {one["schedule"] for one in drawn} == {"constant", "linear", "cosine"}


def member(task: Task, record: Record, values: dict[str, Any]) -> Trial:
    return record.begin(values, member_key(task, len(record.trials), "course"))


def state_of(task: Task, trial: Trial, images: int) -> dict[str, Any]:
    training = Training(task, trial.params, member=member_of(task, trial))
    content = training.job.checkpoints.load(images, torch.device("cpu"))
    training.close()
    return dict(content)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_what_is_taken_over_is_the_donors_state_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"lr": {"loguniform": [1e-4, 1e-2]}, "beta1": {"uniform": [0.5, 0.95]}}
    task = project_task(tmp_path, monkeypatch, **PBT, space=space, rungs=[100], resample=1.0)
    with Record.open(task.folder, "vae") as record:
        for values in ({"lr": 3e-3, "beta1": 0.9}, {"lr": 1e-4, "beta1": 0.6}):
            trial = member(task, record, values)
            training = Training(task, values, member=member_of(task, trial))
            report = training.advance()
            training.close()
            assert (report.images, report.state) == (128, None)
            record.value(trial.number, report.images, report.values, report.seconds)
        taker, donor = record.trials[1], record.trials[0]
        before = state_of(task, taker, 128)["state"]
        handed = handover(task, taker, donor, 128)
        assert handover(task, taker, donor, 128) == handed, "the same once more"
        record.hand(handed)
    again = Record(task.folder).trials[1]
    assert (
        again.handovers == [handed]
        and again.params == handed.after
        and again.first_params == {"lr": 1e-4, "beta1": 0.6}
    )
    given, taken = state_of(task, donor, 128), state_of(task, again, 128)
    assert not same(before["nets"], taken["state"]["nets"])
    for part in ("nets", "ema", "seen"):
        assert same(given["state"][part], taken["state"][part])
    for phase, optimizer in taken["state"]["optimizers"].items():
        assert same(given["state"]["optimizers"][phase]["state"], optimizer["state"])
        assert [group["betas"] for group in optimizer["param_groups"]] == [(handed.after["beta1"], 0.999)]
        assert given["state"]["optimizers"][phase]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert given["history"] == taken["history"]

    training = Training(task, again.params, member=member_of(task, again))
    training.next = 1
    report = training.advance()
    training.close()
    assert (report.images, report.state) == (640, "finished")
    group = state_of(task, again, 640)["state"]["optimizers"].popitem()[1]["param_groups"][0]
    assert (group["lr"], group["betas"][0]) == (handed.after["lr"], handed.after["beta1"])


def test_a_member_whose_checkpoint_is_gone_does_not_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = project_task(tmp_path, monkeypatch, **PBT, rungs=[100])
    trial = Trial(0, {"lr": 1e-3, "beta": 1.0}, "k" * 64, handovers=[])
    taken = member_of(task, trial)
    training = Training(task, trial.params, member=type(taken)(key=taken.key, folder=taken.folder, begin=128))
    training.next = 1
    report = training.advance()
    assert report.state == "failed" and "no whole checkpoint is left" in report.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"searcher": "bayes"}, "take random, not bayes"),
        ({"trials": None, "images": 9_999_999}, "pbt's population"),
        ({"rungs": []}, "pbt judges trials there"),
        ({"space": {"latent": {"int": [4, 64]}}}, "space.latent: it decides the nets' shapes"),
        ({"space": {"scale": {"uniform": [0.1, 0.5]}}}, "space.scale: it decides what the nets begin with"),
        ({"space": {"optimizer": {"choice": ["adam", "sgd"]}}}, "space.optimizer: it decides the optimizer"),
        ({"space": {"batch_size": {"choice": [32, 64]}}}, "space.batch_size: it is the whole run's"),
        ({"space": {"seed": {"choice": [1, 2]}}}, "space.seed: it is the whole run's"),
        ({"images": 100_000}, "4 trials of 60000 images need 240000"),
        ({"quantile": 0.6}, "quantile"),
    ],
)
def test_what_a_population_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    found = problems_of(tmp_path, **PBT | {"rungs": [10_000]} | changes)
    assert any(message in problem for problem in found), found


def test_what_a_population_can_be_is_fine(tmp_path: Path) -> None:
    space = {name: {"uniform": [0.1, 0.9]} for name in ("lr", "beta", "beta1", "beta2", "weight_decay", "l1")}
    space |= {"ema_half_life": {"loguniform": [100, 5000]}, "schedule": {"choice": ["constant", "cosine"]}}
    assert problems_of(tmp_path, **PBT, rungs=[10_000], space=space) == []
    found = problems_of(
        tmp_path,
        "wgan_gp",
        "wgan_gp",
        **PBT,
        rungs=[9000],
        objective="seconds",
        space={"critic_steps": {"int": [1, 5]}},
    )
    assert len(found) == 1 and "the steps of an iteration" in found[0]


class LostError(Exception):
    """What Ray raises when a process has died."""


class Asked:
    """A call that is under way."""

    def __init__(self, *given: Any) -> None:
        self.given = given


class PretendedRay:
    """Processes that are function calls in this one; ``dies`` says whether a call finds its process dead."""

    def __init__(self, dies: Any = lambda trial, rung: False) -> None:
        self.exceptions, self.dies, self.started = SimpleNamespace(RayError=LostError), dies, 0

    def start(self) -> Any:
        self.started += 1
        return SimpleNamespace(actor=SimpleNamespace(advance=SimpleNamespace(remote=Asked)), release=lambda: None)

    def wait(self, asked: list[Any], **plan: Any) -> tuple[list[Any], list[Any]]:
        return asked[-1:], asked[:-1]  # the one that began last is done first

    def get(self, given: Asked) -> Report:
        values, member, rung = given.given
        number = int(Path(member.folder).name.split("-")[0])
        if self.dies(number, rung):
            raise LostError
        return values_of(values, rung, member)


RUNGS = (128, 384, 640)


def values_of(values: dict[str, Any], rung: int, member: Any) -> Report:
    """A member whose value is its beta; with beta above 6 it diverges at the second rung, until it takes over."""
    if values["beta"] > 6 and rung == 1:
        return Report(state="diverged", reason="loss", images=200)
    state = "finished" if rung == 2 else None
    return Report(images=RUNGS[rung], values={"elbo_bits_per_dim": values["beta"]}, state=state, rung=rung)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> PretendedRay:
    """Generations without Ray, and hand-overs without checkpoints."""
    found = PretendedRay()
    monkeypatch.setattr("pipeline.tune.generations.ray", found)

    def handed(task: Task, taker: Trial, donor: Trial, images: int) -> Handover:
        random = np.random.default_rng([images, taker.number])
        after = perturbed(task.search, donor.params, random)
        return Handover(taker.number, donor.number, images, dict(taker.params), after, f"{taker.number}-{images}")

    monkeypatch.setattr("pipeline.tune.generations.handover", handed)
    return found


def events(task: Task, ray: PretendedRay, concurrent: int, may_begin: Any = lambda: True) -> list[tuple[Any, ...]]:
    """What a population's record says in the end, but the order in which members are done."""
    with Record.open(task.folder, "vae") as record:
        chooser = Chooser(task.search, ["lower"])
        chooser.replay(record)
        hooks = Hooks(may_begin=may_begin, each_round=lambda: None, ended=chooser.tell)
        population = Population(task, record, ray.start, concurrent, hooks)
        population.begin(chooser.next, lambda values: "course")
        population.train()
        return sorted(
            (trial.number, str(trial.values), str(trial.handovers), trial.state or "", trial.reason)
            for trial in record.trials.values()
        )


def population(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Task:
    folder.mkdir()
    return project_task(folder, monkeypatch, **PBT | {"trials": 8} | changes)


def test_a_population_is_the_same_whatever_is_killed_and_however_many_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretended: PretendedRay
) -> None:
    whole = events(population(tmp_path / "whole", monkeypatch), pretended, 1)
    assert {state for *_, state, _ in whole} == {"finished"}
    assert sum("Handover" in handovers for _, _, handovers, *_ in whole) >= 3
    assert events(population(tmp_path / "several", monkeypatch), pretended, 3) == whole
    task = population(tmp_path / "killed", monkeypatch)
    for calls in (3, 9, 14, 18):
        left = iter(range(calls))
        events(task, pretended, 2, lambda left=left: next(left, None) is not None)
    with Record.open(task.folder, "vae") as record:
        path, known = record.folder / NAME, len(record.events)
    lines = path.read_bytes().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if b'"handed"' in line)
    path.write_bytes(b"".join(lines[: first + 1]))  # killed between two hand-overs of one rung
    assert known > first + 2 and b'"handed"' in lines[first + 1]
    assert events(task, pretended, 2) == whole
    again = len(Record(task.folder).events)
    assert events(task, pretended, 2) == whole and len(Record(task.folder).events) == again, "nothing is repeated"


def test_a_member_whose_process_dies_goes_on_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretended: PretendedRay
) -> None:
    whole = events(population(tmp_path / "whole", monkeypatch), pretended, 2)
    deaths = Counter[tuple[int, int]]()

    def dies(number: int, rung: int) -> bool:
        deaths[number, rung] += 1
        return (number, rung) == (2, 1) and deaths[2, 1] <= 3

    pretended.dies = dies
    assert events(population(tmp_path / "dies", monkeypatch), pretended, 2) == whole
    assert deaths[2, 1] == 4 and pretended.started == 2 + 2 + 3
    pretended.dies = lambda number, rung: (number, rung) == (2, 0)
    found = events(population(tmp_path / "lost", monkeypatch), pretended, 2)
    assert found[2][3] == "finished" and "donor" in found[2][2], "it takes over at the rung that it did not reach"


def test_a_population_that_falls_together_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretended: PretendedRay
) -> None:
    space = {"beta": {"uniform": [6.5, 8]}}
    found = events(population(tmp_path / "fallen", monkeypatch, space=space), pretended, 2)
    assert {(state, reason) for *_, state, reason in found} == {("diverged", "loss")} and len(found) == 8


def test_the_way_of_the_best_weights_goes_through_its_donors() -> None:
    record = SimpleNamespace(trials={})
    for number in range(3):
        record.trials[number] = Trial(number, {"a": number}, "key")
    for handed in (
        Handover(1, 0, 10, {"a": 1}, {"a": 10}, "k"),
        Handover(2, 1, 20, {"a": 2}, {"a": 20}, "k"),
        Handover(1, 2, 30, {"a": 10}, {"a": 30}, "k"),
    ):
        record.trials[handed.trial].handovers.append(handed)
        record.trials[handed.trial].params = handed.after
    found = way_of(record, record.trials[1])  # type: ignore[arg-type]
    assert [(step["images"], step["trial"], step["params"]["a"]) for step in found] == [
        (0, 0, 0),
        (10, 1, 10),
        (20, 2, 20),
        (30, 1, 30),
    ]
