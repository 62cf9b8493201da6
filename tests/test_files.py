"""Locks between processes and threads: exclusive, dropped with their process, waited for with one message."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.console import set_up_logging
from pipeline.files import borrow, locked

ROOT = Path(__file__).parents[1]
HOLDER = """
    import sys, time
    from pathlib import Path
    from pipeline.files import locked
    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


def hold_elsewhere(path: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock until its input is closed or it is killed."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "lock"


def test_a_lock_is_free_after_its_block_and_its_file_stays(path: Path) -> None:
    for _ in range(2):
        with locked(path):
            inode = path.stat().st_ino
        # A file that is removed on release lets two processes lock two files of one name.
        assert path.stat().st_ino == inode


def test_another_process_waits_so_long_and_no_longer(path: Path) -> None:
    with hold_elsewhere(path) as holder:
        for wait in (0.0, 0.3):
            began = time.monotonic()
            with pytest.raises(BlockingIOError) as caught, locked(path, wait):
                pass
            assert caught.value.filename == str(path)
            assert wait <= time.monotonic() - began < wait + 1
        assert holder.stdin is not None
        holder.stdin.close()
        with locked(path, 10):
            assert holder.wait(10) == 0


def test_kill_9_drops_the_lock(path: Path) -> None:
    with hold_elsewhere(path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with locked(path):
            pass


def test_a_second_call_in_the_same_process_has_to_wait_too(path: Path) -> None:
    refused: list[str] = []

    def contend() -> None:
        try:
            with locked(path):
                pass
        except BlockingIOError as error:
            refused.append(str(error.filename))

    with locked(path):
        contend()
        thread = threading.Thread(target=contend)
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="Deadlock"), locked(path, wait=None):
            pass
    assert refused == [str(path)] * 2
    contend()
    assert len(refused) == 2


def test_threads_take_turns(path: Path) -> None:
    inside, most, turns = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(5):
            with locked(path, wait=None):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                turns += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, turns) == (1, 10)


def test_a_lock_may_be_released_by_another_thread(path: Path) -> None:
    stack = ExitStack()
    stack.enter_context(locked(path))
    thread = threading.Thread(target=stack.close)
    thread.start()
    thread.join()
    with locked(path):
        pass


def test_waiting_is_announced_once_and_only_when_there_is_something_to_wait_for(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    with locked(path, wait=None, announce="another process is at work; waiting for it"):
        assert caplog.messages == []
    with hold_elsewhere(path) as holder:
        assert holder.stdin is not None
        timer = threading.Timer(0.5, holder.stdin.close)
        timer.start()
        with locked(path, wait=None, announce="another process is at work; waiting for it"):
            timer.join()
            assert caplog.messages == ["another process is at work; waiting for it"]


def test_a_copy_borrows_what_it_lacks_as_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, copy = tmp_path / "root", tmp_path / "root/.dvc/tmp/exps/x"
    for name in ("photos/cats/1.png", "half/cats/1.png", "half/dogs/inner/2.png", "photos.zip"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (copy / "half/cats").mkdir(parents=True)
    (copy / "half/cats/1.png").write_text("the copy's own")
    monkeypatch.chdir(copy)
    for name in ("photos", "half", "photos.zip", "nothing"):
        borrow(Path(name), root)
        borrow(Path(name), root)  # again changes nothing
    assert Path("photos").is_symlink() and Path("photos/cats/1.png").read_text() == "photos/cats/1.png"
    assert Path("photos.zip").read_text() == "photos.zip" and not Path("nothing").exists()
    assert Path("half/cats/1.png").read_text() == "the copy's own"
    assert Path("half/dogs/inner/2.png").is_symlink() and not Path("half/dogs").is_symlink()
    monkeypatch.chdir(root)
    borrow(Path("photos"), root)
    assert not Path("photos").is_symlink()


def test_an_unknown_log_level_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pipeline")
    before = logger.level, logger.propagate, logger.handlers[:]
    try:
        for value, said in (("loud", True), ("", False), ("Debug", False)):
            monkeypatch.setenv("GENLOOM_LOG", value)
            set_up_logging()
            message = "GENLOOM_LOG: there is no level 'loud': info is taken. Set it to debug, info, warning, error."
            assert (message in capsys.readouterr().err) == said
    finally:
        logger.level, logger.propagate, logger.handlers[:] = before
