"""Couplings: a part of the elements stays, and the numbers of the others are computed from it.

Legend: n samples, c channels, h x w pixels, k numbers per element.
"""

import torch
from torch import Tensor, nn

from pipeline.nets.flow.bijections import Bijection
from pipeline.nets.flow.elements import Element


class Coupling(Bijection):
    """The second half of the channels changes given the first, or (swap) the first given the second."""

    def __init__(self, conditioner: nn.Module, element: Element, *, swap: bool = False) -> None:
        super().__init__()
        self.conditioner, self.element, self.swap = conditioner, element, swap

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given, x = self._halves(x)
        y, logdet = self.element(x, _numbers(self, given))
        return self._joined(given, y), logdet.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        given, y = self._halves(y)
        return self._joined(given, self.element.inverse(y, _numbers(self, given)))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, dim=1)
        return (second, first) if self.swap else (first, second)

    def _joined(self, given: Tensor, other: Tensor) -> Tensor:
        return torch.cat((other, given) if self.swap else (given, other), dim=1)


class Checkerboard(Bijection):
    """The pixels of one colour of a checkerboard change given those of the other (arXiv:1605.08803, figure 3).

    Pixel (0, 0) stays if ``stays`` is 0.
    """

    def __init__(self, conditioner: nn.Module, element: Element, *, stays: int) -> None:
        super().__init__()
        self.conditioner, self.element, self.stays = conditioner, element, stays

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = self._mask(x)
        y, logdet = self.element(x, _numbers(self, x * mask))
        return torch.where(mask, x, y), torch.where(mask, 0.0, logdet).flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        mask = self._mask(y)
        return torch.where(mask, y, self.element.inverse(y, _numbers(self, y * mask)))

    def _mask(self, x: Tensor) -> Tensor:
        """(h, w), true where a pixel stays."""
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        return (rows[:, None] + columns) % 2 == self.stays


def _numbers(coupling: Coupling | Checkerboard, given: Tensor) -> Tensor:
    """(k, n, c, h, w) in the precision of ``given``."""
    raw = coupling.conditioner(given).to(given.dtype)
    return raw.unflatten(1, (-1, coupling.element.numbers)).movedim(2, 0)
