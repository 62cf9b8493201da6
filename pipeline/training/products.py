"""The work of a training's products, counted on torch's meta device. Only who starts a training imports this.

``torch.utils.flop_counter`` imports the compiler's language, and the meta device the compiler.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.core.batch import ImageSpec
from pipeline.core.method import Method
from pipeline.training.rehearsal import build_without_numbers, rehearse
from pipeline.training.work import flops_of


def typical_product(method: Method, spec: ImageSpec, *, samples: int, images: int) -> float:
    """Return the floating-point operations of the product in which an operation of an iteration lies, on average.

    With f of each matrix product and convolution it is sum f^2 / sum f: many tiny products beside a few large ones
    hardly change it.

    Args:
        method: what is trained.
        spec: of the images.
        samples: of a process's part of a batch.
        images: the budget.

    Returns:
        It; 0 where there is no product.
    """
    nets = build_without_numbers(method, spec)
    with _Products() as products:  # type: ignore[no-untyped-call]
        rehearse(method, nets, spec, samples=samples, images=images, ends=False)
    return products.squares / products.total if products.total else 0.0


class _Products(TorchDispatchMode):
    """Counts the operations of products, backward passes of any order included, by torch's own formulas.

    torch's FlopCounterMode itself cannot: its hooks refuse a gradient penalty's ``autograd.grad``.
    """

    total = 0.0
    squares = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        work = flops_of(func, args, given, result)
        products = 2 if func._overloadpacket is torch.ops.aten.convolution_backward else 1
        self.total += work
        self.squares += work * work / products
        return result
