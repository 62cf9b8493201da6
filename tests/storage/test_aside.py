"""Checkpoints that are written while training goes on are those that would be written in line."""

import logging
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_job import job, trained_here

from pipeline.core.world import World
from pipeline.storage import aside as module
from pipeline.storage.aside import Aside
from pipeline.storage.checkpoint import Budgets, Checkpoints
from pipeline.storage.hashed import PIECE_BYTES, HashedFile
from pipeline.storage.host_copy import HostCopy
from pipeline.storage.room import free_memory
from pipeline.storage.store import Store
from pipeline.training.job import DivergedError
from pipeline.training.trainer import train


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, "key")


class Held:
    """Lets writes begin, and not end until ``go``; then they fail with ``error``, if there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.go, self.begun, self.writing = threading.Event(), threading.Event(), 0
        save = Checkpoints.save

        def held(checkpoints: Checkpoints, seen: int, content: dict[str, Any], budgets: Budgets) -> None:
            self.writing += 1
            assert self.writing == 1, "two are written at once"
            self.begun.set()
            assert self.go.wait(30)
            self.writing -= 1
            if error is not None:
                raise error
            save(checkpoints, seen, content, budgets)

        monkeypatch.setattr(Checkpoints, "save", held)


def content(value: float = 1.0) -> dict[str, Any]:
    """With all that a state has: another layout, a view, the same tensor twice, an empty one, numbers and versions."""
    shared = torch.full((3,), value)
    nets: OrderedDict[str, Any] = OrderedDict(
        weight=torch.full((4, 3, 5, 5), value).to(memory_format=torch.channels_last),
        half=torch.full((7,), value, dtype=torch.bfloat16),
        part=torch.full((8, 8), value)[::2, 1],
        first=shared,
        second=shared,
        empty=torch.zeros(0, 3),
        steps=torch.tensor(int(value)),
        flag=torch.tensor(True),
    )
    nets._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    return {"state": {"nets": nets, "groups": [{"lr": value, "betas": (0.5, 0.9)}]}, "history": [{"seen": 1}]}


def state_bytes(store: Store, seen: int) -> bytes:
    return (store.folder / f"checkpoints/{seen:012d}/state.pt").read_bytes()


def test_aside_and_in_line_write_the_same_bytes(store: Store) -> None:
    given, same = content(), content()
    for each in (given, same):
        del each["state"]["nets"]["part"]  # in line, torch saves all of what it is a view of
    store.save(1, same, Budgets())
    with Aside(store) as aside:
        aside.save(2, given, Budgets())
        given["state"]["nets"]["weight"].zero_()
        given["history"].append({"seen": 2})
    assert state_bytes(store, 1) == state_bytes(store, 2)
    assert store.newest() == 2, "its hash is another"


def test_a_copy_has_the_layout_versions_and_sharing_of_the_original() -> None:
    given = content()
    copied = HostCopy().take(given)
    old, new = given["state"]["nets"], copied["state"]["nets"]
    assert new._metadata == old._metadata
    assert new["first"] is new["second"] or new["first"].data_ptr() == new["second"].data_ptr()
    for name, tensor in old.items():
        assert torch.equal(new[name], tensor) and new[name].dtype == tensor.dtype
        assert name == "empty" or new[name].data_ptr() != tensor.data_ptr()
        assert new[name].untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert new["weight"].is_contiguous(memory_format=torch.channels_last)


def test_memory_is_taken_once(store: Store) -> None:
    copies = HostCopy()
    copies.reserve(content())
    places = {copies.take(content(value))["state"]["nets"]["weight"].data_ptr() for value in (1.0, 2.0, 3.0)}
    assert len(places) == 1


def test_what_is_not_written_yet_does_not_exist_and_the_next_one_waits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, content(), Budgets())
    held = Held(monkeypatch)
    with Aside(store) as aside:
        aside.save(2, content(2.0), Budgets())
        assert held.begun.wait(30) and aside.is_busy and store.newest() == 1
        next_one = threading.Thread(target=aside.save, args=(3, content(3.0), Budgets()))
        next_one.start()
        next_one.join(0.2)
        assert next_one.is_alive(), "it did not wait"
        held.go.set()
        next_one.join(30)
    assert store.existing() == [2, 3] and store.newest() == 3
    assert store.checkpoints.load(2, torch.device("cpu"))["state"]["nets"]["first"][0] == 2.0


@pytest.mark.parametrize("then", ["save", "check", "end"])
def test_a_failure_is_raised_later_and_names_the_file(store: Store, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    aside = Aside(store)
    aside.save(1, content(), Budgets())
    while aside.is_busy:
        time.sleep(0.01)
    with pytest.raises(OSError, match="No space left on device") as caught:
        if then == "save":
            aside.save(2, content(), Budgets())
        elif then == "check":
            aside.check()
        else:
            with aside:
                pass
    assert caught.value.errno == 28 and f"{1:012d}" in str(caught.value.filename)
    monkeypatch.undo()
    with aside:
        aside.save(3, content(), Budgets())
    assert store.existing() == [3], "half a checkpoint is there"


def test_an_error_of_training_waits_for_the_writer_and_comes_first(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(DivergedError, match="the loss"), Aside(store) as aside:
        aside.save(1, content(), Budgets())
        threading.Timer(0.1, held.go.set).start()
        raise DivergedError("the loss")
    assert held.writing == 0 and "No space left on device" in caplog.text


@pytest.mark.parametrize("short", ["limit", "mmap", "wait"])
def test_without_memory_for_a_copy_it_is_written_in_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    def refuse(*args: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    if short == "limit":
        monkeypatch.setattr("pipeline.storage.host_copy.free_memory", lambda: 1000)
    elif short == "mmap":
        monkeypatch.setattr(HostCopy, "_room", refuse)
    monkeypatch.setattr(Aside, "_write", lambda *_: pytest.fail("it was written aside"))
    with Aside(store) as aside:
        aside.prepare(content())
        aside.save(1, content(), Budgets(), wait=short == "wait")
        assert store.newest() == 1 and not aside.is_busy


def groups(root: Path, files: dict[str, str]) -> int | None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return free_memory(root)


def test_free_memory_is_the_least_of_the_machine_and_all_groups(tmp_path: Path) -> None:
    machine = {"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 600 kB\n", "proc/self/cgroup": "0::/job/step\n"}
    assert groups(tmp_path / "machine", machine) == 600 * 1024
    second = {
        "sys/fs/cgroup/job/step/memory.max": "max\n",
        "sys/fs/cgroup/job/step/memory.current": "100000\n",
        "sys/fs/cgroup/job/memory.max": "300000\n",
        "sys/fs/cgroup/job/memory.current": "200000\n",
        "sys/fs/cgroup/job/memory.stat": "anon 5\ninactive_file 50000\n",
    }
    assert groups(tmp_path / "second", machine | second) == 150_000
    first = {
        "proc/self/cgroup": "5:cpu:/x\n4:hugetlb,memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "400000\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "390000\n",
        "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 1000\n",
    }
    assert groups(tmp_path / "first", machine | first) == 11_000
    assert groups(tmp_path / "none", {"proc/version": "another system"}) is None


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
@pytest.mark.parametrize("direct", [True, False])
def test_a_hashed_file_has_the_bytes_and_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool
) -> None:
    import hashlib

    if not direct:
        monkeypatch.setattr("pipeline.storage.hashed._DIRECT", 0)
    whole = os.urandom(size)
    with HashedFile(tmp_path / "x") as file:
        for begin in range(0, size, 1_000_003):
            file.write(whole[begin : begin + 1_000_003])
    assert (tmp_path / "x").read_bytes() == whole
    assert file.hexdigest() == hashlib.sha256(whole).hexdigest()


def test_a_file_system_that_refuses_direct_writes_gets_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, refused = os.write, []

    def picky(file: int, part: Any) -> int:
        import fcntl

        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(len(part))
            raise OSError(22, "Invalid argument")
        return write(file, part[:1000] if len(part) > PIECE_BYTES // 2 else part)  # and writes less than asked

    monkeypatch.setattr(os, "write", picky)
    whole = os.urandom(2 * PIECE_BYTES + 5)
    with HashedFile(tmp_path / "x") as file:
        file.write(whole)
    assert (tmp_path / "x").read_bytes() == whole and len(refused) == 1


KILLED = """
import os, signal, sys, threading
from pathlib import Path
import torch
from pipeline.storage.aside import Aside
from pipeline.storage.checkpoint import Budgets
from pipeline.storage.store import Store
store, write, pieces = Store(Path(sys.argv[1]), "key"), os.write, []
store.save(1, {"x": torch.ones(3)}, Budgets())
def killed(file, part):
    pieces.append(part)
    if len(pieces) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(file, part)
