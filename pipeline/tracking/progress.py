"""One live line for a training run, and its warnings: read from its journal, so the same with Ray and without."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.console import training_bar
from pipeline.tracking.journal import NAME, read
from pipeline.tracking.standing import WARNING
from pipeline.watch.curves import PREFIX

POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)


@contextmanager
def watching(
    folder: Path, name: str, total: int, page: Callable[[], str | None], since: float | None = None
) -> Iterator[None]:
    """Show a run's progress while the block runs: images seen, speed, losses, and once where to look at the run.

    Early warnings are logged as they come. Rows of before, which a checkpoint brings along, are not shown again.

    Args:
        folder: The folder of the run's journal.
        name: The run's name.
        total: Images of the whole training.
        page: Returns where to look, or None as long as that is not known.
        since: From when on rows are shown, in seconds since 1970; None: from now on.
    """
    done, begun = threading.Event(), int((time.time() if since is None else since) * 1000)
    with training_bar(name, total) as (show, tell):

        def watch() -> None:
            offset, told = 0, False
            while True:
                last = done.is_set()
                if not told and (where := page()):
                    tell(where)
                    told = True
                for record, behind in read(folder / NAME, offset):
                    offset = behind
                    if record["kind"] == "metrics" and record["once"] and record["time"] >= begun:
                        if not all(key.startswith(PREFIX) for key in record["values"]):
                            show(record["step"], record["values"])
                    elif record["kind"] == "tags" and record["time"] >= begun:
                        for warning in warnings_in(record["tags"]):
                            logger.warning("%s: %s", name, warning)
                if last:
                    return
                done.wait(POLL_SECONDS)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def warnings_in(tags: Mapping[str, str]) -> list[str]:
    """Return the early warnings among tags of a journal."""
    return [message for tag, message in tags.items() if tag.startswith(WARNING)]
