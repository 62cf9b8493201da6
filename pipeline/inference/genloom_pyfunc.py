"""Travels inside a logged model, so it imports nothing of this project: mlflow.pyfunc's view of it, and all it can do.

model = mlflow.pyfunc.load_model("models:/<id>")
images = model.predict({"seeds": np.arange(5), "labels": np.zeros(5, dtype=np.int64)})
latents = model.get_raw_model().encode(images)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Images = NDArray[np.float32]
_SLACK = 1e-3  # a float32 tanh is within this of [-1, 1]


class GenloomModel:
    """A trained method. Images are (n, c, h, w): float in [-1, 1], or integers of 0 to 255, which are converted.

    Labels are integers or names of classes (``class_names``), (n,), or one for all; they may be left out (0) where the
    model is not class-conditional.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._about: dict[str, Any] = json.loads((folder / "about.json").read_text())
        self._loaded: dict[str, Any] = {}

    def get_raw_model(self) -> "GenloomModel":
        """Return this object: what MLflow's model gives by its own get_raw_model()."""
        return self

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by label; empty where the data had none."""
        return list(self._about.get("class_names", ()))

    def predict(self, inputs: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> Images:
        """Sample seeds and labels, or translate images (params: direction); the name and the arguments are MLflow's."""
        if self._about["directions"]:
            return self.translate(_array(inputs["images"]), (params or {}).get("direction"))
        return self.sample(_array(inputs["seeds"]), _array(inputs["labels"]))

    def sample(self, seeds: Any, labels: Any = 0) -> Images:
        """Return an image for each seed, integers (n,)."""
        numbers = _integers("seeds", _array(seeds).reshape(-1))
        if numbers.min(initial=0) < 0:
            raise ValueError(f"seeds must be 0 or more, got {numbers.min()}")
        return self._run("sample", torch.from_numpy(numbers), self._labels(labels, len(numbers))).numpy()

    def translate(self, images: Any, direction: str | None = None) -> Images:
        """Return the images in the other domain; without a direction as in training, from the first to the second."""
        known = self._about["directions"]
        if direction is not None and direction not in known:
            raise ValueError(f"direction must be one of {', '.join(known) or 'none'}, got '{direction}'")
        return self._run(direction or (known or ["translate"])[0], self._images(images)).numpy()

    def encode(self, images: Any, labels: Any = 0) -> dict[str, NDArray[Any]]:
        """Return what the images are encoded to, by name, such as a VAE's mean and log_variance."""
        checked = self._images(images)
        found = self._run("encode", checked, self._labels(labels, len(checked)))
        return {name: values.numpy() for name, values in found.items()}

    def decode(self, encoded: Any, labels: Any = 0) -> Images:
        """Return images from latents (n, ...) or codes, as ``encode`` gives them: a mapping of names or the array."""
        self._check_part("decode")
        about = self._about["decodes"]
        values = _array(encoded[about["name"]] if isinstance(encoded, Mapping) else encoded)
        if list(values.shape[1:]) != about["shape"]:
            wanted = ", ".join(["n", *map(str, about["shape"])])
            raise ValueError(f"{about['name']} must have the shape ({wanted}), got {values.shape}")
        if about["codes"] is not None:
            values = _integers(about["name"], values)
            if values.min(initial=0) < 0 or values.max(initial=0) >= about["codes"]:
                raise ValueError(f"{about['name']} must lie in 0 to {about['codes'] - 1}")
        else:
            values = values.astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError(f"{about['name']} must be finite")
        return self._run("decode", torch.from_numpy(values), self._labels(labels, len(values))).numpy()

    def reconstruct(self, images: Any, labels: Any = 0, direction: str | None = None) -> Images:
        """Encode the images and decode them again; a model that translates does so in a direction, and back."""
        known = self._about["directions"]
        if not known:
            return self.decode(self.encode(images, labels), labels)
        there = direction or known[0]
        back = next((name for name in known if name != there), None)
        if back is None:
            self._check_part("reconstruct")
        return self.translate(self.translate(images, there), back)

    def _images(self, images: Any) -> torch.Tensor:
        values, shape = _array(images), tuple(self._about["images"])
        if values.ndim != 4 or values.shape[1:] != shape:
            wanted = ", ".join(["n", *map(str, shape)])
            raise ValueError(
                f"images must have the shape ({wanted}): number, channels, rows, columns; got {values.shape}"
            )
        if np.issubdtype(values.dtype, np.integer):
            if values.min(initial=0) < 0 or values.max(initial=0) > 255:
                raise ValueError(f"integer images must lie in 0 to 255, got {values.min()} to {values.max()}")
            return torch.from_numpy(values.astype(np.float32) / np.float32(127.5) - np.float32(1))
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(f"images must be float in [-1, 1] or integers of 0 to 255, got {values.dtype}")
        if not (np.abs(values) <= 1 + _SLACK).all():  # NaN too
            found = f"{values.min()} to {values.max()}"
            raise ValueError(
                f"float images must lie in [-1, 1], got {found}; give pixels of 0 to 255 as uint8, or pixel / 127.5 - 1"
            )
        return torch.from_numpy(values.astype(np.float32))

    def _labels(self, labels: Any, count: int) -> torch.Tensor:
        values = _integers("labels", self._numbers(_array(labels)))
        if values.ndim == 0:
            values = np.full(count, values)
        values = values.reshape(-1)
        if len(values) != count:
            raise ValueError(f"labels must be as many as the rest, {count}, or one for all; got {len(values)}")
        classes = self._about["classes"]
        if classes and (values.min(initial=0) < 0 or values.max(initial=0) >= classes):
            raise ValueError(f"labels must lie in 0 to {classes - 1}, got {values.min()} to {values.max()}")
        return torch.from_numpy(values)

    def _numbers(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return labels with names of classes replaced by their numbers."""
        if labels.dtype.kind != "U":
            return labels
        known = self.class_names
        if unknown := sorted(set(labels.ravel().tolist()) - set(known)):
            raise ValueError(f"there is no class {', '.join(map(repr, unknown))}; known: {', '.join(known) or 'none'}")
        return np.array([known.index(name) for name in labels.flat]).reshape(labels.shape)

    def _run(self, part: str, *inputs: torch.Tensor) -> Any:
        self._check_part(part)
        if part not in self._loaded:
            first = part == self._about["parts"][0]
            file = self._folder / ("model.pt2" if first else f"{part}.pt2")
            self._loaded[part] = torch.export.load(file).module()
        with torch.inference_mode():
            return self._loaded[part](*inputs)

    def _check_part(self, part: str) -> None:
        if part not in self._about["parts"]:
            raise ValueError(f"{self._about['method']} cannot {part}; it can {', '.join(self._about['parts'])}")


def _array(values: Any) -> NDArray[Any]:
    """Return an array; MLflow hands over columns of a data frame and arrays of objects too."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    return np.array(array.tolist()) if array.dtype == object else array


def _integers(name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    return values.astype(np.int64)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> GenloomModel:
    return GenloomModel(Path(path))
