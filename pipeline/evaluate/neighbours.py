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
_PAIRS = 256  # whose differences are formed at once
_SHARE = 64  # of a block's pairs, one in so many is computed one by one at most
RIM = 2.0**-40  # of both squared norms; the matrix product in float64 errs by less


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Features with what an estimate needs. rough: (n, d), short; norms: squared, of rough; off: at most, of a row of
    rough, from the features; exact: (n, d) as given; centre: (d,), which is subtracted everywhere."""

    rough: Tensor
    norms: Tensor
    off: Tensor
    exact: Tensor
    centre: Tensor

    @classmethod
    def of(cls, features: Tensor, centre: Tensor) -> "_Points":
        short = _short_format()
        rough = torch.empty_like(features, dtype=short)
        norms, off = (torch.empty(len(features), dtype=torch.float64) for _ in range(2))
        for rows in _slices(len(features), 1024):
            centred = features[rows].double() - centre
            rough[rows] = centred.to(short)
            norms[rows] = rough[rows].double().square().sum(1)
            off[rows] = (rough[rows].double() - centred).norm(dim=1)
        return cls(rough=rough, norms=norms, off=off, exact=features, centre=centre)

    @property
    def product_error(self) -> float:
        """Return by how much an estimate errs at most, as a share of both squared norms: sums in float32 in any order,
        whose results are then rounded to the short format."""
        return (self.rough.shape[1] + 16) * 2.0**-24 * 1.1 + torch.finfo(self.rough.dtype).eps / 2


def nearest(features: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Find how far each point's nearest others are.

    Args:
        features: (n, d) float32, finite.
        count: how many others, fewer than there are points.
        among: (m, d), m >= count, which are looked at; None: the features but the point itself.

    Returns:
        (n, count) squared distances, ascending; a copy of a point is another point at distance 0.
    """
    points, others = _prepare(features, features if among is None else among)
    wanted = count + (among is None)  # the nearest is the point itself
    found, c = torch.empty(len(features), count, dtype=torch.float64), points.product_error
    for rows in _blocks(len(features), len(others.exact)):
        products = _products(points, others, rows)
        # The wanted-th smallest of upper bounds is one of the wanted-th distance. Minima over groups of columns are
        # looked at, as sorting rows would take longer than the products.
        groups = min(len(others.exact), max(256, wanted))
        upper = products + (1 + c) * others.norms.float()
        upper = upper[:, : len(others.exact) // groups * groups].unflatten(1, (-1, groups)).amin(1)
        reach = upper.topk(wanted, largest=False).values[:, -1].double() + (1 + c) * points.norms[rows]
        # In float32 the sum of the three may be too small by rounding.
        reach += 2**-20 * (points.norms[rows] + others.norms.max())
        radii = _slack(points, others, rows) + reach.clamp_min(0).sqrt()
        pairs = _candidates(points, others, rows, products, radii)
        if len(pairs) > _few(products):
            whole = _whole(points, others, rows)
            if among is None:
                whole[torch.arange(len(whole)), torch.arange(rows.start, rows.stop)] = torch.inf
            found[rows] = whole.topk(count, largest=False).values.sort().values
            continue
        if among is None:
            pairs = pairs[pairs[:, 0] + rows.start != pairs[:, 1]]
        found[rows] = _smallest(pairs[:, 0], _squared(points, others, rows, pairs), len(products), count)
    return found


def inside(centres: Tensor, squared_radii: Tensor, features: Tensor) -> Iterator[Tensor]:
    """Tell which points lie in which balls.

    Args:
        centres: (n, d) float32, finite.
        squared_radii: (n,).
        features: (m, d) float32, finite.

    Yields:
        (rows, m) for the next rows of the centres: whether each point lies in the row's ball, its rim included.
    """
    balls, points = _prepare(centres, features)
    for rows in _blocks(len(centres), len(features)):
        products = _products(balls, points, rows)
        radii = squared_radii[rows].sqrt()
        pairs = _candidates(balls, points, rows, products, radii)
        held = torch.zeros_like(products, dtype=torch.bool)
        row, column = pairs.T
        sure = _upper(balls, points, rows, products, pairs) <= radii[row]
        held[row[sure], column[sure]] = True
        open_pairs = pairs[~sure]
        if len(open_pairs) > _few(products):
            sums = balls.norms[rows, None] + points.norms
            yield _whole(balls, points, rows) <= squared_radii[rows, None] + RIM * sums
            continue
        row, column = open_pairs.T
        rim = RIM * (balls.norms[rows][row] + points.norms[column])
        held[row, column] = _squared(balls, points, rows, open_pairs) <= squared_radii[rows][row] + rim
        yield held


def _short_format() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it, else float32: as exact in the end, but slower."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if known.get("avx512_bf16") else torch.float32


def _prepare(*sets: Tensor) -> list[_Points]:
    centre = sets[0].mean(0, dtype=torch.float64)
    known = {id(features): _Points.of(features, centre) for features in sets}
    return [known[id(features)] for features in sets]


def _products(a: _Points, b: _Points, rows: slice) -> Tensor:
    """Return -2 <a_i, b_j> in float32: the squared distance, but for both norms."""
    return (a.rough[rows] @ b.rough.T).float().mul_(-2)


def _few(products: Tensor) -> int:
    """Return of how many pairs of a block the distances take less time one by one than all together."""
    return max(products.numel() // _SHARE, 32 * len(products))


def _slack(a: _Points, b: _Points, rows: slice) -> Tensor:
    """Return how far a true distance is from that of the rounded points, at most, by row."""
    return a.off[rows] + b.off.max()


def _candidates(a: _Points, b: _Points, rows: slice, products: Tensor, radii: Tensor) -> Tensor:
    """Return (pairs, 2): row of the block and column of all that may lie within a row's radius, by row."""
    c = a.product_error
    limit = (radii + _slack(a, b, rows)).square() - (1 - c) * a.norms[rows]
    margin = 2**-20 * (limit.abs() + b.norms.max())  # of the float32 in which they are compared
    return torch.nonzero(products + ((1 - c) * b.norms).float() <= (limit + margin).float()[:, None])


def _upper(a: _Points, b: _Points, rows: slice, products: Tensor, pairs: Tensor) -> Tensor:
    """Return upper bounds of the pairs' distances."""
    row, column = pairs.T
    squared = products[row, column].double() + (1 + a.product_error) * (a.norms[rows][row] + b.norms[column])
    return squared.clamp_min(0).sqrt() + _slack(a, b, rows)[row]


def _squared(a: _Points, b: _Points, rows: slice, pairs: Tensor) -> Tensor:
    parts = [
        (a.exact[rows][row].double() - b.exact[column].double()).square_().sum(1)
        for row, column in (part.T for part in pairs.split(_PAIRS))
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _whole(a: _Points, b: _Points, rows: slice) -> Tensor:
    """Return all squared distances of a block's rows in float64."""
    x, parts = a.exact[rows].double() - a.centre, []
    for columns in _slices(len(b.exact), 1024):
        y = b.exact[columns].double() - a.centre
        parts.append((x @ y.T).mul_(-2).add_(x.square().sum(1)[:, None]).add_(y.square().sum(1)))
    return torch.cat(parts, 1).clamp_min_(0)


def _smallest(row: Tensor, values: Tensor, rows: int, count: int) -> Tensor:
    """Return the smallest values of each row, ascending; ``row`` ascends."""
    numbers = row.bincount(minlength=rows)
    table = torch.full((rows, int(numbers.max())), torch.inf, dtype=torch.float64)
    table[row, torch.arange(len(row)) - (numbers.cumsum(0) - numbers)[row]] = values
    return table.topk(count, largest=False).values.sort().values


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    return _slices(rows, max(1, _ELEMENTS // columns))


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
