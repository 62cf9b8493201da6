"""One feature extractor per file; the file name is the registry and part of the metric's name."""

import torch

from pipeline import registry
from pipeline.config import Evaluate
from pipeline.evaluate.extractor import Extractor


def names() -> list[str]:
    """List every extractor: the files of this folder."""
    return registry.names(__name__)


def load(name: str, *, weights: str | None = None, device: torch.device | str = "cpu") -> Extractor:
    """Return the extractor of that name, ready to use.

    Args:
        name: the file's name.
        weights: where its weights file lies, for one that is otherwise downloaded.
        device: where it computes.

    Returns:
        The extractor with its weights checked by their hash.

    Raises:
        UserError: an unknown name, or weights that cannot be had or are not the published ones.
    """
    extractor: Extractor = registry.load(__name__, name, "params.yaml: evaluate.extractors").load(
        weights, torch.device(device)
    )
    return extractor


def load_all(settings: Evaluate, device: torch.device | str = "cpu") -> list[Extractor]:
    """Return the extractors that the settings name, in that order; raises as ``load`` does."""
    return [load(name, weights=settings.weights, device=device) for name in settings.extractors]
