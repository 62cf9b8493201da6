"""Memory of the training process: keeping what was freed, measuring the peak, recognising its end and what needed it.

An error of memory that leaves a block of ``needed_by`` is a MemoryError whose text names what needed it. Ray passes an
error on as text, so the name is found there, on whatever machine it was raised.
"""

import ctypes
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, TypeVar

import torch
from torch.optim import Optimizer

T = TypeVar("T")
Need = Literal["training step", "preview", "look", "samples", "pictures"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 2**30
_WRAPPED, _ANSWER = ("add_param_group", "zero_grad", "state_dict", "load_state_dict"), "__dynamo_disable"
_STEP_WRAPPER = "_use_grad"  # torch.optim.optimizer's
_NAMED = "needed by: "
# What to change, by what needed the memory.
REMEDIES: dict[Need, str] = {
    "training step": "Lower runs.<run>.batch_size or the net's width, or share the batch among more workers "
    "(cluster.workers, on more machines or GPUs); on a GPU runs.<run>.precision: bf16 saves about half of the "
    "activations.",
    "preview": "Previews are sampled in batches of training's own size, so runs.<run>.batch_size lowers this too; else "
    "lower the net's width or data.size. A larger runs.<run>.snapshot_every makes previews rarer, not smaller.",
    "look": "A look at the training takes batches of training's own size, so runs.<run>.batch_size lowers this too; "
    "runs.<run>.watch_every: 0 leaves the looks out.",
    "samples": "Samples are made and seen by the extractors at most evaluate.batch_size at a time: lower it, or "
    "runs.<run>.batch_size, which bounds what the nets make at once.",
    "pictures": "Pictures are made one image at a time, samples in batches of training's size: lower "
    "runs.<run>.batch_size, the net's width, or render.rows and render.columns.",
}
_SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "running low on memory", "MemoryError")


def keep_freed_memory() -> None:
    """Tell glibc to keep the memory of freed tensors for the next ones.

    By default it maps and unmaps every tensor of some megabytes, and the kernel zeroes the pages anew
    at each step: a tenth of a small network's time on a CPU. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(parameter, _KEPT_BYTES)


def leave_compiler_out() -> None:
    """Keep optimizers from importing torch's compiler, which is 140 MiB and a second of every process.

    torch wraps methods of optimizers so that a program which is being compiled calls them as they are, and the wrappers
    import the compiler to tell it so. Nothing of ours compiles a call of theirs, so the methods are called without it.
    To be called before the first optimizer is made; where torch has no such wrappers, nothing changes.
    """
    for name in _WRAPPED:
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None and not hasattr(inner, _ANSWER):
            setattr(inner, _ANSWER, inner)  # what the wrapper would ask the compiler for
    kinds = [Optimizer]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        step = vars(kind).get("step")
        if getattr(getattr(step, "__code__", None), "co_name", "") == _STEP_WRAPPER:
            kind.step = _without_compiler(step)  # type: ignore[method-assign]


def _without_compiler(wrapped: Any) -> Any:
    """Return an optimizer's step that tells no compiler that it takes no gradients."""
    step = wrapped.__wrapped__

    @wraps(step)
    def stepping(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if optimizer.defaults["differentiable"]:
            return wrapped(optimizer, *args, **kwargs)
        with torch.no_grad():
            return step(optimizer, *args, **kwargs)

    return stepping


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes: of the GPU's allocator, or of this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def out_of_memory(error: BaseException) -> str | None:
    """Return the line that says so if memory ended the training: torch's, numpy's, Ray's or Python's own."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    found = [line[:300] for line in lines if any(phrase in line for phrase in _SHORT_OF_MEMORY)]
    return next((line for line in found if _NAMED in line), found[0] if found else None)


@contextmanager
def needed_by(what: Need) -> Iterator[None]:
    """Name what needed the memory, if memory ends the block.

    Args:
        what: a key of REMEDIES; an error that names something already keeps it.

    Raises:
        MemoryError: there is not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        line = out_of_memory(error)
        if line is None or _NAMED in line:
            raise
        raise MemoryError(f"{_NAMED}{what}; {line}"[:300]) from error


def needing(what: Need, items: Iterable[T]) -> Iterator[T]:
    """Iterate within ``needed_by``; what the consumer does between two items is outside."""
    iterator, ended = iter(items), object()
    while True:
        with needed_by(what):
            item = next(iterator, ended)
        if item is ended:
            return
        yield item  # type: ignore[misc]


def remedy_of(line: str) -> str:
    """Return what to change, by what ``out_of_memory``'s line names; where it names nothing, as for a training step."""
    return next((remedy for what, remedy in REMEDIES.items() if f"{_NAMED}{what}" in line), REMEDIES["training step"])
