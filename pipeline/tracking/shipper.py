"""The process that follows a journal and sends it to MLflow, so that training never waits for MLflow.

``shipping`` starts it: ``python -m pipeline.tracking.shipper <folder>``, with MLflow's address in MLflow's own
variables. What could not be sent stays in the journal, for ``genloom sync``. Its messages are in shipper.log.
"""

import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pipeline.config import Tracking
from pipeline.files import project_root
from pipeline.session.client import Forked, start
from pipeline.tracking.outages import is_away, remember_silence
from pipeline.tracking.sender import Sender
from pipeline.tracking.shipped import sole_sender
from pipeline.tracking.system import SystemMetrics
from pipeline.tracking.target import NO_ANSWER, Target, find_outage, prepare, reason, redacted, resolve

LOG = "shipper.log"

_logger = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_LONGEST_BACKOFF = 30.0
_LAST_ATTEMPTS = 3
_LAST_SECONDS = 8.0
_OTHER_SENDER_SECONDS = 120.0
_TIME = "%Y-%m-%d %H:%M:%S"


SenderProcess = subprocess.Popen[bytes] | Forked  # both have a standard input and an end to wait for


@contextmanager
def shipping(folder: Path, tracking: Tracking, wait: float = 60.0) -> Iterator[None]:
    """Let another process send the folder's journal to MLflow while the block runs.

    Never raises for MLflow's sake: what it could not take is a warning that says how to send it later.

    Args:
        folder: The journal's folder.
        tracking: Where MLflow is.
        wait: Seconds to wait at the end until the rest is sent.
    """
    target = resolve(tracking)
    is_away(target, folder.parent, "all runs")
    process = _start_shipper(folder, target)
    try:
        yield
    finally:
        if process is not None:
            _finish_shipper(process, folder, target, wait)


def _start_shipper(folder: Path, target: Target) -> SenderProcess | None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return start_sender("pipeline.tracking.shipper", folder, target)
    except OSError as error:
        _logger.warning(f"tracking: {error}; `genloom sync` sends this run later.")
        return None


def start_sender(module: str, folder: Path, target: Target) -> SenderProcess:
    """Start a module that sends what is in a folder, and ends after its standard input, a pipe, is closed.

    Args:
        module: its name; it writes its messages to the folder's log.
        folder: its one argument.
        target: where to send it, in MLflow's own variables.

    Returns:
        The process.
    """
    # Not arguments: other users can read a process's arguments.
    environment = {"MLFLOW_TRACKING_URI": target.uri, "MLFLOW_EXPERIMENT_NAME": target.experiment}
    # `dvc exp run --temp` imports this code from a workspace that it deletes when its command ends, while the process
    # may still have something to send: the project's own copy stays.
    project = project_root(Path(__file__).resolve().parents[2])
    environment |= {"PYTHONPATH": str(project), "PYTHONSAFEPATH": "1"}
    arguments = [str(folder.resolve())]
    with (folder / LOG).open("ab") as log:
        if forked := start(module, arguments, later=True, output=log, environment=environment, project=project):
            return forked
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | environment,
            cwd=project,
            start_new_session=True,  # Ctrl-C is for those who started it; it ends after them
        )


def _finish_shipper(process: SenderProcess, folder: Path, target: Target, wait: float) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        if process.wait(wait) == 0 or is_away(target, folder.parent, "all runs"):
            return
        why = _last_line(folder / LOG)
        if why == NO_ANSWER:
            remember_silence(target, folder.parent)
        problem = f"MLflow at {target.shown} did not take all of this run ({why})"
    except subprocess.TimeoutExpired:
        problem = f"MLflow at {target.shown} is slow; this run is still being sent"
    _logger.warning(f"tracking: {problem}. It is complete on disk: `genloom sync` sends the rest.")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return lines[-1][len(time.strftime(_TIME)) :].strip() if lines else "no reason given"


# ---- In the shipper's process


def follow(folder: Path, target: Target) -> bool:
    """Send the folder's journal until the process that started this one is done or gone.

    Standard input is a pipe that nobody writes to: it ends when the other process closes it or dies.

    Args:
        folder: The journal's folder.
        target: Where to send it.

    Returns:
        Whether all was sent.
    """
    os.nice(10)  # training comes first
    parent = os.getppid()
    with sole_sender(folder, _OTHER_SENDER_SECONDS):
        sender, system, failures, works = Sender(folder, target), SystemMetrics(target), 0, False
        send = partial(_send_what_is_new, sender, system)
        while not wait_for_end(parent, min(_POLL_SECONDS * 2**failures, _LONGEST_BACKOFF)):
            works = _attempt(target, send, works)
            failures = 0 if works else min(failures + 1, 10)
        sent = _send_the_rest(sender, target)
        if sent and sender.run_id:  # else MLflow does not answer, and training has waited enough
            _attempt(target, partial(system.finish, sender.run_id), works=True)
        return sent


def _send_what_is_new(sender: Sender, system: SystemMetrics) -> None:
    sender.send()
    if sender.run_id:
        system.keep_running(sender.run_id)


def wait_for_end(parent: int, seconds: float) -> bool:
    """Wait; return True as soon as the pipe's other end is closed.

    The parent's id changes when it dies, even if another process has inherited the pipe.

    Args:
        parent: its id at the start.
        seconds: to wait at most.

    Returns:
        Whether it is closed.
    """
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable) or os.getppid() != parent


def _send_the_rest(sender: Sender, target: Target) -> bool:
    """Make a few attempts, the last of which begins early, since the training process waits meanwhile."""
    latest = time.monotonic() + _LAST_SECONDS
    for attempt in range(_LAST_ATTEMPTS):
        if _attempt(target, partial(sender.send, last=True)):
            return True
        if time.monotonic() > latest or find_outage(target):
            break
        time.sleep(attempt + 1)
    return False


def _attempt(target: Target, action: Callable[[], None], works: bool = False) -> bool:
    """Do it and log why it failed.

    works: so it did the last time. Else MLflow, whose import takes seconds, is loaded only when something listens.
    """
    try:
        if not works:
            if problem := find_outage(target):
                _logger.warning(problem)
                return False
            prepare(target)
            take_over_messages()
        action()
    except Exception as error:  # whatever MLflow, a database or a disk may raise: training must not notice
        _logger.warning(reason(error))
        return False
    return True


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def log_to_stderr() -> None:
    """Write this process's messages there, without passwords."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", _TIME))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def take_over_messages() -> None:
    """Let MLflow's own messages pass through this process's formatter, which hides passwords."""
    logger = logging.getLogger("mlflow")
    logger.handlers.clear()
    logger.propagate = True


def main() -> None:
    """Run the shipper's process; exit with 3 if not all could be sent."""
    log_to_stderr()
    tracking = Tracking(uri=os.environ["MLFLOW_TRACKING_URI"], experiment=os.environ["MLFLOW_EXPERIMENT_NAME"])
    try:
        sent = follow(Path(sys.argv[1]), resolve(tracking))
    except Exception as error:
        _logger.warning(reason(error))
        sent = False
    sys.exit(0 if sent else 3)


if __name__ == "__main__":
    main()
