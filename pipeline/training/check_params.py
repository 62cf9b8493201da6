"""All that params.yaml decides by itself, checked before anything is downloaded or trained."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from torch import Tensor

from pipeline import methods
from pipeline.config import PARAMS, SCRATCH, Cluster, Data, Evaluate, Params, Run, general_settings, is_in_mlflow, parse
from pipeline.config.validation import field_names, shown
from pipeline.core.method import Method, Nets
from pipeline.errors import UserError, gathering, refuse
from pipeline.evaluate.extractors import classifier
from pipeline.evaluate.prepared import missing_files
from pipeline.files import project_root
from pipeline.ingest import sources
from pipeline.ingest.listing import is_url, listed_before, local
from pipeline.ingest.patterns import split_pattern
from pipeline.ingest.source import check_chosen
from pipeline.tracking.target import resolve
from pipeline.training.checks import (
    check_beginning,
    check_classes,
    check_watching,
    check_workers,
    rehearsed,
    spec_of,
    tensors_of,
)
from pipeline.training.initial import no_such_weights, state_file
from pipeline.training.processor import slow_in_bf16

_log = logging.getLogger(__name__)

SOME_CLASSES = 2  # where their number is not known before the download


def check_params() -> Params:
    """Check params.yaml: its sections, the files that it names, and a rehearsal of every run.

    Returns:
        The params.

    Raises:
        UserError: everything that is wrong, one line each with file, key and remedy.
    """
    sections, problems = parse(PARAMS)
    problems += _missing(Path("dvc.yaml"))
    for name, check in _CHECKS.items():
        if name in sections:
            with gathering(problems):
                check(sections[name])
    if "runs" in sections:
        problems += _problems_of_runs(sections)
    if {"data", "evaluate"} <= sections.keys() and classifier.NAME in sections["evaluate"].extractors:
        classes = _foreseen(sections["data"])
        if classes is not None and len(classes) < 2:
            problems.append(f"{PARAMS}: {classifier.no_classes(len(classes))}")
    refuse(problems)
    params = Params(**sections)
    in_bf16 = [name for name, raw in params.runs.items() if raw.get("precision") == "bf16"]
    if line := slow_in_bf16(in_bf16, params.cluster):
        _log.warning(line)
    return params


def _missing(pipeline: Path) -> Iterator[str]:
    """Yield a line for each param that DVC compares and the file lacks: DVC stops there, whatever the default."""
    if not pipeline.exists():  # whoever calls stages by themselves needs no DVC
        return
    stages = [stage.get("do", stage) for stage in yaml.safe_load(pipeline.read_text())["stages"].values()]
    compared = dict.fromkeys(str(param) for stage in stages for param in stage.get("params", ()))
    raw, kinds = yaml.safe_load(PARAMS.read_text()), get_type_hints(Params)
    for param in compared:
        section, _, key = param.partition(".")
        if not key or "$" in key or not isinstance(raw.get(section), dict) or key in raw[section]:
            continue
        one = next(one for one in fields(kinds[section]) if one.name == key)
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if default is not MISSING:  # else it is said already
            yield (
                f"{PARAMS}: {param}: missing. DVC compares it and would stop without it: add the default to {section}, "
                f"the line `{key}: {shown(default)}`."
            )


def _check_data(data: Data) -> None:
    source = sources.find(data.source)
    places = {path: split_pattern(source.address(path))[0] for path in data.paths}
    missing = [
        path
        for path, begin in places.items()
        if not is_url(begin) and not any(local(some, project_root()).exists() for some in (path, begin))
    ]
    # In a clone after `dvc pull` the images themselves are not at hand.
    if source.own and missing and not listed_before(Path("out/raw"), map(source.address, data.paths)):
        raise UserError(f"{PARAMS}: data.path: there is no '{missing[0]}'. Name a folder or an archive of images.")
    if data.mirror and "://" not in data.mirror and not Path(project_root(), data.mirror).is_dir():
        raise UserError(f"{PARAMS}: data.mirror: '{data.mirror}' is no directory. Name one, a URL prefix, or null.")
    if data.chosen_classes and (known := _before_choice(data)):
        check_chosen(data.chosen_classes, known)


def _check_evaluate(settings: Evaluate) -> None:
    if settings.weights and not Path(settings.weights).is_file():
        raise UserError(
            f"{PARAMS}: evaluate.weights: there is no file '{settings.weights}'. Name the extractor's weights file, or "
            "null to have it downloaded."
        )
    refuse([f"{PARAMS}: {problem}" for problem in missing_files(Path(settings.path), settings.files)])


def _check_cluster(cluster: Cluster) -> None:
    import fsspec

    folder = Path(project_root(), cluster.scratch)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{PARAMS}: cluster.storage: '{cluster.storage}' is a file. Name a folder, or a URL.")
    try:
        if cluster.url is not None:
            fsspec.get_filesystem_class(cluster.url.partition("://")[0].partition("::")[0])
    except (ValueError, ImportError) as error:
        raise UserError(
            f"{PARAMS}: cluster.storage: cannot open {cluster.url} ({error}). Correct the address, or install the "
            "package that fsspec needs for it."
        ) from None


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "data": _check_data,
    "evaluate": _check_evaluate,
    "cluster": _check_cluster,
    "tracking": resolve,
}


@dataclass(frozen=True)
class _Checked:
    """A run whose own settings are right."""

    prefix: str
    run: Run
    method: Method


def _problems_of_runs(sections: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    runs: dict[str, _Checked] = {}
    for name, raw in sections["runs"].items():
        with gathering(problems):
            runs[name] = _configured(f"runs.{name}.", raw)
    data, cluster = sections.get("data"), sections.get("cluster", Cluster())
    classes = _classes(data, [one.method for one in runs.values()]) if data else None
    nets: dict[str, Nets] = {}
    for name, one in runs.items():
        with gathering(problems):
            check_workers(one.prefix, one.run.batch_size, cluster)
        with gathering(problems):
            check_watching(one.prefix, one.run, one.method)
        with gathering(problems):
            number = SOME_CLASSES if classes is None else len(classes)
            spec, paired = (spec_of(data, number), _has_pairs(data)) if data else (None, False)
            channels = spec.channels if spec else None
            check_classes(one.prefix, one.run, one.method, classes, channels=channels, paired=paired)
            if spec:
                nets[name] = rehearsed(one.prefix, one.run, one.method, spec, cluster)
    for name, own in nets.items():
        with gathering(problems):
            _check_weights(runs[name], own, nets)
    return problems


def _has_pairs(data: Data) -> bool:
    """Tell whether the data are pairs: of one of their two classes alone the images have no partners."""
    return sources.find(data.source).paired and (data.chosen_classes is None or len(data.chosen_classes) == 2)


def _configured(prefix: str, raw: dict[str, Any]) -> _Checked:
    """Return a run and its method; what is wrong with the settings of both is raised at once."""
    method, problems = raw.get("method"), list[str]()
    own = {key: value for key, value in raw.items() if key not in field_names(Run)}
    run = made = None
    with gathering(problems):
        run, own = general_settings(raw, prefix)
    if isinstance(method, str):
        with gathering(problems):
            made = methods.configure(run or Run(method=method), own, prefix)
    refuse(problems)
    assert run is not None and made is not None, "without them there was a problem"
    return _Checked(prefix, run, made)


def _classes(data: Data, chosen: Sequence[Method]) -> Sequence[str] | None:
    """Return the names of the classes, if a method asks for them and they are known before the download."""
    return _foreseen(data) if any(method.needs for method in chosen) else None


def _foreseen(data: Data) -> Sequence[str] | None:
    """Return the names of the classes that are taken, if they are known before the download."""
    return data.chosen_classes or _before_choice(data)


def _before_choice(data: Data) -> Sequence[str] | None:
    """Return the names of all the source's classes if they are known before the download."""
    try:
        origin = sources.origin_of(data, project_root(), project_root() / Cluster().scratch)
        return sources.find(data.source).foreseen_classes(origin)
    except (UserError, OSError):  # said where the data are read
        return None


def _check_weights(one: _Checked, own: Nets, nets: Mapping[str, Nets]) -> None:
    """Compare what a run begins from with its nets, as far as that is known before anything is trained."""
    run, file = one.run, Path(one.run.weights or "")
    tensors: Mapping[str, Tensor] | None = None
    if run.init_from != SCRATCH:
        before = nets.get(run.init_from.removeprefix("runs/"))
        if before is None:  # it is wrong itself
            return
        tensors = before.state_dict()
    elif run.weights is not None:
        if is_in_mlflow(run.weights) or state_file(file):
            return
        if not file.is_file():
            raise no_such_weights(one.prefix, run.weights)
        tensors = tensors_of(one.prefix, run, file)
    check_beginning(one.prefix, run, one.method, own, tensors)
