"""The arithmetic and the memory traffic of what torch runs, and what this machine does of both in a second."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

TRIES = 5  # of which the fastest is what the machine can do
GEMM_SIZE = {"cpu": 1024, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}  # more than caches hold


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second.

    Attributes:
        flops: floating-point operations, in a product of large matrices of the training's precision.
        bandwidth: bytes read and written, in a copy of more than fits in caches.
    """

    flops: float
    bandwidth: float


@dataclass
class Work:
    """What has been done.

    Attributes:
        flops: of matrix products, convolutions and attention; a multiplication and an addition are two.
        bytes: of the tensors that operations read and write, as if nothing stayed in a cache.
        floor: seconds that it would take at the machine's rates, each operation bound by one of the two.
    """

    flops: float = 0.0
    bytes: float = 0.0
    floor: float = 0.0


class Counting(TorchDispatchMode):
    """While entered, adds up the work of all operations, backward passes included, under the name in ``current``.

    Args:
        rates: of the machine.
    """

    def __init__(self, rates: Rates) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rates, self.current = rates, ""
        self.work: dict[str, Work] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        done = flops_of(func, args, kwargs, result)
        moved = 0.0 if _is_view(func) else _moved(func, args, kwargs, result)
        work = self.work.setdefault(self.current, Work())
        work.flops += done
        work.bytes += moved
        work.floor += max(done / self.rates.flops, moved / self.rates.bandwidth)
        return result


def flops_of(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Return the floating-point operations of a call of one of torch's operators, by torch's own formulas.

    Args:
        func: the operator, as a dispatch mode gets it.
        args: of the call.
        kwargs: likewise.
        result: of the call.

    Returns:
        They; 0 of what is no matrix product, convolution or attention.
    """
    formula = flop_registry.get(func._overloadpacket)
    return float(formula(*args, **kwargs, out_val=result)) if formula else 0.0


def _is_view(func: Any) -> bool:
    """Return whether an operation only makes another tensor of the same memory, or takes memory."""
    returns = func._schema.returns
    aliased = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
    return aliased or func._schema.name.split("::")[1] in ("empty", "empty_strided", "empty_like", "detach")


def _moved(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Return the bytes of what is read and written; what is changed in place is both."""
    read = sum(_bytes(leaf) for leaf in tree_leaves((args, kwargs)))
    changed = [argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments]
    if any(changed):
        given = [*args, *(kwargs.get(argument.name) for argument in func._schema.arguments[len(args) :])]
        written = sum(_bytes(leaf) for value, is_changed in zip(given, changed, strict=False) if is_changed
                      for leaf in tree_leaves(value))  # fmt: skip
    else:
        written = sum(_bytes(leaf) for leaf in tree_leaves(result))
    return float(read + written)


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def measured(device: torch.device, precision: str) -> Rates:
    """Measure a device, for a second or so.

    Args:
        device: a CPU, with the threads that training would have, or a GPU.
        precision: of the training's nets: fp32 or bf16.

    Returns:
        Its rates.
    """
    size, dtype = GEMM_SIZE[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    left, right, product = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(3))
    source, target = (torch.ones(COPIED_BYTES[device.type], device=device, dtype=torch.uint8) for _ in range(2))
    flops = 2 * size**3 / _fastest(lambda: torch.mm(left, right, out=product), device)
    return Rates(flops, 2 * len(source) / _fastest(lambda: target.copy_(source), device))


def _fastest(action: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(TRIES + 1):  # the first one is warming up
        begin = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def gpu_share(profiler: torch.profiler.profile, seconds: float) -> float:
    """Return the share of a profiled time in which the GPU had work, from 0 to 1."""
    events = [event for event in profiler.events() or [] if str(event.device_type).endswith("CUDA")]
    spans = [(event.time_range.start, event.time_range.end) for event in events if not event.is_user_annotation]
    return busy_share(spans, seconds)


def busy_share(spans: list[tuple[float, float]], seconds: float) -> float:
    """Return which share of a time was covered by spans, which may overlap.

    Args:
        spans: their begins and ends, in microseconds.
        seconds: all of the time.

    Returns:
        From 0 to 1.
    """
    covered, last = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, last))
        last = max(last, end)
    return covered / 1e6 / seconds