os.write = killed
with Aside(store) as aside:
    aside.save(2, {"x": torch.ones(5_000_000)}, Budgets())
"""


def test_a_process_killed_while_writing_leaves_the_checkpoint_before(store: Store) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(store.folder)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert store.existing() == [1] and store.newest() == 1


def test_training_resumes_bit_equal_from_one_written_aside(tmp_path: Path) -> None:
    whole = trained_here(job(tmp_path / "whole"))
    half = job(tmp_path / "half")
    rows: list[Any] = []

    def broken(new: list[Any]) -> None:
        rows.extend(new)
        if len(rows) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(half, World(), broken)
    assert half.checkpoints.existing() == [128], "training that raises did not wait for the writer"
    again = trained_here(half)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("arguments", "aside", "in_line"),
    [
        ({}, [128], [256]),
        ({"stop": lambda: True}, [], [64]),
        ({"save": lambda: True}, [], [64, 128, 192, 256]),
    ],
)
def test_what_somebody_asked_for_is_there_when_its_row_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Callable[[], bool]],
    aside: list[int],
    in_line: list[int],
) -> None:
    """The end, a stop and a node that will be taken away wait for the writer; the cadence does not."""
    work, where = job(tmp_path), {True: [], False: []}  # type: dict[bool, list[int]]
    work = replace(work, run=replace(work.run, watch_every=0))
    save = Store.save

    def noted(store: Store, seen: int, *rest: Any) -> None:
        where[threading.current_thread() is threading.main_thread()].append(seen)
        save(store, seen, *rest)

    monkeypatch.setattr(module.Store, "save", noted)
    reported: list[int] = []

    def report(rows: list[Any]) -> None:
        for row in rows:
            reported.append(row["seen"])
            assert row["seen"] not in in_line or work.checkpoints.newest() == row["seen"]

    train(work, World(), report, **arguments)
    assert (where[False], where[True]) == (aside, in_line)
    assert reported[-1] == in_line[-1]


def test_a_full_disk_ends_training_at_the_next_log_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work = job(tmp_path, images=6400)

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    rows: list[Any] = []

    def report(new: list[Any]) -> None:
        rows.extend(new)
        time.sleep(0.05)

    with caplog.at_level(logging.ERROR), pytest.raises(OSError, match="No space left"):
        train(work, World(), report)
    assert 128 <= rows[-1]["seen"] < 640
