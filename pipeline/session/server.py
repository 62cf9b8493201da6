"""A process that has loaded what stages need, and from which they are forked: of one `dvc repro`, gone when that ends.

DVC starts a process for each stage, and every one of them would import torch and MLflow anew, which is half of what a
small stage costs. Here the first stage that needs them starts this process (client.py); each stage then is a fork of
it, with the arguments, environment, folder and files of the process that DVC started, which waits for its end, hands
signals on, and ends as the fork did. Nothing of this package is loaded here, so a fork runs the code as it is then.

Only what was asked for is imported, by what a stage says that it needs. This process runs no thread of its own and
calls nothing of what it imports, and nothing is imported here that starts a thread which a fork would miss (onnxruntime
does): that is what makes forking right. It looks for no garbage, which would take a fourth of the time of all imports;
a fork does, but not among what it was born with.

What a stage's other processes will need (MLflow) a second such process loads, forked from this one: a training would
have it in its memory otherwise. Who needs it too asks the second one, at the socket ``later``.

It is run by its path, with the standard library alone: ``python server.py SOCKET PID``.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

_PDEATHSIG = 1  # of prctl(2)
_PATIENCE = 10.0  # seconds for what stays, once DVC has ended
_LATER = "later"  # the socket of the second process


@dataclass(kw_only=True)
class Child:
    """A fork.

    Attributes:
        pid: of its process, and of its process group.
        waiting: the socket of the process that waits for it; None: nobody does.
        stays: it lives until DVC ends, whoever has asked for it.
        ended: a file that can be read when it has ended.
    """

    pid: int
    waiting: socket.socket | None
    stays: bool
    ended: int = field(init=False)

    def __post_init__(self) -> None:
        self.ended = os.pidfd_open(self.pid)


class Server:
    """Forks on request, tells how each fork ended, and ends when DVC has and the last of its stages with it.

    Args:
        listening: the socket for requests.
        dvc: a file that can be read when DVC has ended; of the second server, when the first has.
        soon: what the second server is to load; None: it has been started, or this is it.
    """

    def __init__(self, listening: socket.socket, dvc: int, soon: list[str] | None) -> None:
        self.listening, self.dvc, self.soon = listening, dvc, soon
        self.selector = selectors.DefaultSelector()
        self.children: list[Child] = []
        self.selector.register(listening, selectors.EVENT_READ, self._accept)
        self.selector.register(dvc, selectors.EVENT_READ, self._finish)
        self.finishing = False

    def serve(self) -> "Request | None":
        """Serve until DVC ends; return a request in the process that was forked for it, None here."""
        while not self.finishing or any(not child.stays for child in self.children):
            for key, _ in self.selector.select():
                if request := key.data(key.fileobj):
                    return request
            if self.soon and (second := self._start_second(self.soon)):
                request = second.serve()
                if request is None:
                    os._exit(0)  # the folder is the first one's, or of one that has replaced it
                return request
        self._end_what_stays()
        return None

    def _start_second(self, names: list[str]) -> "Server | None":
        """Fork the second server and load these modules in it; return it there, None here."""
        self.soon = None
        with contextlib.ExitStack() as opened:
            try:
                listening = opened.enter_context(socket.socket(socket.AF_UNIX))
                listening.bind(str(Path(self.listening.getsockname()).with_name(_LATER)))
                listening.listen()  # already: who asks waits until it has loaded them
                this = os.pidfd_open(os.getpid())
                opened.callback(os.close, this)
                if _fork():
                    return None
            except OSError:
                return None  # then without it: who needs these modules loads them
            opened.pop_all()
        self._leave()
        _load(names)
        return Server(listening, this, soon=None)

    def _finish(self, dvc: int) -> None:
        """DVC has ended: a stage of it may go on for a while, as it would without this process."""
        self.selector.unregister(dvc)
        self.finishing = True

    def _accept(self, listening: socket.socket) -> "Request | None":
        connection, _ = listening.accept()
        try:
            request = Request.receive(connection)
        except (OSError, ValueError):
            connection.close()
            return None
        os.environ.clear()
        os.environ.update(request.environment)  # what is imported may read it
        _load(request.needs)
        pid = _fork()
        if pid == 0:
            connection.close()
            self._leave()
            return request
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # as the fork does itself, whichever comes first
        request.close()
        child = Child(pid=pid, waiting=connection, stays=request.stays)
        self.children.append(child)
        self.selector.register(child.ended, selectors.EVENT_READ, lambda _: self._ended(child))
        self.selector.register(connection, selectors.EVENT_READ, lambda _: self._heard(child))
        self._tell(child, {"pid": pid})
        if self.soon is not None:
            self.soon += request.soon
        return None

    def _leave(self) -> None:
        """In a fork: keep nothing of this process open."""
        self.listening.close()
        self.selector.close()
        os.close(self.dvc)
        for child in self.children:
            os.close(child.ended)
            if child.waiting:
                child.waiting.close()

    def _heard(self, child: Child) -> None:
        """End a fork for which nobody waits any more: the process that did has been killed."""
        self._forget_waiting(child)
        if not child.stays:
            _kill(child, signal.SIGKILL)

    def _ended(self, child: Child) -> None:
        self.selector.unregister(child.ended)
        os.close(child.ended)
        self.children.remove(child)
        _, status = os.waitpid(child.pid, 0)
        self._tell(child, {"status": os.waitstatus_to_exitcode(status)})
        self._forget_waiting(child)

    def _forget_waiting(self, child: Child) -> None:
        if child.waiting:
            self.selector.unregister(child.waiting)
            child.waiting.close()
            child.waiting = None

    def _tell(self, child: Child, message: dict[str, int]) -> None:
        if child.waiting:
            with contextlib.suppress(OSError):
                child.waiting.sendall(json.dumps(message).encode() + b"\n")

    def _end_what_stays(self) -> None:
        for child in self.children:
            _kill(child, signal.SIGTERM)
        with selectors.DefaultSelector() as ends:
            for child in self.children:
                ends.register(child.ended, selectors.EVENT_READ)
            while ends.get_map() and (ready := ends.select(_PATIENCE)):
                for key, _ in ready:
                    ends.unregister(key.fileobj)
        for child in self.children:
            _kill(child, signal.SIGKILL)


@dataclass(kw_only=True)
class Request:
    """A module to run as a process of another.

    Attributes:
        module: its name, run as ``python -m`` runs it.
        arguments: sys.argv[1:].
        needs: modules to import before.
        soon: modules that it will need in another process; the second server imports them while it begins.
        environment: of the process.
        folder: its working directory.
        path: sys.path.
        umask: of the files it makes.
        stays: it lives until DVC ends.
        files: numbers of what become its standard input, output and error.
    """

    module: str
    arguments: list[str]
    needs: list[str]
    soon: list[str]
    environment: dict[str, str]
    folder: str
    path: list[str]
    umask: int
    stays: bool
    files: list[int]

    @classmethod
    def receive(cls, connection: socket.socket) -> "Request":
        """Read a request, a line of JSON with three files; ValueError: it is not one."""
        data, files, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        while data and not data.endswith(b"\n"):
            data += connection.recv(1 << 16)
        content: dict[str, Any] = json.loads(data)
        return cls(**content, files=files)

    def close(self) -> None:
        """Close the files, which the fork has."""
        for number in self.files:
            os.close(number)

    def become(self) -> NoReturn:
        """Make this process, a fork, what the one that asks would be; run the module, and end as a process of its own.

        It ends as multiprocessing's forks do: by what Python does at an exit, but without the end of the interpreter,
        where libraries wait for threads that the fork does not have.
        """
        gc.enable()
        os.setpgid(0, 0)  # the terminal's Ctrl-C is for the process that waits, which hands it on
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for place, file in enumerate(self.files):
            os.dup2(file, place)
        self.close()
        os.chdir(self.folder)
        os.umask(self.umask)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[:] = self.path
        sys.argv[:] = [self.module, *self.arguments]
        _reopen_output()
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        code = _run(self.module)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for those that are no daemons
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _fork() -> int:
    """Fork, so that the fork will look for garbage only among what is new."""
    gc.freeze()
    return os.fork()


def _load(names: list[str]) -> None:
    for name in names:
        # Whatever is wrong with it, the stage itself will meet it and say so.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _run(module: str) -> int:
    """Run a module as the main one; return its exit code, after its message."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            return 130
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _reopen_output() -> None:
    """Let print go to a terminal line by line and to a file in blocks, whatever this process's own output was."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        lines = number == 2 or os.isatty(number)
        new = os.fdopen(number, "w", 1 if lines else -1, old.encoding, old.errors, closefd=False)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _kill(child: Child, number: int) -> None:
    """Send a signal to a fork and to what it has started in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def main() -> None:
    """Serve, or, in a fork, be what was asked for."""
    gc.disable()
    listening = socket.socket(fileno=int(sys.argv[1]))
    dvc = os.pidfd_open(int(sys.argv[2]))
    # Of the terminal, or meant for DVC and all that it has started: DVC ends of it, stages have it from those who wait
    # for them, and then this process ends.
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    folder = Path(listening.getsockname()).parent
    request = Server(listening, dvc, soon=[]).serve()
    if request:
        request.become()
    else:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
