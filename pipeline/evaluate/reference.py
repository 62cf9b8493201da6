"""out/reference: statistics of the real images and the protocol by which they were made.

    <extractor>.npz    mean (d,), covariance (d, d) float64, count
    <extractor>.json   protocol: extractor, weights, resize, split, count, data digest; real: the real images' scores

An evaluation against other images or another extractor's weights is refused by that protocol.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.evaluate.metrics.frechet import Statistics


def write_reference(folder: Path, name: str, statistics: Statistics, about: dict[str, Any]) -> None:
    """Into a folder that is being made: the caller makes it whole."""
    np.savez(
        folder / f"{name}.npz",
        mean=statistics.mean.numpy(),
        covariance=statistics.covariance.numpy(),
        count=np.int64(statistics.count),
    )
    (folder / f"{name}.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def read_reference(folder: Path, name: str) -> tuple[Statistics, dict[str, Any]]:
    """The statistics and what is said about them; UserError where they are missing or damaged."""
    try:
        about: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            mean, covariance = torch.from_numpy(file["mean"]), torch.from_numpy(file["covariance"])
            return Statistics(count=int(file["count"]), mean=mean, covariance=covariance), about
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{folder / name}.npz: no readable statistics of the real images ({error}). Run `dvc repro reference`."
        ) from error
