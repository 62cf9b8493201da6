"""What could go wrong with a search is said before anything starts: its params and values, its size, its resources."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pipeline import methods
from pipeline.config import FIXED, PARAMS, Domain, Params, Run, Search, general_settings
from pipeline.config.validation import field_names
from pipeline.core.batch import Batch
from pipeline.core.method import Method
from pipeline.core.noise import Noise
from pipeline.errors import UserError, gathering, nearest, refuse
from pipeline.evaluate import own_scores
from pipeline.training.checks import check_workers, rehearsed, spec_of
from pipeline.tune.movable import fixed
from pipeline.tune.objective import SECONDS, find
from pipeline.tune.space import grid_size, grid_values, rounded

SOME_CLASSES = 2  # where their number is not known before the download
_WITHIN = 0.382  # of a range: no whole number where only whole ones would do


def check_searches(params: Params) -> None:
    """Check every search of params.yaml; ``check_params`` has found the runs to be right.

    Args:
        params: of the project.

    Raises:
        UserError: everything that is wrong, one line each with file, key and remedy.
    """
    problems: list[str] = []
    for name in params.search:
        with gathering(problems):
            check_search(name, params)
    refuse(problems)


def check_search(name: str, params: Params) -> None:
    """Check the search of one run.

    Args:
        name: the run's.
        params: of the project.

    Raises:
        UserError: everything that is wrong with it.
    """
    search, prefix = params.search[name], f"search.{name}."
    run, own = general_settings(params.runs[name], f"runs.{name}.")
    cls, problems = methods.find(run.method), list[str]()
    known = [field for field in (*field_names(Run), *field_names(cls)) if field not in FIXED]
    strange = [key for key in search.space if key not in known]
    problems += [
        f"{PARAMS}: {prefix}space.{key}: {run.method} has no such param. {nearest(key, known)}" for key in strange
    ]
    if not problems:
        for key, values in _to_try(search.domains):
            with gathering(problems):
                _fits(name, params, key, values)
        if search.scheduler == "pbt" and not problems:
            problems += _immovable(name, params)
        method = methods.configure(run, own, f"runs.{name}.")
        for objective in search.objectives:
            with gathering(problems):
                _check_objective(f"{prefix}objective", objective, run, method, params)
    problems += [f"{PARAMS}: {prefix}{line}" for line in (*_sizes(search, run, name), *_resources(search, params))]
    refuse(problems)


def _to_try(domains: Mapping[str, Domain]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each end of each range, a number within it and each choice, beside what it takes for the param to exist."""
    for name, domain in domains.items():
        values = list(domain.values)
        if domain.kind in ("uniform", "loguniform"):
            low, high = domain.values
            values.append(low + domain.step if domain.step else rounded(low + _WITHIN * (high - low), low, high))
        for value in values:
            yield name, {**_parents(name, domains), name: value}


