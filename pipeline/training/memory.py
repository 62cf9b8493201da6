"""Memory of the training process: keeping what was freed, measuring the peak, recognising its end."""

import ctypes
import resource
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 2**30
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


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes: of the GPU's allocator, or of this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def out_of_memory(error: BaseException) -> str | None:
    """Return the line that says so if memory ended the training: torch's, numpy's, Ray's or Python's own."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return next((line[:300] for line in lines if any(phrase in line for phrase in _SHORT_OF_MEMORY)), None)
