"""Population-based training: at each rung the worst members go on from the checkpoints of the best, with other params.

Jaderberg et al., "Population based training of neural networks", arXiv:1711.09846 (truncation selection; a param is
perturbed by a factor, or drawn anew). All members are judged together once they are at a rung, so what is handed over
is a function of the search's seed and the values, and not of the number of trials at a time or of an interruption.

A member's training is its own: what it is depends on the whole way of its params, so its key is no run's.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.config import Domain, Search
from pipeline.core.state import State
from pipeline.errors import UserError
from pipeline.evaluate.metric import Better
from pipeline.storage.checkpoint import Budgets
from pipeline.training.prepare import prepared
from pipeline.tune.record import Handover, Trial
from pipeline.tune.space import Values, rounded
from pipeline.tune.trial import Member, Task


def member_key(task: Task, number: int, course: str, images: int = 0, donor: str = "") -> str:
    """Return the key of a member's training.

    Args:
        task: of the search.
        number: the member's.
        course: the key of a run's training with its params.
        images: seen where it took over; 0: it begins.
        donor: the key of the training from which it took over.

    Returns:
        sha256 of all that its states depend on from there on, and of whose they are.
    """
    of = [task.folder.name, number, course, images, donor]
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()


def member_of(task: Task, trial: Trial) -> Member:
    """Return where a member's training is, since it last took over."""
    begin = trial.handovers[-1].images if trial.handovers else 0
    return Member(key=trial.key, folder=member_folder(task, trial.number, trial.key), begin=begin)


def member_folder(task: Task, number: int, key: str) -> str:
    """Return where one of a member's trainings is."""
    return str(task.folder.absolute() / "members" / f"{number}-{key[:16]}")


def pairs(search: Search, better: Better, trials: Sequence[Trial], images: int) -> list[tuple[Trial, Trial]]:
    """Say who takes over from whom at a rung.

    Args:
        search: its ``quantile`` is the share of the population that takes over, and that is taken over.
        better: which way the objective is better.
        trials: of the record; those that have ended take no part, those that fell before the rung take over first.
        images: at the rung.

    Returns:
        Takers with their donors, each of which is better, in the order of the takers' numbers.
    """
    sign = 1.0 if better == "lower" else -1.0
    living = [trial for trial in trials if trial.state is None]
    cost = {t.number: sign * t.values[images][search.objectives[0]] for t in living if images in t.values}
    ranked = sorted((t for t in living if t.number in cost), key=lambda trial: (cost[trial.number], trial.number))
    lost = [trial for trial in living if trial.number not in cost]
    count = max(1, math.floor(search.quantile * len(living)))
    donors, rest = ranked[:count], ranked[count:]
    worst = rest[max(0, len(rest) - max(0, count - len(lost))) :]
    found = []
    for taker in sorted([*lost, *worst], key=lambda trial: trial.number) if donors else []:
        donor = donors[int(_random(search, images, taker.number).integers(len(donors)))]
        if taker.number not in cost or cost[donor.number] < cost[taker.number]:
            found.append((taker, donor))
    return found


def perturbed(search: Search, values: Mapping[str, Any], random: np.random.Generator) -> Values:
    """Return params near others.

    Args:
        search: says how far (``factor``, ``resample``), and what each may be.
        values: of the donor.
        random: draws.

    Returns:
        Each param multiplied by the factor or divided by it, a choice's neighbour, or now and then a new draw.
    """
    found = {}
    for name, domain in search.domains.items():
        again, up = random.random() < search.resample, random.random() < 0.5
        found[name] = _drawn(domain, random) if again else _moved(domain, values[name], search.factor, up)
    return found


def _moved(domain: Domain, value: Any, factor: float, up: bool) -> Any:
    if domain.kind == "choice":
        known = [list(choice) if isinstance(choice, tuple) else choice for choice in domain.values]
        place = known.index(list(value) if isinstance(value, tuple) else value) + (1 if up else -1)
        return domain.values[min(max(place, 0), len(known) - 1)]
    moved = snapped(domain, value * factor if up else value / factor)
    if moved == value and (step := domain.step or domain.is_whole):  # a small whole number times 1.2 is itself
        moved = snapped(domain, value + (step if up else -step))
    return moved


def _drawn(domain: Domain, random: np.random.Generator) -> Any:
    if domain.kind == "choice":
        return domain.values[int(random.integers(len(domain.values)))]
    low, high = domain.values
    share = random.random()
    return snapped(domain, low * (high / low) ** share if domain.is_logarithmic else low + (high - low) * share)


def snapped(domain: Domain, value: float) -> Any:
    """Return the nearest number that a range has, as it is written in params.yaml."""
    low, high = domain.values
    step = domain.step or (1 if domain.is_whole else None)
    if step is None:
        return rounded(value, low, high)
    most = math.floor((high - low) / step + 1e-9)
    number = low + min(max(round((value - low) / step), 0), most) * step
    return int(number) if domain.is_whole else rounded(number, low, high)


def _random(search: Search, images: int, number: int, stream: int = 0) -> np.random.Generator:
    return np.random.default_rng([search.seed, images, number, stream])


def handover(task: Task, taker: Trial, donor: Trial, images: int) -> Handover:
    """Copy a donor's checkpoint to a taker's new training, with other params, and say so; a copy may be there already.

    Args:
        task: of the search.
        taker: goes on with what is copied.
        donor: is at a rung.
        images: at the rung.

    Returns:
        What the record says of it.

    Raises:
        UserError: the donor's checkpoint is not there whole.
    """
    after = perturbed(task.search, donor.params, _random(task.search, images, taker.number, 1))
    with prepared(task.name, task.with_values(after), out=task.out, scratch=task.scratch) as ready:
        key = member_key(task, taker.number, ready.job.key, images, donor.key)
        source = member_of(task, donor).job(ready.job, task)
        target = Member(key=key, folder=member_folder(task, taker.number, key), begin=images).job(ready.job, task)
        if not source.storage.fetch_checkpoint(images):
            raise UserError(
                f"{source.store}: the checkpoint at {images:,} images is not there whole, from which trial "
                f"{taker.number} was to go on. Remove {task.folder} to search anew."
            )
        content = source.checkpoints.load(images, torch.device("cpu"))
        fresh = State.fresh(
            target.method, ready.dataset.spec, target.run.seed, torch.device("cpu"), freeze=target.run.freeze
        )
        with_settings_of(fresh, content["state"])
        target.storage.save(images, content, Budgets())
    return Handover(taker.number, donor.number, images, dict(taker.params), after, key)


def with_settings_of(fresh: State, saved: dict[str, Any]) -> None:
    """Give a saved state the optimizers' settings of another one, in place.

    Restoring a state restores its optimizers' settings (betas, decay) too: with the donor's, only the learning rate,
    which the loop sets at each step, would be the taker's own.

    Args:
        fresh: has the settings.
        saved: as ``State.state_dict`` gives it, of nets and optimizers of the same shapes.
    """
    for name, optimizer in fresh.optimizers.items():
        new, old = optimizer.state_dict()["param_groups"], saved["optimizers"][name]["param_groups"]
        saved["optimizers"][name]["param_groups"] = [
            {**group, "params": known["params"]} for group, known in zip(new, old, strict=True)
        ]
