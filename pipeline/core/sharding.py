"""Optimizer state sharded over the ranks by torch's ``ZeroRedundancyOptimizer``.

This is stage 1 of ZeRO (Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models",
arXiv:1910.02054): each rank keeps the moments of some parameters, steps those, and broadcasts the result. Weights,
gradients and moving averages stay whole on every rank. A parameter's step does not depend on which others are stepped
with it, so weights and checkpoints are bit-equal to those of unsharded training.

Why not torch's ``fully_shard``, which would shard the weights too (tried with torch 2.15, two gloo ranks): a gradient
penalty differentiates a gradient, and its hooks belong to one forward and one backward pass.

- With its defaults, scores and a penalty in one loss raise "setStorage", with blocks or with the whole net as a unit.
- With ``set_reshard_after_backward(False)`` and blocks as units, the gradients are right if the scores come first; if
  the penalty comes first, the last block's weight gets no gradient, and nothing raises.
- With the whole net as one unit that is resharded by hand they are right, but then a submodule that is called directly
  never reduces its gradients (37 of 42 in StyleGAN2's generator), and it refuses weights in channels-last memory
  (all our convolutions) and scalar parameters; DTensor has no fused SGD.

``parameters_as_bucket_view`` stays off: it flattens parameters in contiguous order and so undoes channels-last memory.
"""

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from torch import nn
from torch.optim import Optimizer

from pipeline.core.layout import lay_moments

if TYPE_CHECKING:
    from torch.distributed.optim import ZeroRedundancyOptimizer


def shard(
    make: Callable[[Iterable[nn.Parameter]], Optimizer], parameters: Iterable[nn.Parameter]
) -> "ZeroRedundancyOptimizer":
    """Make an optimizer of which each rank keeps the state of some of the parameters.

    Its ``step`` is a collective operation. torch deals out whole tensors, the largest first, each to the rank that has
    least so far: a rank holds 1 / ranks of the state only as far as the sizes allow.

    Args:
        make: makes the optimizer of the parameters that it is given.
        parameters: what all ranks together step, in the same order on each.

    Returns:
        The optimizer; its ``param_groups`` name all parameters, and its ``optim`` holds this rank's shard.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer  # brings FSDP and the compiler along: a second

    # Annotated as a class, but called like any function: on this rank's parameter groups, and without settings.
    return ZeroRedundancyOptimizer(parameters, optimizer_class=cast(type[Optimizer], make))


def gather_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's whole state, the same whether it is sharded or not.

    Collective if the optimizer is sharded; then rank 0 gets the state, on the CPU, and all others an empty dictionary.
    While it runs, the other ranks' devices hold a serialized shard besides their own.
    """
    if not _is_sharded(optimizer):
        return optimizer.state_dict()
    optimizer.consolidate_state_dict(to=0)
    state = optimizer.state_dict() if optimizer.rank == 0 else {}
    # torch would keep the whole state on rank 0 until the next checkpoint, and has no public way to let go of it.
    optimizer._all_state_dicts = []  # type: ignore[attr-defined]
    return state


def load_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load a whole state, as ``gather_state`` returned it; each rank keeps its shard. Not collective."""
    if not _is_sharded(optimizer):
        optimizer.load_state_dict(saved)
        lay_moments(optimizer)
        return
    shared = saved | {"state": dict(saved["state"])}  # torch empties other ranks' entries of what it is given
    optimizer.load_state_dict(shared)
    optimizer.state.clear()  # a second copy of the shard, which nothing reads
    # torch 2.15 leaves step counters on the CPU, where a GPU's fused kernels cannot read them; the plain optimizer of
    # this rank's shard puts them where it wants them.
    optimizer.optim.load_state_dict(optimizer.optim.state_dict())
    lay_moments(optimizer.optim)


def _is_sharded(optimizer: Optimizer) -> "TypeGuard[ZeroRedundancyOptimizer]":
    """Tell a sharded optimizer without importing its class, which has been imported if there is one."""
    module = sys.modules.get("torch.distributed.optim")
    return module is not None and isinstance(optimizer, module.ZeroRedundancyOptimizer)
