"""What a cluster cannot give is said at once; two Ray workers train what one process trains."""

import faulthandler
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
import torch
from toy_job import job, launching, train_on, trained_here, weights

from pipeline.cluster.connect import connect
from pipeline.cluster.driver import train_on_ray
from pipeline.cluster.launch import exclusive
from pipeline.cluster.worker import _Reporter
from pipeline.config import Cluster
from pipeline.core.world import World
from pipeline.errors import UserError
from pipeline.tracking.journal import Journal
from pipeline.tracking.record import record
from pipeline.training.job import DivergedError, Job, Row
from pipeline.training.memory import out_of_memory
from pipeline.training.trainer import train


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (Cluster(workers=512), "cluster.workers: 512 workers with 1 CPU each were asked for, but this machine has"),
        (Cluster(workers=1, cpus_per_worker=999), "1 workers with 999 CPU each"),
        (Cluster(workers=2), "2 workers cannot share a batch_size of 15 equally"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(tmp_path: Path, cluster: Cluster, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match=message):
        train_on_ray(job(tmp_path, batch_size=15), cluster, tmp_path)
    assert time.monotonic() - begin < 5
    assert not (tmp_path / "store").exists()


LATE = """
import ray
from pipeline.cluster.connect import connect
from pipeline.cluster.driver import rays_environment
from pipeline.config import Cluster

for _ in range(2):
    with rays_environment(Cluster()), connect(Cluster()) as resources:
        print(int(resources["CPU"] > 0), ray.get(ray.remote(num_cpus=0)(lambda: "answered").remote()))
"""


def test_a_process_that_has_loaded_ray_already_starts_a_cluster() -> None:
    without = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    found = subprocess.run([sys.executable, "-c", LATE], env=without, text=True, capture_output=True, timeout=120)
    assert found.stdout.split() == ["1", "answered"] * 2, found.stderr


def test_a_loss_that_is_not_finite_ends_training_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    work = job(tmp_path, images=100_000, lr=1e30)
    with pytest.raises(DivergedError, match="not finite"):
        trained_here(work)
    newest = work.checkpoints.newest()
    assert newest is None or newest < work.finished_at


def test_a_divergence_promises_a_checkpoint_where_there_is_one_alone(tmp_path: Path) -> None:
    diverging = job(tmp_path, images=100_000, lr=1e30)
    with pytest.raises(UserError, match=r"diverged.*It ended before its first checkpoint; its pictures"):
        train_on(Cluster(workers=0), diverging)
    trained_here(job(tmp_path, images=256))
    with pytest.raises(UserError, match=r"diverged.*The last good checkpoint, at 256 images"):
        train_on(Cluster(workers=0), diverging)


def test_a_training_in_which_every_step_is_skipped_has_diverged(tmp_path: Path) -> None:
    work = job(tmp_path, images=512, lr=1e30)
    with pytest.raises(DivergedError, match="not finite in any step between"):
        trained_here(replace(work, run=replace(work.run, non_finite="skip")))


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), "CUDA out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "can't allocate memory"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("1 worker(s) were killed due to the node running low on memory. Memory"), "running low"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (UserError("no such file"), None),
    ],
)
def test_what_ended_training_for_want_of_memory_is_known(error: Exception, found: str | None) -> None:
    line = out_of_memory(error)
    assert line is None if found is None else found in str(line)


def _trains_in_little_memory(folder: Path, room: int) -> None:
    """In a process of its own, whose address space may grow by ``room`` bytes alone."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
    try:
        train_on(Cluster(workers=0), job(folder, batch_size=200_000, images=400_000))
    except UserError as error:
        (folder / "said").write_text(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space through /proc")
def test_too_little_memory_ends_in_advice(tmp_path: Path) -> None:
    process = get_context("spawn").Process(target=_trains_in_little_memory, args=(tmp_path, 2**29))
    process.start()
    process.join(120)
    said = (tmp_path / "said").read_text()
    assert "more memory than there is" in said and "runs.<run>.batch_size" in said


@pytest.mark.slow
def test_a_worker_that_ray_ends_for_its_memory_ends_in_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()
    limit = (memory.total - memory.available + 4e9) / memory.total  # a cluster of one worker takes 2 GB
    monkeypatch.setenv("RAY_memory_usage_threshold", str(min(limit, 0.95)))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "200")
    work = job(tmp_path, batch_size=40_000, images=400_000)
    work = replace(work, method=replace(work.method, width=64))  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"more memory than there is \(.*running low on memory"):
        train_on(Cluster(workers=1, max_failures=0), work)


def _started() -> list[tuple[psutil.Process, str]]:
    """What this process has started, with its command line."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found.append((process, " ".join(process.cmdline())))
    return found


def _kill_the_controller(work: Job) -> None:
    """Once there is a checkpoint."""
    while work.checkpoints.newest() is None:
        time.sleep(0.1)
    for process, name in _started():
        if "ray::TrainController" in name:
            process.kill()


@pytest.mark.slow
def test_the_driver_starts_another_controller_where_one_dies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = job(tmp_path, images=8_000)
    with Journal.open(Path(work.store)) as journal:
        journal.start(name="toy", key="key", params={}, tags={})
    threading.Thread(target=_kill_the_controller, args=(work,), daemon=True).start()
    train_on_ray(work, Cluster(workers=1), Path(work.store))
    assert work.checkpoints.newest() == work.finished_at
    assert caplog.text.count("controller died") == 1


