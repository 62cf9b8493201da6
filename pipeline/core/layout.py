"""Memory formats of what belongs together: parameters, their gradients, and their optimizer's moments.

torch's fused optimizers go through the memory of these from one end to the other (on CPUs; torch 2.15). Where one lies
in another order than its parameter, say channels-last beside contiguous, the values meet the wrong weights, and nothing
raises. autograd's own gradients always lie as their parameters do; what is loaded or set by hand may not.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def lies_alike(one: Tensor, other: Tensor) -> bool:
    """Tell whether the elements of two tensors of one shape follow each other in the same order."""
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(size == 1 or step == other_step for size, step, other_step in strides)


@torch.no_grad()
def lay_moments(optimizer: Optimizer) -> None:
    """Bring every tensor of an optimizer's state that has its parameter's shape into the parameter's memory format."""
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and not lies_alike(value, parameter):
                slots[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def check_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raise RuntimeError if a gradient lies otherwise than its parameter: somebody has set it by hand."""
    for name, parameter in parameters:
        if parameter.grad is not None and not lies_alike(parameter.grad, parameter):
            raise RuntimeError(
                f"{name}: its gradient lies in another memory format (strides {parameter.grad.stride()}) than the "
                f"parameter ({parameter.stride()}), and a fused optimizer would apply it to the wrong weights. "
                "Phase.before must change gradients in place, not set others: parameter.grad.copy_(...)"
            )
