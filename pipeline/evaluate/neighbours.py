"""Nearest neighbours and balls among features: as float64 decides, at the speed of bfloat16, in bounded memory.

All squared distances of a block of rows are estimated by one matrix product in a short format, of which both errors are
known: each row's rounding, which the triangle inequality carries over to a distance, and the product's own. Only pairs
that these leave undecided are computed in float64. So no answer depends on the format, which is the processor's.

A point on a ball's rim lies in the ball, as the papers define it: what differs by no more than float64's own error
does. Shapes: n, m points of d dimensions; squared distances are float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_ELEMENTS = 2**23  # of a block of distances
_PAIRS = 64  # whose differences are formed at once
_SHARE = 64  # of a block's pairs, one in so many is computed one by one at most
PARTS = 40  # of the points, to say from which of them a number comes
RIM = 2.0**-40  # of both squared norms; the matrix product in float64 errs by less


@dataclass(frozen=True, kw_only=True)
class Points:
    """Features with what an estimate of their distances needs.

    Attributes:
        rough: (n, d), short, without the centre.
        norms: (n,) squared, of rough.
        off: (n,): at most, of a row of rough, from the features.
        exact: (n, d) as given.
        centre: (d,), which is subtracted everywhere.
    """

    rough: Tensor
    norms: Tensor
    off: Tensor
    exact: Tensor
    centre: Tensor

    @classmethod
    def of(cls, features: Tensor, centre: Tensor | None = None) -> "Points":
        """Round features.

        Args:
            features: (n, d) float32, finite.
            centre: (d,) float64; of two sets that are compared it is the same; None: their mean.

        Returns:
            The points.
        """
        middle = features.mean(0, dtype=torch.float64) if centre is None else centre
        short = _short_format()
        rough = torch.empty_like(features, dtype=short)
        norms, off = (torch.empty(len(features), dtype=torch.float64) for _ in range(2))
        for rows in _slices(len(features), 256):
            centred = features[rows].double() - middle
            rough[rows] = centred.to(short)
            rounded = rough[rows].double()
            norms[rows] = torch.linalg.vecdot(rounded, rounded)
            off[rows] = (rounded - centred).norm(dim=1)
        return cls(rough=rough, norms=norms, off=off, exact=features, centre=middle)

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def product_error(self) -> float:
        """Return by how much an estimate errs at most, as a share of both squared norms: sums in float32 in any order,
        whose results are then rounded to the short format."""
        return (self.rough.shape[1] + 16) * 2.0**-24 * 1.1 + torch.finfo(self.rough.dtype).eps / 2


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How two sets, a of n points and b of m, lie in each other's balls, by radius: k or l columns.

    Attributes:
        held_by_a: (n, k) int64: how many points of b lie in each ball of a.
        holding_b: (m, k) int64: in how many balls of a each point of b lies.
        held_by_b: (m, l) int64: how many points of a lie in each ball of b.
        holding_a: (n, l) int64: in how many balls of b each point of a lies.
        reached: (n, PARTS, k) bool: whether each ball of a holds a point of each of so many parts of b, of equal
            extent and in order.
    """

    held_by_a: Tensor
    holding_b: Tensor
    held_by_b: Tensor
    holding_a: Tensor
    reached: Tensor


