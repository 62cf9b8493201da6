"""A Ray cluster of one node of this machine, as processes of this user."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from namespaces import QUIET, RAY, TOKEN


@contextmanager
def one_token() -> Iterator[None]:
    """For all clusters of this process, as a cluster of this machine alone would make its own. Ray reads it once, so an
    earlier test's is forgotten."""
    from ray._private.authentication_test_utils import reset_auth_token_state

    own = {**QUIET, **TOKEN}
    before = {name: os.environ.get(name) for name in own}
    os.environ |= own
    reset_auth_token_state()
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    reset_auth_token_state()


@contextmanager
def one_node(port: int) -> Iterator[psutil.Process]:
    """One node of three CPUs, however many this machine has; it listens on 127.0.0.1."""
    ray = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=3", "--include-dashboard=false"]
    node = subprocess.Popen([*ray, "--node-ip-address=127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _listening(port):
            assert node.poll() is None
            time.sleep(0.5)
        yield psutil.Process(node.pid)
    finally:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            process.kill()
        node.wait()


def workers_of(node: psutil.Process, actor: str = "Worker") -> list[psutil.Process]:
    """The processes of a node's actors of this class."""
    found = []
    for process in node.children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{actor}"):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
