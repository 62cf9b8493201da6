"""One live line for a training run, read from its journal: the same with Ray and without."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.console import training_bar
from pipeline.tracking.journal import NAME, read

POLL_SECONDS = 0.5


@contextmanager
def watching(folder: Path, name: str, total: int, page: Callable[[], str | None]) -> Iterator[None]:
    """While the block runs, shows what the journal in ``folder`` says: images seen of ``total``, speed, losses; and
    once where to look at the run, as soon as that is known."""
    done = threading.Event()
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
                    if record["kind"] == "metrics" and record["once"]:
                        show(record["step"], record["values"])
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