def nearest(points: Points, count: int, among: Points | None = None) -> tuple[Tensor, Tensor]:
    """Find each point's nearest others.

    Args:
        points: n of them.
        count: how many others, fewer than there are points.
        among: m >= count of the same centre, which are looked at; None: the points but the point itself.

    Returns:
        (n, count) squared distances, ascending, and (n, count) int64, which ones they are; a copy of a point is
        another point at distance 0.
    """
    others = points if among is None else among
    wanted = count + (among is None)  # the nearest is the point itself
    found, c = torch.empty(len(points), count, dtype=torch.float64), points.product_error
    which = torch.empty(len(points), count, dtype=torch.int64)
    for rows in _blocks(len(points), len(others)):
        products = _products(points, others, rows)
        # The wanted-th smallest of upper bounds is one of the wanted-th distance. Minima over groups of columns are
        # looked at, as sorting rows would take longer than the products.
        groups = min(len(others), max(256, wanted))
        upper = products + (1 + c) * others.norms.float()
        upper = upper[:, : len(others) // groups * groups].unflatten(1, (-1, groups)).amin(1)
        reach = upper.topk(wanted, largest=False).values[:, -1].double() + (1 + c) * points.norms[rows]
        # In float32 the sum of the three may be too small by rounding.
        reach += 2**-20 * (points.norms[rows] + others.norms.max())
        # What is far by the rounded points may be near by the features, and the other way.
        radii = points.off[rows] + others.off.max() + reach.clamp_min(0).sqrt()
        pairs = _candidates(points, others, rows, products, radii[:, None])
        if len(pairs) > _few(products):
            whole = _whole(points, others, rows)
            if among is None:
                whole[torch.arange(len(whole)), torch.arange(rows.start, rows.stop)] = torch.inf
            found[rows], which[rows] = whole.topk(count, largest=False)
            continue
        if among is None:
            pairs = pairs[pairs[:, 0] + rows.start != pairs[:, 1]]
        found[rows], which[rows] = _smallest(pairs, _squared(points, others, rows, pairs), len(products), count)
    return found, which


def overlap(a: Points, b: Points, a_radii: Tensor, b_radii: Tensor) -> Overlap:
    """Count which points lie in which balls; rims included.

    Args:
        a: n points.
        b: m points of the same centre.
        a_radii: (n, k) squared, ascending in each row.
        b_radii: (m, l) squared, ascending in each row.

    Returns:
        The counts, of one pass over all pairs.
    """
    found = Overlap(
        held_by_a=torch.zeros(a_radii.shape, dtype=torch.int64),
        holding_b=torch.zeros(len(b), a_radii.shape[1], dtype=torch.int64),
        held_by_b=torch.zeros(b_radii.shape, dtype=torch.int64),
        holding_a=torch.zeros(len(a), b_radii.shape[1], dtype=torch.int64),
        reached=torch.zeros(len(a), PARTS, a_radii.shape[1], dtype=torch.bool),
    )
    part = torch.arange(len(b)) * PARTS // len(b)
    for rows in _blocks(len(a), len(b)):
        products = _products(a, b, rows)
        row, column, held = _held(a, b, rows, products, a_radii[rows, None])
        _count(found.held_by_a, found.holding_b, row + rows.start, column, held)
        for radius in range(held.shape[1]):
            inside = held[:, radius]
            found.reached[row[inside] + rows.start, part[column[inside]], radius] = True
        row, column, held = _held(a, b, rows, products, b_radii[None])
        _count(found.held_by_b, found.holding_a, column, row + rows.start, held)
    return found


def _held(a: Points, b: Points, rows: slice, products: Tensor, radii: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row and column (p,) of all pairs of a block that may be within the largest of the squared radii, and
    whether they are within each (p, k). radii: (rows, 1, k), the rows', or (1, m, k), the columns'."""
    by_row = radii.shape[1] == 1
    pairs = _candidates(a, b, rows, products, radii[..., -1].sqrt())
    row, column = pairs.T
    own = radii[row, 0] if by_row else radii[0, column]
    held = (_upper(a, b, rows, products, pairs) <= own[:, 0].sqrt())[:, None].expand(-1, own.shape[1]).clone()
    left = (~held[:, 0]).nonzero()[:, 0]
    if len(left) > _few(products):
        squared = _whole(a, b, rows)[row[left], column[left]]
    else:
        squared = _squared(a, b, rows, pairs[left])
    rim = RIM * (a.norms[rows][row[left]] + b.norms[column[left]])
    held[left] = squared[:, None] <= own[left] + rim[:, None]
    return row, column, held


def _count(held_by: Tensor, holding: Tensor, ball: Tensor, point: Tensor, held: Tensor) -> None:
    """Count pairs of a ball and a point (p,) that are held (p, k), in place."""
    held_by.index_add_(0, ball, held.long())
    holding.index_add_(0, point, held.long())


def _short_format() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it, else float32: as exact in the end, but slower."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if known.get("avx512_bf16") else torch.float32


def _products(a: Points, b: Points, rows: slice) -> Tensor:
    """Return -2 <a_i, b_j> in float32: the squared distance, but for both norms."""
    return (a.rough[rows] @ b.rough.T).float().mul_(-2)


def _few(products: Tensor) -> int:
    """Return of how many pairs of a block the distances take less time one by one than all together."""
    return max(products.numel() // _SHARE, 32 * len(products))


def _candidates(a: Points, b: Points, rows: slice, products: Tensor, radii: Tensor) -> Tensor:
    """Return (pairs, 2), by row: the block's row and the column of all pairs that may lie within the radii: (rows, 1),
    the rows', or (1, m), the columns'."""
    c = a.product_error
    if radii.shape[1] == 1:
        reach, own, other = radii + a.off[rows, None] + b.off.max(), a.norms[rows, None], b.norms[None]
    else:
        reach, own, other = radii + b.off[None] + a.off[rows].max(), b.norms[None], a.norms[rows, None]
    limit = reach.square() - (1 - c) * own
    margin = 2**-20 * (limit.abs() + other.max())  # of the float32 in which they are compared
    return torch.nonzero(products + ((1 - c) * other).float() <= (limit + margin).float())


def _upper(a: Points, b: Points, rows: slice, products: Tensor, pairs: Tensor) -> Tensor:
    """Return upper bounds of the pairs' distances."""
    row, column = pairs.T
    squared = products[row, column].double() + (1 + a.product_error) * (a.norms[rows][row] + b.norms[column])
    return squared.clamp_min(0).sqrt() + a.off[rows][row] + b.off[column]


def _squared(a: Points, b: Points, rows: slice, pairs: Tensor) -> Tensor:
    parts = [
        (a.exact[rows][row].double() - b.exact[column].double()).square_().sum(1)
        for row, column in (part.T for part in pairs.split(_PAIRS))
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _whole(a: Points, b: Points, rows: slice) -> Tensor:
    """Return all squared distances of a block's rows in float64."""
    x, parts = a.exact[rows].double() - a.centre, []
    for columns in _slices(len(b), 1024):
        y = b.exact[columns].double() - a.centre
        parts.append((x @ y.T).mul_(-2).add_(x.square().sum(1)[:, None]).add_(y.square().sum(1)))
    return torch.cat(parts, 1).clamp_min_(0)


def _smallest(pairs: Tensor, values: Tensor, rows: int, count: int) -> tuple[Tensor, Tensor]:
    """Return the smallest values of each row, ascending, and their columns; pairs (p, 2), by row, have values (p,)."""
    row, column = pairs.T
    numbers = row.bincount(minlength=rows)
    table = torch.full((rows, int(numbers.max())), torch.inf, dtype=torch.float64)
    starts = numbers.cumsum(0) - numbers
    table[row, torch.arange(len(row)) - starts[row]] = values
    found, place = table.topk(count, largest=False)  # ascending
    return found, column[starts[:, None] + place]


def ranks(points: Points, radii: Tensor, among: Points) -> Tensor:
    """Count which of each point's balls do not reach other points.

    Args:
        points: n of them.
        radii: (n, k) squared, ascending in each row, k < 256.
        among: m points of the same centre.

    Returns:
        (n, m) uint8: as many of the k balls around a point end before the other point.
    """
    found = torch.empty(len(points), len(among), dtype=torch.uint8)
    for rows in _blocks(len(points), len(among)):
        found[rows] = torch.searchsorted(radii[rows].contiguous(), _whole(points, among, rows)).to(torch.uint8)
    return found


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    return _slices(rows, max(1, _ELEMENTS // columns))


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
