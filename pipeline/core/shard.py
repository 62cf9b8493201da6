"""Sharding: every rank keeps a share of each parameter, and with it of its gradient, moments and moving average.

A parameter at rest *is* its share, so that optimizers and moving averages need not know. ``Shards.whole`` brings
nets together for a forward and backward pass; gradients are averaged and shared out during the backward pass.

This is not torch's FSDP2 (``fully_shard``), whose hooks belong to a module's forward and backward pass. Tried with
torch 2.15, each net one unit that stays whole from ``unshard()`` to ``reshard()``: double backward comes out right, but
- gradients of a submodule called directly are never reduced, and nothing says so (37 of StyleGAN2's generator's 42);
- "FSDP does not support non-contiguous parameters yet": weights in channels-last memory, all our convolutions;
- "fully_shard doesn't support scalar parameters": BigGAN's gamma, StyleGAN2's strength of noise;
- DTensor has no fused SGD ("aten._fused_sgd_.default does not have a sharding strategy registered").
With reshard_after_forward=True a penalty's second derivative ends at "its data is not allocated yet" (R3GAN).

Legend: r ranks, k elements of a share; r k is a parameter's number of elements, rounded up.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.core.world import World

BUCKET = 2**23  # elements in one collective, or one parameter if that has more: 32 MiB beside the tensors themselves


@dataclass(frozen=True)
class _Layout:
    """How a whole parameter lies in memory; its elements in that order, and zeros, are the ranks' shares in a row."""

    size: torch.Size
    stride: tuple[int, ...]
    ranks: int

    @property
    def share(self) -> int:
        """k."""
        return -(-self.size.numel() // self.ranks)

    def rows(self, whole: Tensor) -> Tensor:
        """A tensor of the parameter's size -> (r, k)."""
        flat = whole.new_zeros(self.ranks * self.share)
        flat.as_strided(self.size, self.stride).copy_(whole)
        return flat.view(self.ranks, self.share)

    def whole(self, rows: Tensor) -> Tensor:
        """(r, k) -> the tensor, alone in memory of r k elements."""
        return rows.clone(memory_format=torch.contiguous_format).as_strided(self.size, self.stride)


class Shards:
    """The shares of ``parameters``, over ``world``; parameters that are not among them are left as they are."""

    def __init__(self, parameters: Iterable[nn.Parameter], world: World) -> None:
        self._world = world
        self._layouts: dict[Tensor, _Layout] = {}
        self._arrived: list[tuple[nn.Parameter, Tensor]] = []  # whole gradients of this rank
        self._elements = 0  # of what has arrived
        self._averaged: list[tuple[nn.Parameter, Tensor]] = []  # shares of the ranks' mean, (k,) each
        for parameter in parameters:
            dense = parameter.data.clone()
            self._layouts[parameter] = _Layout(dense.size(), dense.stride(), world.size)
            if parameter.requires_grad:
                # Called once per backward pass, when all paths have added up, and never by torch.autograd.grad.
                parameter.register_post_accumulate_grad_hook(self._take)
            parameter.data = self.cut(parameter, dense)

    @contextmanager
    def whole(self, nets: Iterable[nn.Module]) -> Iterator[None]:
        """Whole parameters inside the block; after it what they have become is kept, and their gradients' means.

        Collective: all ranks must enter.
        """
        if not self._layouts:
            yield
            return
        held = [p for net in nets for p in net.parameters() if p in self._layouts]
        for bucket in _buckets(held):
            self._gather(bucket)
        try:
            yield
            self._average()
        finally:
            for parameter in held:
                share = self._layouts[parameter].share
                own = parameter.data.as_strided((share,), (1,), self._world.rank * share)
                parameter.data = own.clone()  # the rest is freed
        for parameter, gradient in self._averaged:
            parameter.grad = gradient
        self._averaged = []

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The 2-norm of all gradients together, as the optimizer sees them: averaged, and possibly shares."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if not self._layouts:
            return norm
        square = norm.square()
        dist.all_reduce(square)
        return square.sqrt()

    def joined(self, parameter: Tensor, value: Tensor) -> Tensor:
        """``value``, the share of a tensor of the parameter's size, as that tensor: on the CPU, and only rank 0's.

        Collective. Other ranks get an empty tensor: at no moment does a device hold more than one whole tensor.
        """
        if parameter not in self._layouts:
            return value
        layout = self._layouts[parameter]
        rows = value.new_empty(layout.ranks, layout.share)
        dist.all_gather_into_tensor(rows.view(-1), value)
        return layout.whole(rows.cpu()) if self._world.rank == 0 else torch.empty(0)

    def cut(self, parameter: Tensor, value: Tensor) -> Tensor:
        """This rank's share (k,) of a tensor of the parameter's size, on the parameter's device."""
        if parameter not in self._layouts:
            return value
        return self._layouts[parameter].rows(value)[self._world.rank].to(parameter.device, copy=True)

    def _gather(self, parameters: list[nn.Parameter]) -> None:
        own = torch.cat([parameter.data for parameter in parameters])
        rows = own.new_empty(self._world.size, len(own))
        dist.all_gather_into_tensor(rows.view(-1), own)
        columns = rows.split([parameter.numel() for parameter in parameters], dim=1)
        for parameter, column in zip(parameters, columns, strict=True):
            parameter.data = self._layouts[parameter].whole(column)

    def _take(self, parameter: nn.Parameter) -> None:
        """A gradient is complete: it leaves the parameter for the next bucket."""
        assert parameter.grad is not None
        self._arrived.append((parameter, parameter.grad))
        self._elements += parameter.grad.numel()
        parameter.grad = None
        if self._elements >= BUCKET:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        """Each rank gets its shares of the means of what has arrived; the ranks' gradients arrive in one order."""
        if not self._arrived:
            return
        parameters = [parameter for parameter, _ in self._arrived]
        rows = torch.cat([self._layouts[p].rows(gradient) for p, gradient in self._arrived], dim=1)
        self._arrived, self._elements = [], 0
        own = rows.new_empty(rows.shape[1])
        dist.reduce_scatter_tensor(own, rows.view(-1))
        own /= self._world.size
        shares = own.split([self._layouts[parameter].share for parameter in parameters])
        self._averaged += zip(parameters, shares, strict=True)


UNSHARDED = Shards([], World())
Norm = Callable[[list[Tensor]], Tensor]


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    elements = 0
    for parameter in parameters:
        bucket.append(parameter)
        elements += parameter.numel()
        if elements >= BUCKET:
            yield bucket
            bucket, elements = [], 0
    if bucket:
        yield bucket
