"""Handing a stage over to the process that has loaded what it needs (server.py)."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from pipeline.session.dvc import SWITCH, Process, find_dvc, folder_of, forget_ended

_FOLDER = "GENLOOM_SESSION_FOLDER"  # in the environment of what was forked
_SERVER = Path(__file__).with_name("server.py")
_SOCKET, _LATER = "socket", "later"  # of the server, and of the second one, which has loaded what was wanted soon


def folder() -> Path | None:
    """Return the folder that the stages of this `dvc repro` share; None: this process is no stage of one."""
    found = os.environ.get(_FOLDER)
    return Path(found) if found and Path(found, _SOCKET).exists() else None


def hand_over(needs: Sequence[str], soon: Sequence[str] = (), later: bool = False) -> int | None:
    """Run this process's module and arguments in a fork of the process that has loaded what they need.

    That process is started if there is none yet. Signals are handed on. Does nothing where DVC did not start this
    process, where it is such a fork itself, and where GENLOOM_SESSION is "off".

    Args:
        needs: the modules.
        soon: modules that processes need which it will start.
        later: it needs itself what stages before it have wanted soon.

    Returns:
        The exit code of the fork, -N if signal N ended it; None: nothing was handed over, and the caller goes on.
    """
    spec = sys.modules["__main__"].__spec__
    dvc = None if spec is None or _FOLDER in os.environ or os.environ.get(SWITCH) == "off" else find_dvc()
    if spec is None or dvc is None:
        return None
    try:
        shared = folder_of(dvc)
        with _connected(shared, dvc, later) as connection:
            changes = {"soon": list(soon), "environment": dict(os.environ) | {_FOLDER: str(shared)}}
            started = _ask(connection, spec.name, sys.argv[1:], needs, (0, 1, 2), **changes)
            return None if started is None else _wait(connection, started)
    except OSError:
        return None  # no room for a socket, a limit, a folder of somebody else's: then without it


class Forked:
    """A process that was started beside this one, as ``subprocess.Popen`` is: it has a standard input and an end."""

    def __init__(self, pid: int, stdin: IO[bytes], connection: socket.socket) -> None:
        self.pid, self.stdin, self._connection = pid, stdin, connection

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Args:
            timeout: seconds to wait at most.

        Returns:
            The exit code, -N if signal N ended the process.

        Raises:
            subprocess.TimeoutExpired: it has not ended by then.
        """
        self._connection.settimeout(timeout)
        try:
            answer = _message(self._connection)
        except TimeoutError:
            raise subprocess.TimeoutExpired(str(self.pid), timeout) from None
        self._connection.close()
        return -signal.SIGKILL if answer is None else answer["status"]


def start(
    module: str,
    arguments: Sequence[str],
    *,
    later: bool = False,
    output: IO[Any],
    environment: Mapping[str, str],
    project: Path,
) -> Forked | None:
    """Start a module beside this process, which it may outlive, as long as DVC does.

    Args:
        module: its name.
        arguments: of it.
        later: it needs what stages have wanted soon (``hand_over``).
        output: a file for its output and errors.
        environment: variables that it has besides this process's.
        project: the folder in which it runs and from which it is imported.

    Returns:
        The process; None: this one is no stage of a `dvc repro`.

    Raises:
        OSError: it cannot be started.
    """
    shared = folder()
    if shared is None:
        return None
    theirs, ours = os.pipe()
    with os.fdopen(theirs, "rb"), contextlib.ExitStack() as stack:
        stdin = stack.enter_context(os.fdopen(ours, "wb", 0))
        connection = stack.enter_context(_connection(shared, later))
        changes = {
            "stays": True,
            "environment": dict(os.environ) | dict(environment),
            "folder": str(project),
            "path": [str(project), *sys.path[1:]],
        }
        pid = _ask(connection, module, arguments, (), (theirs, output.fileno(), output.fileno()), **changes)
        if pid is None:
            raise ConnectionError("the process that starts others has ended")
        stack.pop_all()
        return Forked(pid, stdin, connection)


@contextlib.contextmanager
def alone(shared: Path, name: str) -> Iterator[None]:
    """Hold a lock of a shared folder for the block; another process waits for it.

    Args:
        shared: the folder.
        name: of the lock.
    """
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _connected(shared: Path, dvc: Process, later: bool) -> socket.socket:
    """Return a connection to the server, which is started if there is none."""
    with alone(shared, "server"):
        with contextlib.suppress(OSError):
            return _connection(shared, later)
        forget_ended()
        address = shared / _SOCKET
        for name in (_SOCKET, _LATER):
            (shared / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening, (shared / "log").open("ab") as log:
            listening.bind(str(address))
            listening.listen()
            subprocess.Popen(
                [sys.executable, str(_SERVER), str(listening.fileno()), str(dvc.pid)],
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return _connection(shared)


def _connection(shared: Path, later: bool = False) -> socket.socket:
    """Return a connection to the server, or, if it is wanted and there is one, to the second."""
    if later:
        with contextlib.suppress(OSError):
            return _connect(shared / _LATER)
    return _connect(shared / _SOCKET)


def _connect(address: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection


def _ask(
    connection: socket.socket,
    module: str,
    arguments: Sequence[str],
    needs: Sequence[str],
    files: Sequence[int],
    **changes: Any,
) -> int | None:
    """Have a module run with what this process has, but for the changes; return the number of its process.

    None: it did not begin.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    request = {
        "module": module,
        "arguments": list(arguments),
        "needs": list(needs),
        "soon": [],
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "path": sys.path,
        "umask": umask,
        "stays": False,
    }
    data = json.dumps(request | changes).encode() + b"\n"
    for file in (sys.stdout, sys.stderr):
        file.flush()
    connection.sendall(data[socket.send_fds(connection, [data], list(files)) :])
    answer = _message(connection)
    return None if answer is None else answer["pid"]


def _wait(connection: socket.socket, pid: int) -> int:
    """Return how the process ended; signals to this one are meant for it."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGSTOP if number == signal.SIGTSTP else number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT):
        signal.signal(number, hand_on)
    answer = _message(connection)
    if answer is None:
        sys.exit("error: the process that runs the stages of this `dvc repro` was ended. Run `dvc repro` again.")
    return answer["status"]


def _message(connection: socket.socket) -> dict[str, int] | None:
    """Return the next line that the server says; None if it has ended."""
    data = b""
    try:
        while not data.endswith(b"\n"):
            part = connection.recv(1)  # a line may be followed by another
            if not part:
                return None
            data += part
    except ConnectionResetError:
        return None
    message: dict[str, int] = json.loads(data)
    return message
