"""The precision in which something is computed, whatever that of the training."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a block in which operations keep their inputs' precision.

    The meta device, on which shapes are checked before anything starts, has no autocast to turn off.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
