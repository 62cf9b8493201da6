"""What could go wrong with a run is said before anything starts."""

import logging
from pathlib import Path

from pipeline.config import Run
from pipeline.core import transfer
from pipeline.core.method import Method
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError, nearest
from pipeline.inference.weights import load_tensors

logger = logging.getLogger(__name__)


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
    classes = [str(name) for name in dataset.info["classes"]]
    if "labels" in method.needs and len(classes) < 2:
        raise UserError(
            f"params.yaml: {prefix}method: {run.method} needs labels, but data.source has {len(classes)} class(es). "
            "Choose a source with classes, or a method without labels."
        )
    if ("other" in method.needs) != (run.domains is not None):
        raise UserError(
            f"params.yaml: {prefix}domains: "
            + ("name two classes of the data, for example" if run.domains is None else "leave it out:")
            + (f" [{', '.join(classes[:2])}]." if run.domains is None else f" {run.method} has one domain.")
        )
    for name in run.domains or ():
        if name not in classes:
            raise UserError(f"params.yaml: {prefix}domains: no class '{name}' in the data. {nearest(name, classes)}")


def check_nets(prefix: str, run: Run, method: Method, dataset: Dataset, weights: Path | None) -> None:
    """Build the nets once, so that a shape that does not fit is said before anything starts.

    Args:
        prefix: of the run's keys, such as "runs.dcgan.".
        run: its settings.
        method: its method.
        dataset: the data.
        weights: what training begins from, if not from scratch; what of it will be loaded is logged.

    Raises:
        UserError: the nets do not fit the data, freeze names nothing, or weights that the method needs are missing.
    """
    try:
        nets = method.build(dataset.spec)
        transfer.trainable_parameters(nets, method.phases(), run.freeze)
    except ValueError as error:
        raise UserError(f"params.yaml: {prefix.removesuffix('.')}: {error}") from None
    account = transfer.compare(nets, load_tensors(weights) if weights else {})
    lacking = [key for key in (*account.missing, *account.reshaped) if key.split(".")[0] in method.starts_from]
    if lacking:
        raise UserError(
            f"params.yaml: {prefix}init_from: {run.method} needs trained weights of {', '.join(method.starts_from)}: "
            + (f"{account}. Give both runs the same sizes." if weights else "name their run, such as runs/vqvae.")
        )
    if weights:
        beginning = run.weights or run.init_from
        if not account.loaded:
            key = "weights" if run.weights else "init_from"
            raise UserError(
                f"params.yaml: {prefix}{key}: nothing of {beginning} fits this run's nets ({account}). Name weights of "
                "the same method and sizes, or begin from scratch."
            )
        logger.log(logging.WARNING if account.reshaped else logging.INFO, "%s: %s", beginning, account)
