"""Copies of a training's state in memory of the host that is used again for the next one."""

import copy
import logging
import mmap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.storage.room import free_memory

ALIGNMENT = 64  # bytes: a line of the cache, as torch's own allocator has it
SPARE = 1.25  # of what a copy needs has to be free: training may need more memory while the copy is there

_log = logging.getLogger(__name__)


class HostCopy:
    """Memory for one copy of a nest of tensors, taken when the first is made and kept until ``release``.

    Copies from a GPU are in page-locked memory and do not wait for the GPU; ``ready`` does.
    """

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._locked_at: int | None = None
        self._copied: torch.cuda.Event | None = None

    def take(self, content: Any) -> Any | None:
        """Copy tensors within dictionaries, lists and tuples; the copy before is overwritten.

        Every copied tensor has a storage of its own and the strides of the original, as far as these are dense. Tensors
        that are the same remain the same.

        Args:
            content: tensors, containers of them, and what does not change.

        Returns:
            The same nest with copies of tensors and containers; None if there is not enough memory.
        """
        sources = {_identity(tensor): tensor for tensor in _tensors(content)}
        sizes = {key: _size(tensor) for key, tensor in sources.items()}
        try:
            memory = self._room(sum(sizes.values()), sources.values())
        except (MemoryError, OSError) as error:  # mmap's ENOMEM is an OSError
            _log.debug("no memory for a copy of the state: %s", error)
            return None
        copies, place = {}, 0
        for key, tensor in sources.items():
            copies[key] = _view(memory, place, tensor)
            place += sizes[key]
        with torch.no_grad():
            for key, tensor in sources.items():
                _fill(copies[key], tensor)
        device = _gpu_of(sources.values())
        if device is not None:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))
        return _replaced(content, copies)

    def reserve(self, content: Any) -> None:
        """Take the memory that ``take`` will need, and touch it: the system gives pages out slowly.

        Lets go of the GIL in between, so it may run beside training. Where there is no room, nothing is reserved.
        """
        sources = {_identity(tensor): tensor for tensor in _tensors(content)}
        try:
            memory = self._room(sum(map(_size, sources.values())), sources.values())
        except (MemoryError, OSError):
            return
        np.frombuffer(memory, np.uint8).fill(0)

    def ready(self) -> None:
        """Wait until the GPU has made the copy."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None

    def release(self) -> None:
        """Let go of the memory, which the system has again once no copy is used any more."""
        if self._locked_at is not None:
            self.ready()
            torch.cuda.cudart().cudaHostUnregister(self._locked_at)
        self._memory = self._locked_at = None

    def _room(self, size: int, sources: Iterable[Tensor]) -> mmap.mmap:
        """Return memory of at least so many bytes: what is there, or new; raise MemoryError where that has no room."""
        if self._memory is not None and len(self._memory) >= size:
            return self._memory
        self.release()
        free = free_memory()
        if free is not None and free < SPARE * size:
            raise MemoryError(f"{size:,} bytes are needed, and {free:,} are free")
        # Not torch's or malloc's memory: those round sizes up, or keep what is released.
        self._memory = mmap.mmap(-1, max(size, mmap.PAGESIZE))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        device = _gpu_of(sources)
        if device is not None:
            with torch.cuda.device(device):
                self._lock(self._memory)
        return self._memory

    def _lock(self, memory: mmap.mmap) -> None:
        """Lock pages for the current GPU, if the system lets us: else copies wait for the GPU, and are as right."""
        address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
        if int(torch.cuda.cudart().cudaHostRegister(address, len(memory), 0)) == 0:
            self._locked_at = address
        else:
            _log.debug("the memory for copies of the state could not be locked; copying from the GPU is slower")


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value)


def _replaced(content: Any, copies: dict[Any, Tensor]) -> Any:
    if isinstance(content, Tensor):
        return copies[_identity(content)]
    if isinstance(content, dict):
        made = copy.copy(content)  # of its own class and with its attributes: state dictionaries have versions there
        for key, value in content.items():
            made[key] = _replaced(value, copies)
        return made
    if isinstance(content, list | tuple):
        return type(content)(_replaced(value, copies) for value in content)
    return content


def _identity(tensor: Tensor) -> Any:
    """Return what two tensors have in common if they are the same numbers in memory."""
    place = tensor.data_ptr() if tensor.numel() else id(tensor)
    return place, tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def _view(memory: mmap.mmap, place: int, like: Tensor) -> Tensor:
    """Return a tensor in the memory, from byte ``place`` on, that is laid out like another."""
    strides = torch.empty_like(like, device="meta").stride()
    if not like.numel():
        return torch.empty_strided(like.shape, strides, dtype=like.dtype)
    flat = torch.frombuffer(memory, dtype=like.dtype, count=like.numel(), offset=place)
    return flat.as_strided(like.shape, strides)


def _fill(target: Tensor, source: Tensor) -> None:
    """Copy a tensor, on the CPU by this thread alone: torch's others would have to wait for cores that others use."""
    if source.is_cuda:
        target.copy_(source, non_blocking=True)
    elif source.device.type == "cpu" and target.stride() == source.stride():  # dense
        np.copyto(_bytes(target), _bytes(source))
    else:
        target.copy_(source)


def _bytes(dense: Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    flat = dense.detach().as_strided((dense.numel(),), (1,), dense.storage_offset())
    return flat.view(torch.uint8).numpy()


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor, up to where the next one may begin."""
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT


def _gpu_of(tensors: Iterable[Tensor]) -> torch.device | None:
    """Return the GPU that some of the tensors are on."""
    return next((tensor.device for tensor in tensors if tensor.is_cuda), None)
