"""The processes that train together, and the only collective operations that training uses."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Elements in one all-reduce while more follow: 1 MiB of float32, or an eighth of all if that is more. Smaller buckets
# leave earlier, but each has its latency.
BUCKET, PARTS = 2**18, 8


def default_device() -> torch.device:
    """Return the first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class World:
    """``size`` processes, of which this is ``rank``; each has an equal shard of every global batch.

    All methods but ``current`` are collective operations: every rank must call them, in the same order. In a world of
    one they do nothing.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def current(cls, device: torch.device) -> "World":
        """Return the process group that torch.distributed has set up, or a world of one."""
        if not dist.is_initialized():
            return cls(device=device)
        return cls(rank=dist.get_rank(), size=dist.get_world_size(), device=device)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float tensor by its mean over the ranks, in place, in one all-reduce per dtype, and wait for it.

        Explicit averaging, not DistributedDataParallel: a submodule called directly, two forwards
        before one backward and a gradient of a gradient all stay right.
        """
        if self.size == 1:
            return
        buckets = _Buckets(self.size)
        for tensor in sorted(tensors, key=lambda tensor: str(tensor.dtype)):
            buckets.add(tensor)
        buckets.finish()

    @contextmanager
    def averaging(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Average the gradients of the one backward pass inside the block over the ranks.

        A bucket is sent as soon as its gradients are complete, while the pass goes on with others (Li et al., "PyTorch
        Distributed", VLDB 2020, arXiv:2006.15704, section 3.2). Ranks must run the same graph. The end of the block
        waits for all buckets.
        """
        if self.size == 1:
            yield
            return
        parameters = list(parameters)
        buckets = _Buckets(self.size, max(BUCKET, sum(parameter.numel() for parameter in parameters) // PARTS))
        # Called once per backward pass, when all paths have added up, and never by torch.autograd.grad.
        hooks = [parameter.register_post_accumulate_grad_hook(buckets.add_gradient) for parameter in parameters]
        try:
            yield
            buckets.finish()
        finally:
            for hook in hooks:
                hook.remove()

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the ranks of a tensor of the same shape on each; differentiable twice.

        The derivative is of the sum of the ranks' losses: ``average`` divides gradients by the world's size.
        """
        return tensor if self.size == 1 else _mean(tensor, self.size)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return (size * n, ...): all ranks' tensors, of the same shape (n, ...) on each, in the order of the ranks."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def broadcast(self, value: int) -> int:
        """Return rank 0's number on every rank, for decisions that all must share. Synchronizes the device."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared.item())

    def all_true(self, value: bool) -> bool:
        """Return True if ``value`` is true on every rank. Synchronizes the device."""
        mean = torch.tensor(float(value), device=self.device)
        self.average([mean])
        return mean.item() == 1.0


class _Buckets:
    """Tensors on their way to their means over ``size`` ranks; sent when ``full`` elements wait, or at the end."""

    def __init__(self, size: int, full: float = math.inf) -> None:
        self._size, self._full = size, full
        self._waiting: list[Tensor] = []
        self._elements = 0  # of what waits
        self._sent: list[tuple[dist.Work, Tensor, list[Tensor]]] = []

    def add_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None  # called after it was accumulated
        self.add(parameter.grad)

    def add(self, tensor: Tensor) -> None:
        if self._waiting and self._waiting[0].dtype != tensor.dtype:
            self._send()
        self._waiting.append(tensor)
        self._elements += tensor.numel()
        if self._elements >= self._full:
            self._send()

    @torch.no_grad()
    def finish(self) -> None:
        """Wait for all, and write the means into the tensors."""
        self._send()
        for work, flat, tensors in self._sent:
            work.wait()
            flat /= self._size
            parts = flat.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def _send(self) -> None:
        if self._waiting:
            flat = torch.cat([tensor.reshape(-1) for tensor in self._waiting])
            work = dist.all_reduce(flat, async_op=True)
            assert work is not None
            self._sent.append((work, flat, self._waiting))
            self._waiting, self._elements = [], 0


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
