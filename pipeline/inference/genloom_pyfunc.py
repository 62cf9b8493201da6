"""Travels inside a logged model, so it imports nothing of this project: mlflow.pyfunc's view of the sampler.

model = mlflow.pyfunc.load_model("models:/<id>")
images = model.predict({"seeds": np.arange(5), "labels": np.zeros(5, dtype=np.int64)})
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class SeedsToImages:
    """seeds (n,), labels (n,), integers, by name (a mapping or a data frame) -> (n, c, h, w) float32 in [-1, 1].

    A model that translates takes images (n, c, h, w) float32 in [-1, 1] instead.
    """

    def __init__(self, path: Path) -> None:
        self._sample = torch.export.load(path).module()

    def predict(self, inputs: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """One image per seed or image; the name and the arguments are MLflow's."""
        if "images" in inputs:
            return np.asarray(self._sample(torch.as_tensor(np.array(inputs["images"], dtype=np.float32))).numpy())
        seeds, labels = (torch.as_tensor(np.array(inputs[name], dtype=np.int64)) for name in ("seeds", "labels"))
        return np.asarray(self._sample(seeds.reshape(-1), labels.reshape(-1)).numpy())


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> SeedsToImages:
    return SeedsToImages(Path(path) / "model.pt2")
