"""Starting from other weights: tensors are loaded by name, and parameters can be frozen.

Freezing the critic's first layers is FreezeD (Mo, Cho, Shin, arXiv:2002.10964).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pipeline.core.method import Nets, Phase


@dataclass(frozen=True)
class LoadReport:
    """Which tensors were loaded, each as "<net>.<parameter or buffer>".

    Attributes:
        loaded: names whose shapes match.
        reshaped: names in the file whose shapes differ.
        missing: names that the file lacks.
        unused: names in the file that the nets lack.
    """

    loaded: tuple[str, ...]
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one sentence that names the tensors that were not loaded."""
        total = len(self.loaded) + len(self.reshaped) + len(self.missing)
        parts = [f"{len(self.loaded)} of {total} tensors were loaded"]
        for names, what in ((self.reshaped, "of another shape"), (self.missing, "missing"), (self.unused, "not used")):
            if names:
                parts.append(f"{len(names)} {what} ({_abridged(names)})")
        return "; ".join(parts)


def compare(nets: Nets, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Report what ``load`` would do, without doing it."""
    own = nets.state_dict()
    common = [name for name in own if name in tensors]
    return LoadReport(
        loaded=tuple(name for name in common if own[name].shape == tensors[name].shape),
        reshaped=tuple(name for name in common if own[name].shape != tensors[name].shape),
        missing=tuple(name for name in own if name not in tensors),
        unused=tuple(name for name in tensors if name not in own),
    )


@torch.no_grad()
def load(nets: Nets, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Copy each tensor whose name and shape match into the nets, in place, and report on all."""
    report, own = compare(nets, tensors), nets.state_dict()
    for name in report.loaded:
        own[name].copy_(tensors[name])
    return report


def is_frozen(name: str, freeze: Sequence[str]) -> bool:
    """Tell whether a pattern matches the parameter, or a net or module that holds it ("critic", "critic.layers.0")."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in freeze)


def trainable_parameters(nets: Nets, phases: Sequence[Phase], freeze: Sequence[str]) -> dict[str, list[nn.Parameter]]:
    """Return each phase's parameters in a fixed order, without the frozen ones.

    Args:
        nets: all nets of a method.
        phases: the method's phases.
        freeze: patterns (fnmatch) of nets, modules or parameters that stay fixed.

    Returns:
        Parameters by the phase's name.

    Raises:
        ValueError: if a pattern matches nothing or a phase has nothing left to train.
    """
    names = [name for name, _ in nets.named_parameters()]
    for pattern in freeze:
        if not any(is_frozen(name, [pattern]) for name in names):
            raise ValueError(f"freeze: '{pattern}' names no parameter; the nets are {', '.join(nets)}")
    found = {}
    for phase in phases:
        named = [(f"{net}.{name}", p) for net in phase.trains for name, p in nets[net].named_parameters()]
        found[phase.name] = [parameter for name, parameter in named if not is_frozen(name, freeze)]
        if not found[phase.name]:
            raise ValueError(f"freeze: nothing is left to train in the phase '{phase.name}'")
    return found


def freeze_statistics(nets: Nets, freeze: Sequence[str]) -> None:
    """Put fully frozen modules into eval mode so that their running statistics stay fixed."""
    for name, module in nets.named_modules():
        inside = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
        if name and inside and all(is_frozen(parameter, freeze) for parameter in inside):
            module.eval()


def _abridged(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
