"""One feature extractor per file; the file name is the registry and part of the metric's name.

A file defines ``load(weights, device)``, which returns the Extractor. One whose weights are learnt from the data
defines ``fit(path, dataset, device)`` too, which the stage `extractors` calls; ``weights`` is then the
file that it wrote. Programs of people's own are no files of this folder but of params.yaml: evaluate.path (program.py).
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from pipeline import registry
from pipeline.config import PROGRAM, Evaluate
from pipeline.data.dataset import Dataset
from pipeline.evaluate import program
from pipeline.evaluate.extractor import Extractor, cached
from pipeline.evaluate.prepared import fitted, read_hashes


def names() -> list[str]:
    """List every extractor: the files of this folder."""
    return registry.names(__name__)


def load(name: str, *, weights: str | None = None, device: torch.device | str = "cpu") -> Extractor:
    """Return the extractor of that name, ready to use.

    Args:
        name: the file's name.
        weights: where its weights file lies, for one that is otherwise downloaded, or is learnt from data.
        device: where it computes.

    Returns:
        The extractor with its weights checked by their hash.

    Raises:
        UserError: an unknown name, or weights that cannot be had or are not the published ones.
    """
    extractor: Extractor = _module(name).load(weights, torch.device(device))
    return extractor


def load_all(settings: Evaluate, prepared: Path, device: torch.device | str = "cpu") -> list[Extractor]:
    """Return the extractors that the settings name, in that order; each as ``load_one`` does."""
    return [load_one(name, settings, prepared, device) for name in settings.extractors]


def load_one(name: str, settings: Evaluate, prepared: Path, device: torch.device | str = "cpu") -> Extractor:
    """Return one extractor of the settings.

    Args:
        name: as in ``settings.extractors``.
        settings: say where weights and programs lie.
        prepared: out/extractors, which the stage `extractors` wrote; only an extractor that needs it reads it.
        device: where it computes.

    Returns:
        The extractor.

    Raises:
        UserError: as ``load``; a program is missing, or another one than was prepared.
    """
    if name.endswith(PROGRAM):
        return program.load(Path(settings.path, name), read_hashes(prepared).get(name, ""), torch.device(device))
    return load(name, weights=str(fitted(prepared, name)) if fitting(name) else settings.weights, device=device)


def fitting(name: str) -> Callable[[Path, Dataset, torch.device], None] | None:
    """Return the function by which an extractor learns from the data; None where its weights are fixed."""
    found: Callable[[Path, Dataset, torch.device], None] | None = getattr(_module(name), "fit", None)
    return found


def downloaded(name: str) -> Path | None:
    """Return the file of an extractor's published weights, where they are in torch.hub's cache."""
    url: str | None = None if name.endswith(PROGRAM) else getattr(_module(name), "URL", None)
    return cached(url) if url and cached(url).is_file() else None


def _module(name: str) -> ModuleType:
    return registry.load(__name__, name, "params.yaml: evaluate.extractors")
