"""One Ray cluster of this machine for all trainings of a `dvc repro`: the process that starts it and ends it.

A training joins it (connect.py) instead of starting one of its own, which takes seconds each time, as does its end. It
ends with DVC, however that ends: this process is told so, or dies with what has forked it (session/server.py), and
Ray's processes die with this one.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

import pipeline
from pipeline.files import atomic_file
from pipeline.session import client

START_SECONDS = 120.0
POLL_SECONDS = 0.05
WATCH_SECONDS = 0.5
RAYS = ("gcs_server", "raylet")  # without one of them there is no cluster

_log = logging.getLogger(__name__)


def shared_cluster() -> str | None:
    """Return the address of the cluster that this `dvc repro` shares; start it if there is none.

    The variables of this process decide its settings, as those of who starts it.

    Returns:
        host:port; None: this process is no stage of a `dvc repro`, or the cluster did not start.
    """
    folder = client.folder()
    if folder is None:
        return None
    try:
        with client.alone(folder, "ray"):
            return _running(folder) or _start(folder)
    except OSError as error:
        _log.debug("no shared Ray cluster: %s", error)
        return None


def start_shared(folder: Path) -> None:
    """Start that cluster, if there is none, and do not wait for it: who asks for it meanwhile does.

    Args:
        folder: that the stages of this `dvc repro` share.
    """
    with suppress(OSError):
        _begin(folder, [])


def _running(folder: Path) -> str | None:
    """Return the address of a cluster that answers; end the keeper of one that does not."""
    file = folder / "ray.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    host, _, port = found["address"].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        file.unlink()
        with suppress(ProcessLookupError):
            os.kill(found["pid"], signal.SIGTERM)
        return None
    return str(found["address"])


def _start(folder: Path) -> str | None:
    process = _begin(folder, [str(folder)])
    deadline = time.monotonic() + START_SECONDS
    while process and time.monotonic() < deadline:
        if found := _running(folder):
            return found
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            return None  # it has ended: its own message is in ray.log
    return None


def _begin(folder: Path, arguments: list[str]) -> client.Forked | None:
    """Start this module beside this process, which it outlives."""
    package = Path(pipeline.__file__).parents[1]
    with (folder / "ray.log").open("ab") as log:
        return client.start("pipeline.cluster.keeper", arguments, output=log, environment={}, project=package)


def main() -> None:
    """Start a cluster, write where it is to ray.json of a folder, and end it when asked to by SIGTERM, or broken.

    Without an argument: have it started, for those that will ask for it.
    """
    from pipeline.cluster.connect import end_cluster, join

    if len(sys.argv) == 1:
        shared_cluster()
        return
    folder = Path(sys.argv[1])
    address = join(None).address_info["gcs_address"]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own takes it for a crash
    with atomic_file(folder / "ray.json") as temporary:
        temporary.write_text(json.dumps({"address": address, "pid": os.getpid()}))
    parts = [child for child in psutil.Process().children() if child.name() in RAYS]
    while not signal.sigtimedwait({signal.SIGTERM}, WATCH_SECONDS):
        if not all(part.is_running() and part.status() != psutil.STATUS_ZOMBIE for part in parts):
            (folder / "ray.json").unlink(missing_ok=True)  # the next training starts another
            break
    end_cluster()


if __name__ == "__main__":
    main()
