"""What could go wrong with a run is said before anything starts."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from pipeline.config import LAST, PARAMS, Cluster, Data, Run
from pipeline.config.validation import field_names
from pipeline.core import transfer
from pipeline.core.batch import ImageSpec
from pipeline.core.method import TWO_DOMAINS, Method, Nets
from pipeline.core.transfer import LoadReport
from pipeline.data.dataset import Dataset, are_views
from pipeline.errors import UserError, nearest, refuse
from pipeline.inference.weights import load_tensors
from pipeline.ingest import sources
from pipeline.training.rehearsal import build_without_numbers, rehearse
from pipeline.watch import measures, warnings

logger = logging.getLogger(__name__)


def spec_of(data: Data, classes: int) -> ImageSpec:
    """Return the shape that the section data of params.yaml gives images of so many classes."""
    return ImageSpec(channels=sources.find(data.source).channels(data.channels), size=data.size, classes=classes)


def check_data(prefix: str, run: Run, method: Method, dataset: Dataset) -> None:
    """Raise UserError if the data lacks labels or a second domain that the method needs.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        method: its method.
        dataset: the data.

    Raises:
        UserError: with the key and the remedy.
    """
    known = [str(name) for name in dataset.info["classes"]]
    paired = bool(dataset.info.get("paired"))
    check_classes(prefix, run, method, known, channels=dataset.spec.channels, paired=paired)


def check_classes(
    prefix: str, run: Run, method: Method, classes: Sequence[str] | None, *, channels: int | None, paired: bool
) -> None:
    """Raise UserError if a method needs labels or domains that there are not, or gets domains that it does not take.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        method: its method.
        classes: of the data; None: not known yet.
        channels: of its images; None: not known yet.
        paired: whether its two classes are pairs.

    Raises:
        UserError: with the key and the remedy.
    """
    problems = []
    if "labels" in method.needs and classes is not None and len(classes) < 2:
        problems.append(
            f"{prefix}method: {run.method} needs labels, but data.source has {len(classes)} class(es). Choose a source "
            "with classes, or a method without labels."
        )
    problems += [f"{prefix}domains: {problem}" for problem in _domain_problems(run, method, classes, channels, paired)]
    refuse([f"{PARAMS}: {problem}" for problem in problems])


def _domain_problems(
    run: Run, method: Method, classes: Sequence[str] | None, channels: int | None, paired: bool
) -> Iterator[str]:
    """Yield what is wrong with a run's domains: two classes or, where the method takes them, two views."""
    if run.domains is None:
        if method.needs & TWO_DOMAINS:
            example = _example(classes if "other" in method.needs or paired else (), list(method.views))
            yield f"name two {example}: {run.method} translates one to another."
    elif not method.needs & TWO_DOMAINS:
        yield f"leave it out: {run.method} has one domain."
    elif run.domains[0] == run.domains[1]:
        yield f"name two different {'domains' if method.views else 'classes'}, not '{run.domains[0]}' twice."
    elif are_views(run.domains, classes or (), method.views):
        if channels == 1 and "gray" in run.domains:
            yield "the images are gray already (data.channels); take edges."
    elif classes is not None:
        known = [*classes, *(name for name in method.views if name not in classes)]
        strange = [name for name in run.domains if name not in known]
        yield from (f"no class '{name}' in the data. {nearest(name, known)}" for name in strange)
        if not strange and not set(run.domains) <= set(classes):
            yield f"{' and '.join(run.domains)}: name two classes, or two of {', '.join(method.views)}."
        elif "pair" in method.needs and not strange and not paired:
            yield (
                f"the classes {' and '.join(run.domains)} are no pairs, which {run.method} learns from. Bring pairs by "
                f"data.source: paired, or name two of {', '.join(method.views)}."
            )


def _example(classes: Sequence[str] | None, views: Sequence[str]) -> str:
    """Return which two domains there are, as a message says it."""
    some = f"[{', '.join(classes[:2])}]" if classes else ""
    if not views:
        return f"classes of the data{f', for example {some}' if some else ''}"
    return f"domains: {f'the classes {some}, or ' if some else ''}of {', '.join(views)}, for example [edges, images]"


def check_watching(prefix: str, run: Run, method: Method) -> None:
    """Raise UserError if a run keeps the best by a measure, or stops on a warning, that its method does not have.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        method: its method.

    Raises:
        UserError: with the key and the remedy.
    """
    watched = measures.of(method)
    keepable = [name for name, measure in watched.items() if measure.better is not None]
    problems = []
    if run.keep != LAST and run.keep not in watched:
        problems.append(f"keep: {run.method} is not watched by {run.keep}, which needs {_needed(run.keep)}.")
    elif run.keep != LAST and run.keep not in keepable:
        problems.append(f"keep: of {run.keep} neither more nor less is better, so it chooses none.")
    problems = [f"{problem} Take {', '.join([LAST, *keepable])}." for problem in problems]
    kinds = warnings.of(watched)
    problems += [
        f"stop_on: {run.method} is never warned of {kind}. Take of {', '.join(kinds)}, or leave it out."
        for kind in run.stop_on
        if kind not in kinds
    ]
    refuse([f"{PARAMS}: {prefix}{problem}" for problem in problems])


