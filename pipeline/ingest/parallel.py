"""Many small tasks in several threads: in groups, as a thread's turn costs more than one of them, and few at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_GROUP = 64  # tasks
_AHEAD = 4  # groups of each thread that have begun or wait

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_threads(function: Callable[[_T], _R], items: Sequence[_T], threads: int) -> Iterator[_R]:
    """Yield what a function returns for each item, in order; memory does not grow with their number.

    Args:
        function: may be called from several threads at once. Its first error ends all.
        items: any number.
        threads: how many.

    Yields:
        The results.
    """

    def group(start: int) -> list[_R]:
        return [function(item) for item in items[start : start + _GROUP]]

    begun: deque[Future[list[_R]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for start in range(0, len(items), _GROUP):
            begun.append(pool.submit(group, start))
            if len(begun) > threads * _AHEAD:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
