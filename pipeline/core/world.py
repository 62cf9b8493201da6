"""The processes that train together, and the only collective operations that training uses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def default_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class World:
    """``size`` processes, of which this is ``rank``; each holds an equal share of every global batch."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def joined(cls, device: torch.device) -> "World":
        """The process group that torch.distributed has set up, or a world of one."""
        if not dist.is_initialized():
            return cls(device=device)
        return cls(rank=dist.get_rank(), size=dist.get_world_size(), device=device)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each float tensor by its mean over the ranks, in place, in one all-reduce per dtype.

        Explicit averaging, not DistributedDataParallel: a submodule called directly, two forwards
        before one backward and a gradient of a gradient all stay right.
        """
        if self.size == 1 or not tensors:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            flat /= self.size
            parts = flat.split([tensor.numel() for tensor in group])
            torch._foreach_copy_(group, [part.view_as(t) for part, t in zip(parts, group, strict=True)])

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks of a tensor that each has; differentiable, twice too.

        The derivative is of the sum of the ranks' losses: ``average`` divides gradients by the world's size.
        """
        return tensor if self.size == 1 else _mean(tensor, self.size)

    def gathered(self, tensor: Tensor) -> Tensor:
        """(size * n, ...): all ranks' tensors of the same shape (n, ...), in the order of the ranks."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def from_first(self, value: int) -> int:
        """Rank 0's number, on every rank: for decisions that all must take alike."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared.item())


class _Mean(torch.autograd.Function):
    """The mean over the ranks is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, size: int) -> Tensor:
        ctx.size = size
        shared = tensor.contiguous().clone()
        dist.all_reduce(shared)
        return shared / size

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _mean(gradients[0], ctx.size), None


def _mean(tensor: Tensor, size: int) -> Tensor:
    result: Tensor = _Mean.apply(tensor, size)
    return result
