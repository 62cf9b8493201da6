"""The process that sends a search to MLflow as it goes, so that trials never wait for MLflow.

``shipping_search`` starts ``python -m pipeline.tracking.search_shipper <folder>`` when there is something to send. The
search's process writes how it stands to a file of its folder, and this one sends what is new in it. What it could not
send is sent at the search's end, or by its next call. Its messages are in shipper.log.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.config import Tracking
from pipeline.tracking.searches import OTHER_SENDER_SECONDS, SearchSender, SentSearch, read_search, write_search
from pipeline.tracking.shipped import sole_sender
from pipeline.tracking.shipper import SenderProcess, log_to_stderr, start_sender, take_over_messages, wait_for_end
from pipeline.tracking.target import Target, connect, find_or_create_experiment, find_outage, prepare, reason, resolve

STATE = "mlflow.json"
POLL_SECONDS = 2.0
LONGEST_BACKOFF = 60.0
WAIT_SECONDS = 60.0  # at the end, for what is being sent

_logger = logging.getLogger(__name__)


@contextmanager
def shipping_search(folder: Path, tracking: Tracking) -> Iterator[Callable[[SentSearch], None]]:
    """Let another process send a search to MLflow while the block runs; never raises for MLflow's sake.

    Args:
        folder: of the search's record.
        tracking: where MLflow is.

    Yields:
        A function that takes the search as it stands; the first call with a trial that has ended starts the process.
    """
    processes: list[SenderProcess] = []

    def tell(search: SentSearch) -> None:
        write_search(folder / STATE, search)
        if not processes and any(trial.state for trial in search.trials):
            try:
                processes.append(start_sender("pipeline.tracking.search_shipper", folder, resolve(tracking)))
            except OSError as error:
                _logger.warning("tracking: %s; this search is sent at its end", error)

    try:
        yield tell
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:  # it may be making a database, which must not be left half made
                _logger.warning("tracking: MLflow is slow; this search is still being sent")


# ---- In the shipper's process


def follow(folder: Path, target: Target) -> None:
    """Send how a search stands, again and again, until the process that started this one is done or gone.

    Args:
        folder: of the search's record.
        target: where to send it.
    """
    os.nice(10)  # trials come first
    parent, failures, sender, known = os.getppid(), 0, None, None
    with sole_sender(folder, OTHER_SENDER_SECONDS):
        over = False
        while not over:
            over = wait_for_end(parent, min(POLL_SECONDS * 2**failures, LONGEST_BACKOFF))
            search = read_search(folder / STATE)
            if search is None or (search == known and not over):
                continue
            try:
                if problem := find_outage(target):
                    raise ConnectionError(problem)
                sender = sender or _sender(target, search)
                # The search's own process says that it is finished: without its word it was stopped.
                sender.send(replace(search, status="KILLED") if over else search)
                known, failures = search, 0
            except Exception as error:  # whatever a server or a database raises
                _logger.warning(reason(error))
                sender, failures = None, min(failures + 1, 10)


def _sender(target: Target, search: SentSearch) -> SearchSender:
    prepare(target)
    take_over_messages()
    client = connect(target)
    return SearchSender(client, find_or_create_experiment(client, target), search)


def main() -> None:
    """Run the process."""
    log_to_stderr()
    tracking = Tracking(uri=os.environ["MLFLOW_TRACKING_URI"], experiment=os.environ["MLFLOW_EXPERIMENT_NAME"])
    follow(Path(sys.argv[1]), resolve(tracking))


if __name__ == "__main__":
    main()