def test_a_checkpoint_is_written_once_for_each_node_that_will_be_taken_away(tmp_path: Path) -> None:
    notices = iter([set(), {"a"}, {"a"}, {"a", "b"}])
    reporter = _Reporter(World(), lambda rows: None, 600.0, lambda: next(notices))
    asked: list[bool] = []

    def report(rows: list[Row]) -> None:
        if rows and rows[0]["seen"] > 0:
            reporter.flush()

    def save() -> bool:
        asked.append(reporter.wants_checkpoint())
        return asked[-1]

    work = job(tmp_path)
    work = replace(work, run=replace(work.run, checkpoint_every=10**6))
    try:
        train(work, World(), report, save=save)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert asked == [False, False, True, False]
    assert work.checkpoints.existing() == [192, work.finished_at]


def test_the_first_rows_are_reported_at_once_and_the_next_together() -> None:
    reported: list[int] = []
    reporter = _Reporter(World(), lambda report: reported.append(len(report["rows"])), 600.0)
    try:
        reporter([])  # of a training that begins
        for _ in range(3):
            reporter([{"seen": 64}])
        reporter.flush()
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert reported == [1, 2]


def test_stopping_leaves_a_checkpoint_from_which_it_goes_on(tmp_path: Path) -> None:
    through = trained_here(job(tmp_path / "a"))
    work = job(tmp_path / "b")
    rows: list[int] = []
    train(work, World(), lambda new: rows.extend(row["seen"] for row in new), stop=lambda: len(rows) >= 2)
    assert work.checkpoints.newest() not in (None, work.finished_at)
    resumed = trained_here(work)
    assert all(torch.equal(through[key], resumed[key]) for key in through)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
def test_two_ray_workers_train_what_one_process_trains(tmp_path: Path, shard: bool) -> None:
    plain = {"optimizer": "sgd", "lr": 1e-2}  # Adam would blow up the rounding of the smallest gradients
    alone = trained_here(job(tmp_path / "alone", **plain))
    work = replace(job(tmp_path / "two", **plain), shard=shard)
    with Journal.open(Path(work.store)) as journal:
        journal.start(name="toy", key="key", params={}, tags={})
    helpers: set[str] = set()
    with subprocess.Popen(["sleep", "600"]) as other:  # what sends the journal to MLflow is a child of this process too
        train_on_ray(
            work, Cluster(workers=2), Path(work.store), stop=lambda: bool(helpers.update(n for _, n in _started()))
        )
        assert other.poll() is None
        other.kill()
    assert not [name for _, name in _started() if "ray" in name]
    assert any("RayTrainWorker" in name for name in helpers)
    two = weights(work)
    for key, value in alone.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5, msg=key)
    with Journal.open(Path(work.store)) as journal:
        assert [row["step"] for row in journal.rows()] == [64, 128, 192, 256]


@pytest.mark.slow
def test_a_stopped_training_goes_on_whatever_has_become_of_rays_own_files(tmp_path: Path) -> None:
    """Ray reads its snapshots when a name is used again, and a half-written one would end every later start."""
    cluster = Cluster(workers=1, cpus_per_worker=torch.get_num_threads())  # as here: sums of other threads differ
    through = trained_here(job(tmp_path / "alone", images=20_000))
    work = job(tmp_path / "ray", images=20_000)
    with Journal.open(Path(work.store)) as journal:
        journal.start(name="toy", key="key", params={}, tags={})
    train_on_ray(work, cluster, Path(work.store), stop=lambda: work.checkpoints.newest() is not None)
    assert work.checkpoints.newest() not in (None, work.finished_at)
    files = [file for file in (Path(work.store) / "ray").rglob("*") if file.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    train_on_ray(work, cluster, Path(work.store))
    assert all(torch.equal(through[key], value) for key, value in weights(work).items())


def test_a_run_has_one_trainer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second one waits, and says so once."""
    order: list[str] = []
    work = job(tmp_path)
    about = launching(Cluster(workers=0), work)

    def second() -> None:
        with exclusive(work, about):
            order.append("second")

    with caplog.at_level("WARNING"), exclusive(work, about):
        waiting = threading.Thread(target=second)
        waiting.start()
        while not caplog.records:
            time.sleep(0.01)
        time.sleep(0.2)
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "second"]
    assert [record.getMessage() for record in caplog.records] == [
        "toy: another process is training this very run; waiting until it is done"
    ]


def test_who_waits_for_a_training_beside_it_sees_what_that_wrote_since(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also what it wrote before this one came, and where it has ended since; nothing of an earlier start."""
    work = job(tmp_path)
    about, begun = launching(Cluster(workers=0), work), time.time()
    with Journal.open(Path(work.store)) as journal:
        journal.start(name="toy", key="key", params={}, tags={})
        train(work, World(), lambda rows: record(journal, rows, work.snapshots))
    with caplog.at_level("WARNING"), exclusive(work, about, since=time.time() + 1):
        assert "images" not in capfd.readouterr().err
    with caplog.at_level("WARNING"), exclusive(work, about, since=begun):
        assert "toy: 256 of 256 images" in capfd.readouterr().err
    assert not caplog.records


def test_a_cluster_of_this_machine_that_fails_is_not_called_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise ConnectionError("nobody answered")

    monkeypatch.setattr("pipeline.cluster.connect.join", refused)
    with pytest.raises(UserError, match=r"of this machine .*nobody answered.*workers to 0"), connect(Cluster()):
        pass


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    before = dict(os.environ)
    with pytest.raises(UserError, match=r"cluster\.address: cannot join '127\.0\.0\.1:1'"):
        train_on_ray(job(tmp_path), Cluster(workers=1, address="127.0.0.1:1"), tmp_path)
    assert dict(os.environ) == before  # what this training set, another one does not find