def _parents(name: str, domains: Mapping[str, Domain]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parent, wanted in domains[name].when.items():
        found |= {**_parents(parent, domains), parent: wanted[0]}
    return found


def _fits(name: str, params: Params, key: str, values: Mapping[str, Any]) -> None:
    """Raise UserError unless a run with these values can be trained."""
    prefix = f"search.{name}.space."
    raw = {known: value for known, value in params.runs[name].items() if not (known == "seeds" and "seed" in values)}
    raw |= {known: list(value) if isinstance(value, tuple) else value for known, value in values.items()}
    try:
        run, own = general_settings(raw, prefix)
        method = methods.configure(run, own, prefix)
        spec = spec_of(params.data, SOME_CLASSES)
        rehearsed(prefix, run, method, spec, params.cluster)
        check_workers(prefix, run.batch_size, params.cluster)
    except UserError as error:
        tried = ", ".join(f"{known}: {value}" for known, value in values.items())
        at = f"{PARAMS}: {prefix}{key}: "
        raise UserError(
            "\nerror: ".join(
                line if line.startswith(at) else f"{at}with {tried}: {line.removeprefix(f'{PARAMS}: ')}"
                for line in error.problems
            )
        ) from None


def _immovable(name: str, params: Params) -> Iterator[str]:
    """Yield which params of a population cannot change in the middle of a training, and why."""
    prefix, domains = f"search.{name}.space.", params.search[name].domains
    tried = dict[str, dict[Any, Method]]()
    for key, values in _to_try(domains):
        raw = {**params.runs[name], key: list(values[key]) if isinstance(values[key], tuple) else values[key]}
        run, own = general_settings({k: v for k, v in raw.items() if k != "seeds"}, prefix)
        tried.setdefault(key, {})[values[key]] = methods.configure(run, own, prefix)
    spec = spec_of(params.data, SOME_CLASSES)
    for key, domain in domains.items():
        if domain.when:
            yield f"{PARAMS}: {prefix}{key}.when: pbt's params must exist in every trial. Leave it out."
        elif why := fixed(key, run, tried[key], spec):
            yield (
                f"{PARAMS}: {prefix}{key}: it {why}, so it cannot change in the middle of a training. Leave it out, or "
                "take another scheduler than pbt."
            )


def _check_objective(key: str, name: str, run: Run, method: Method, params: Params) -> None:
    objective = find(name, params.evaluate, f"{PARAMS}: {key}")
    if objective.metric is None and name != SECONDS and name not in (known := _scores_of(run, method, params)):
        said = f"It has {', '.join(known)}." if known else "It has none; take a metric, such as fid_<extractor>."
        raise UserError(f"{PARAMS}: {key}: {run.method} does not score itself by {name}. {said}")


def _scores_of(run: Run, method: Method, params: Params) -> list[str]:
    """Return the names of the method's own scores, from two images without numbers; all, if that does not work."""
    spec = spec_of(params.data, SOME_CLASSES)
    try:
        with torch.device("meta"), torch.inference_mode():
            images, ids = torch.empty(2, spec.channels, spec.size, spec.size), torch.empty(2, dtype=torch.int64)
            batch = Batch(images=images, labels=ids, noise=Noise(0, ids), other=images)
            return list(method.scores(method.build(spec).eval(), batch))
    except Exception:  # what needs numbers cannot be asked without
        return list(own_scores.METRIC.quantities)


def _sizes(search: Search, run: Run, name: str) -> Iterator[str]:
    """Yield what is wrong with the sizes of trials and grid."""
    if search.trial_images and search.trial_images > run.images:
        yield f"trial_images: more than runs.{name}.images, {run.images}; a trial is a part of that training at most."
    end = search.trial_images or run.images
    if search.rungs and search.rungs[-1] >= end:
        yield f"rungs: the last one, {search.rungs[-1]}, is not before the end of a trial, at {end} images."
    if search.scheduler == "pbt" and search.images and search.images < (search.trials or 0) * end:
        yield f"images: {search.trials} trials of {end} images need {(search.trials or 0) * end}. Raise it."
    if search.searcher != "grid":
        return
    wrong = []
    for key, domain in search.domains.items():
        try:
            grid_values(domain)
        except ValueError as error:
            wrong.append(f"space.{key}: {error}.")
    yield from wrong
    most = min([search.trials or 10**4, *([search.images // end] if search.images else [])])
    if not wrong and (size := grid_size(search.domains, most)) > most:
        limit = "images" if search.images and most < (search.trials or 10**4) else "trials"
        yield (
            f"{limit}: the grid has at least {size} trials, and {most} of them fit into this budget. Raise it, name "
            "fewer points, or take the searcher random, which spreads what it has."
        )


def _resources(search: Search, params: Params) -> Iterator[str]:
    """Yield what can never be met; what only the cluster knows is said when the search starts."""
    cluster, least = params.cluster, max(params.cluster.least, 1)
    if cluster.address is None and search.cpus_per_trial * least > (os.cpu_count() or 1):
        each = f" for each of {least} workers" if least > 1 else ""
        yield (
            f"cpus_per_trial: {search.cpus_per_trial} were asked for{each}, but this machine has {os.cpu_count()}. "
            f"Lower it{' or cluster.workers' if each else ''}, or join a larger cluster with cluster.address."
        )
    if cluster.url is not None and cluster.address is not None:
        yield "space: trials need a folder that all nodes see; name one in cluster.storage in the place of the URL."
