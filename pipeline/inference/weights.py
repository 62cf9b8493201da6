"""The published file of a run: weights.safetensors, self-describing, loadable without the run.

Keys are ``nets.<net>.<parameter or buffer>`` and ``ema.<net>.<...>`` for the nets that sampling
needs. The header names the method, its params, the data's spec and the images seen.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline import methods
from pipeline.core.batch import ImageSpec
from pipeline.core.method import Method, Nets
from pipeline.core.state import State
from pipeline.errors import UserError
from pipeline.files import atomic_file

FORMAT = "genloom-weights-1"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A method with trained nets in evaluation mode.

    Attributes:
        method: with its params.
        nets: the moving average where one was kept.
        spec: of the images that it was trained on.
        seen: images seen in training.
        name: of the method.
        params: the method's fields.
        source: the file that they are from, if they are from one.
    """

    method: Method
    nets: Nets
    spec: ImageSpec
    seen: int
    name: str
    params: Mapping[str, Any]
    source: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the nets are."""
        return next((parameter.device for parameter in self.nets.parameters()), torch.device("cpu"))

    @classmethod
    def of(cls, method: Method, state: State, spec: ImageSpec) -> "Trained":
        """Return what a training has learnt so far, without a file.

        Args:
            method: that was trained.
            state: of its training; copied, so the training may go on.
            spec: of the images.

        Returns:
            The averaged nets in evaluation mode.
        """
        nets = copy.deepcopy(state.averaged()).eval()
        name = type(method).__module__.rpartition(".")[2]
        return cls(method=method, nets=nets, spec=spec, seen=state.seen, name=name, params=asdict(method))


def save_weights(
    path: Path, *, name: str, params: Mapping[str, Any], spec: ImageSpec, seen: int, nets: Nets, ema: Nets
) -> None:
    """Write the weights file; it is complete or absent.

    Args:
        path: of the file.
        name: the method's.
        params: the method's fields.
        spec: of the images that it was trained on.
        seen: images seen.
        nets: as they trained.
        ema: moving averages of those that sampling needs.
    """
    about = {"method": name, "params": dict(params), "spec": asdict(spec), "seen": seen}
    save_tensors(path, about, nets.state_dict(), ema.state_dict())


def save_tensors(path: Path, about: Mapping[str, Any], nets: Mapping[str, Tensor], ema: Mapping[str, Tensor]) -> None:
    """Write a file that ``load_tensors`` reads; it is complete or absent.

    Args:
        path: of the file.
        about: what the header says.
        nets: tensors by "<net>.<parameter or buffer>".
        ema: moving averages by the same names.
    """
    tensors = {f"nets.{key}": value for key, value in nets.items()} | {f"ema.{key}": v for key, v in ema.items()}
    with atomic_file(path) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, _header(about))


def load_weights(path: Path, device: torch.device | str = "cpu") -> Trained:
    """Rebuild the nets of a weights file.

    Args:
        path: of the file.
        device: where the nets go.

    Returns:
        The method with the moving average where one was kept, in evaluation mode.

    Raises:
        UserError: the file is damaged, or not of this program.
    """
    about, tensors = _read(path, device)
    method = methods.load(about["method"], **{key: _hashable(value) for key, value in about["params"].items()})
    spec = ImageSpec(**about["spec"])
    nets = method.build(spec).to(device)
    nets.load_state_dict(_prefer_average(tensors))
    known = {"seen": about["seen"], "name": about["method"], "params": about["params"], "source": path}
    return Trained(method=method, nets=nets.eval(), spec=spec, **known)


def method_of(path: Path) -> type[Method]:
    """Return the class of a weights file's method; UserError as for ``load_weights``."""
    return methods.find(_about(path)["method"])


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return the tensors alone, by "<net>.<parameter or buffer>", the moving average where one was kept."""
    return _prefer_average(_read(path, device)[1])


def _read(path: Path, device: torch.device | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with _opened(path, device) as file:
        return _about_in(file, path), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def _about(path: Path) -> dict[str, Any]:
    with _opened(path, "cpu") as file:
        return _about_in(file, path)


def _about_in(file: Any, path: Path) -> dict[str, Any]:
    about: dict[str, Any] | None = json.loads((file.metadata() or {}).get(FORMAT, "null"))
    if about is None:
        raise UserError(f"{path}: not a weights file of this program (no '{FORMAT}' in its header).")
    return about


@contextmanager
def _opened(path: Path, device: torch.device | str) -> Iterator[Any]:
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            yield file
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{path}: not a readable weights file ({error}). Run `dvc repro` to make it.") from error


def _hashable(value: Any) -> Any:
    """Return a tuple for a list: JSON has lists where params have tuples."""
    return tuple(value) if isinstance(value, list) else value


def _header(about: Mapping[str, Any]) -> dict[str, str]:
    # One entry: safetensors writes several in an order that differs from one call to the next.
    return {FORMAT: json.dumps(about, sort_keys=True)}


def _prefer_average(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    chosen = {key.removeprefix("nets."): value for key, value in tensors.items() if key.startswith("nets.")}
    return chosen | {key.removeprefix("ema."): value for key, value in tensors.items() if key.startswith("ema.")}
