"""One feature extractor per file; the file name is the registry and part of the metric's name."""

import importlib
from pathlib import Path

import torch

from pipeline.errors import UserError, nearest
from pipeline.evaluate.extractor import Extractor


def names() -> list[str]:
    """Every extractor: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load(name: str, *, weights: str | None = None, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name. weights: where its file lies, for one that is otherwise downloaded.

    Raises UserError for an unknown name and for weights that can't be had or aren't the published ones.
    """
    if name not in names():
        raise UserError(f"params.yaml: evaluate.extractors: there is no extractor '{name}'. {nearest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    extractor: Extractor = module.load(weights, torch.device(device))
    return extractor