def _needed(measure: str) -> str:
    return " and ".join(f"a {need}" for need in sorted(measures.load(measure).needs))


def check_workers(prefix: str, batch_size: int, cluster: Cluster) -> None:
    """Raise UserError unless every possible number of workers divides a global batch equally.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        batch_size: of the run.
        cluster: says how many workers.

    Raises:
        UserError: the workers' range is empty, or some number leaves a remainder.
    """
    numbers = range(max(cluster.least, 1), max(cluster.most, 1) + 1)
    if not numbers:
        least, most = cluster.least, cluster.most
        raise UserError(f"{PARAMS}: cluster.workers: [{least}, {most}]: the least comes first: [{most}, {least}].")
    uneven = [number for number in numbers if batch_size % number]
    if uneven:
        raise UserError(
            f"{PARAMS}: cluster.workers: {uneven[0]} workers cannot share a batch_size of {batch_size} equally; make "
            f"{prefix}batch_size a multiple of {math.lcm(*numbers)}."
        )


def check_nets(prefix: str, run: Run, method: Method, dataset: Dataset, weights: Path | None, cluster: Cluster) -> None:
    """Go through an iteration's shapes once, so that what does not fit is said before anything starts.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        method: its method.
        dataset: the data.
        weights: what training begins from, if not from scratch; what of it will be loaded is logged.
        cluster: says how many workers.

    Raises:
        UserError: the nets do not fit the data, freeze names nothing, or weights that the method needs are missing.
    """
    nets = rehearsed(prefix, run, method, dataset.spec, cluster)
    account = check_beginning(prefix, run, method, nets, None if weights is None else tensors_of(prefix, run, weights))
    if weights:
        beginning = run.weights or run.init_from
        logger.log(logging.WARNING if account.reshaped else logging.INFO, "%s: %s", beginning, account)


def rehearsed(prefix: str, run: Run, method: Method, spec: ImageSpec, cluster: Cluster) -> Nets:
    """Build a run's nets without numbers and go through an iteration of its training.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        method: its method.
        spec: of the data.
        cluster: says how many workers.

    Returns:
        The nets, on the meta device.

    Raises:
        UserError: the nets do not fit the data or the batch, freeze names nothing, or pretrained weights are not at
            hand.
    """
    alone = 1 if run.sync_batch_norm else max(cluster.most, 1)
    try:
        nets = build_without_numbers(method, spec, run.freeze)
        rehearse(method, nets, spec, samples=max(run.batch_size // alone, 1), images=run.images)
    except ValueError as error:
        raise UserError(f"{PARAMS}: {_with_key(prefix, run, method, str(error))}") from None
    except UserError as error:  # of pretrained nets, which know nothing of params
        raise UserError(f"{PARAMS}: {prefix.removesuffix('.')}: {run.method} needs {error}") from None
    return nets


def check_beginning(
    prefix: str, run: Run, method: Method, nets: Nets, tensors: Mapping[str, Tensor] | None
) -> LoadReport:
    """Compare a run's nets with what they begin from.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        method: its method.
        nets: its nets.
        tensors: what they begin from; None: nothing, from scratch.

    Returns:
        What of it will be loaded.

    Raises:
        UserError: nothing of it fits, or the method needs weights that are not there.
    """
    account = transfer.compare(nets, tensors or {})
    lacking = [key for key in (*account.missing, *account.reshaped) if key.split(".")[0] in method.starts_from]
    key = "weights" if run.weights else "init_from"
    if lacking:
        raise UserError(
            f"{PARAMS}: {prefix}{key}: {run.method} needs trained weights of {', '.join(method.starts_from)}: "
            + (
                "name their run, such as runs/vqvae."
                if tensors is None
                else f"{account}. Give both runs the same sizes."
            )
        )
    if tensors is not None and not account.loaded:
        raise UserError(
            f"{PARAMS}: {prefix}{key}: nothing of {run.weights or run.init_from} fits this run's nets ({account}). "
            "Name weights of the same method and sizes, or begin from scratch."
        )
    return account


def tensors_of(prefix: str, run: Run, weights: Path) -> dict[str, Tensor]:
    """Read the weights that a run begins from.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        weights: the file.

    Returns:
        The tensors, by "<net>.<parameter or buffer>".

    Raises:
        UserError: it is no file of weights; if the run names the file, the remedy is to name another.
    """
    try:
        return load_tensors(weights)
    except UserError as error:
        if run.weights is None:
            raise
        reason = str(error).removeprefix(f"{weights}: ").removesuffix(" Run `dvc repro` to make it.")
        raise UserError(
            f"{PARAMS}: {prefix}weights: {run.weights}: {reason} Name a weights.safetensors, a checkpoint's folder or "
            "an MLflow model (models:/<id>)."
        ) from None


def _with_key(prefix: str, run: Run, method: Method, message: str) -> str:
    key = message.partition(":")[0]
    if key.startswith("data."):
        return f"{message} (for {prefix.removesuffix('.')}, {run.method})."
    if key in field_names(type(method)) or key in field_names(Run):
        return f"{prefix}{message}."
    return f"{prefix.removesuffix('.')}: {message}."
