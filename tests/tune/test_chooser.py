"""The searchers: seeded, the same as Optuna alone, and where they were when the record of a search is fed to them."""

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.config.search import Search
from pipeline.errors import UserError
from pipeline.tune.chooser import Chooser, frozen, sampler_of
from pipeline.tune.record import NAME, Record
from pipeline.tune.space import draw

SPACE: dict[str, Any] = {
    "lr": {"loguniform": [1e-4, 1e-2]},
    "beta": {"uniform": [0.5, 8]},
    "net": {"choice": ["a", "b"]},
    "depth": {"int": [1, 3], "when": {"net": "b"}},
}


def search(searcher: str, trials: int = 24, **settings: Any) -> Search:
    return Search(**{"space": SPACE, "objective": "x", "searcher": searcher, "trials": trials} | settings)  # type: ignore[arg-type]


def toy(values: dict[str, Any]) -> float:
    """A function with its best, 0, at lr 1e-3, beta 2, net b, depth 2."""
    return (math.log10(values["lr"]) + 3) ** 2 + (values["beta"] - 2) ** 2 / 4 + abs(values.get("depth", 4) - 2)


def state(number: int) -> Any:
    return {4: "pruned", 6: "diverged"}.get(number % 9, "finished")


def go_on(folder: Path, settings: Search, until: int, die_at: int | None = None) -> list[dict[str, Any]]:
    """A search without Ray, one trial at a time; ``die_at``: it is killed in that trial."""
    with Record.open(folder, "toy") as record:
        chooser = Chooser(settings, ["lower"])
        chooser.replay(record)
        waiting = [trial for trial in record.trials.values() if trial.state is None]
        while waiting or len(record.trials) < until:
            if waiting:
                trial = waiting.pop()
            else:
                values = chooser.next()
                assert values is not None
                trial = record.begin(values, "key")
            if trial.number == die_at:
                return []
            record.value(trial.number, 10, {"x": toy(trial.params)}, 1.0)
            record.end(trial.number, state(trial.number))
            chooser.tell(record.trials[trial.number])
        return [trial.params for trial in record.trials.values()]


@pytest.mark.parametrize("searcher", ["grid", "random", "bayes"])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path, searcher: str) -> None:
    space = SPACE | {"lr": SPACE["lr"] | {"points": 3}, "beta": {"uniform": [0.5, 8], "points": 2}}
    settings = search(searcher, space=space)
    whole = go_on(tmp_path / "whole", settings, 24)
    go_on(tmp_path / "killed", settings, 24, die_at=15)
    go_on(tmp_path / "killed", settings, 24, die_at=16)
    assert go_on(tmp_path / "killed", settings, 24) == whole
    assert len({repr(values) for values in whole}) == 24
    if searcher != "grid":
        assert go_on(tmp_path / "other", search(searcher, space=space, seed=1), 24) != whole


@pytest.mark.slow
def test_a_gaussian_process_goes_on_too(tmp_path: Path) -> None:
    whole = go_on(tmp_path / "whole", search("gp"), 14)
    go_on(tmp_path / "killed", search("gp"), 14, die_at=12)
    assert go_on(tmp_path / "killed", search("gp"), 14) == whole


def test_bayes_is_optuna_alone(tmp_path: Path) -> None:
    settings = search("bayes", 40)
    study = optuna.create_study(sampler=sampler_of(settings, settings.seed))
    study.optimize(lambda trial: toy(draw(settings.domains, trial)), n_trials=40)
    with Record.open(tmp_path, "toy") as record:
        chooser = Chooser(settings, ["lower"])
        for _ in range(40):
            trial = record.begin(chooser.next() or {}, "key")
            record.value(trial.number, 1, {"x": toy(trial.params)}, 1.0)
            record.end(trial.number, "finished")
            chooser.tell(record.trials[trial.number])
        ours = [trial.last["x"] for trial in record.trials.values()]
    assert ours == [trial.value for trial in study.trials]


def best_of(folder: Path, searcher: str, seed: int) -> float:
    return min(map(toy, go_on(folder / f"{searcher}{seed}", search(searcher, seed=seed), 24)))


def test_bayes_finds_more_than_chance(tmp_path: Path) -> None:
    found = {kind: sorted(best_of(tmp_path, kind, seed) for seed in range(5))[2] for kind in ("bayes", "random")}
    assert 0 <= found["bayes"] < found["random"] < 2


def test_another_version_of_optuna_takes_the_trials_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on(tmp_path, search("bayes"), 12, die_at=11)
    monkeypatch.setattr("pipeline.tune.chooser.sampler_of", _other_sampler)
    with Record.open(tmp_path, "toy") as record:
        chooser = Chooser(search("bayes"), ["lower"])
        chooser.replay(record)
        assert chooser.study is not None
        assert [trial.params["lr"] for trial in chooser.study.trials] == [
            t.params["lr"] for t in record.trials.values()
        ]
        record.end(11, "pruned")
        chooser.tell(record.trials[11])
        assert chooser.next() not in [trial.params for trial in record.trials.values()]
        assert chooser.given == 13
    assert "draws other trials" in caplog.text


def _other_sampler(settings: Search, seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed + 99)


def test_optuna_is_told_how_trials_ended(tmp_path: Path) -> None:
    with Record.open(tmp_path, "toy") as record:
        chooser = Chooser(search("bayes"), ["lower"])
        for end in ("finished", "pruned", "diverged", "failed", "stopped"):
            trial = record.begin(chooser.next() or {}, "key")
            if end != "failed":
                record.value(trial.number, 5, {"x": 3.0}, 1.0)
            record.end(trial.number, end)  # type: ignore[arg-type]
            chooser.tell(record.trials[trial.number])
        assert chooser.study is not None
        told = [trial.state.name for trial in chooser.study.trials]
        assert told == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "PRUNED"]
        assert chooser.study.trials[1].intermediate_values == {5: 3.0}
        again = [frozen(trial, search("bayes").domains, ["x"]) for trial in record.trials.values()]
        assert [trial.state.name for trial in again] == told


def test_a_record_survives_a_torn_line_and_refuses_damage_elsewhere(tmp_path: Path) -> None:
    go_on(tmp_path, search("random"), 3)
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "beg')
    with Record.open(tmp_path, "toy") as record:
        assert len(record.trials) == 3 and path.read_bytes() == whole
        assert not record.value(0, 10, {"x": 1.0}, 2.0), "said twice"
    path.write_bytes(b"{broken\n" + whole)
    with pytest.raises(UserError, match="line 1 is damaged"), Record.open(tmp_path, "toy"):
        pass
    assert all(json.loads(line) for line in whole.splitlines())
