"""Checkpoints that are written while training goes on."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pipeline.storage.checkpoint import Budgets
from pipeline.storage.host_copy import HostCopy
from pipeline.storage.store import Store

_log = logging.getLogger(__name__)


class Aside:
    """The checkpoints of one training, of which one at a time is written in a thread from a copy in memory.

    As a context manager it waits at its end, however that comes, until the last one is written. A checkpoint that is
    not written yet does not exist for anybody, as ``Checkpoints`` has it; a killed process leaves the one before.

    The writer keeps its ordinary priority: with a lower one, on cores that all train, the write took far longer, and
    training lost more by it (docs/scale.md).

    Args:
        store: where they are written.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._copy = store, HostCopy()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, seen: int, content: dict[str, Any], budgets: Budgets, *, wait: bool = False) -> None:
        """Begin to write a checkpoint; first the one before has to be written.

        Where memory has no room for a copy, this returns when the checkpoint is written.

        Args:
            seen: images seen.
            content: of the checkpoint; it may be changed once this has returned.
            budgets: say which others stay.
            wait: return when it is written, and use no memory for a copy.

        Raises:
            OSError: this one or the one before could not be written; the file is named.
            UserError: likewise, to the URL.
        """
        self.finish()
        copied = None if wait else self._copy.take(content)
        if copied is None:
            self._store.save(seen, content, budgets)
            return
        self._begin(self._write, seen, copied, budgets)

    def prepare(self, content: Any) -> None:
        """Begin to take the memory that copies of such content will need, so that the first one takes no longer."""
        self.finish()
        self._begin(self._copy.reserve, content)

    @property
    def is_busy(self) -> bool:
        """Whether something is being written or prepared."""
        return self._thread is not None and self._thread.is_alive()

    def finish(self) -> None:
        """Wait until nothing is being written; raise what went wrong with it, as ``save`` does."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what went wrong with the last checkpoint, as ``save`` does, as soon as that is known."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def __enter__(self) -> "Aside":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait, and let go of the memory; an error of the block is raised rather than the writer's, which is logged."""
        try:
            self.finish()
        except Exception as failure:
            if error is None:
                raise
            _log.error("nor could the last checkpoint be written: %s", failure)
        finally:
            self._copy.release()

    def _begin(self, action: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            try:
                action(*args)
            except BaseException as error:
                self._failure = error

        # A daemon: whoever asks twice for an end does not wait; ``finish`` is what waits.
        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def _write(self, seen: int, content: dict[str, Any], budgets: Budgets) -> None:
        self._copy.ready()
        self._store.save(seen, content, budgets)
