"""Training on Ray, which only this module and local_ray.py import.

Ray starts and restarts the workers; what they resume from are this program's own checkpoints, so a
worker's, a node's or the driver's death costs the time since the last one, and a damaged file of
Ray's own costs nothing: every start of the trainer has a new name.

Nodes of a cluster get this program's code and, where they do not see the project's folder, the data from Ray.
"""

import faulthandler
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

import pipeline
from pipeline import local_ray, mirror, nodes
from pipeline.config import Cluster
from pipeline.console import print_table
from pipeline.data.shards import Source, open_dataset
from pipeline.errors import UserError
from pipeline.journal import Journal
from pipeline.training import DivergedError, Job, Row, out_of_memory, record

# Set before Ray is imported, as it reads them then; what the user has set wins.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray trains in a thread, and glibc gives a thread memory that it hands back to the system at every turn:
# one arena for all threads lets training.keep_freed_memory work there too.
WORKER_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
# Ray's thread in a worker asks for the GIL a hundred times a second. After Python's 5 ms, training would stop until
# that thread has found a free core; within this time it gets the GIL in a backward pass, which lets go of it.
SWITCH_SECONDS = 0.2
REPORT_SECONDS = 5.0  # Ray drains reports every two seconds, and a report waits for the one before
START_SECONDS = 300
HEALTH_SECONDS = 120  # a worker that does not answer Ray for so long is replaced
PREFLIGHT_SECONDS = 120.0  # a node's first task imports torch
EXIT_SECONDS = 5.0
SERVED_AT_ONCE = 8


def train_on_ray(job: Job, cluster: Cluster, journal_folder: Path, stop: Callable[[], bool] = lambda: False) -> None:
    """Runs ``train`` on ``cluster.workers`` workers; rows reach the journal on the driver's node as they come.

    Once ``stop`` says so, the workers end at their next log window, at a checkpoint.
    """
    if cluster.address is None:
        _check_cpus(cluster, os.cpu_count() or 1, "this machine")
    _check_batch(job.run.batch_size, cluster)
    waits = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(min(cluster.stall_seconds, HEALTH_SECONDS)),
        # Where fewer would do, Ray is not to wait long for room on a node whose death it has not noticed yet.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(
            START_SECONDS if cluster.least == cluster.most else HEALTH_SECONDS
        ),
    }
    for name, value in (ENVIRONMENT | waits | (local_ray.ENVIRONMENT if cluster.address is None else {})).items():
        os.environ.setdefault(name, value)
    with _connected(cluster) as resources:
        if cluster.address is not None:
            preflight(cluster, job)
        scaling, threads = _scaling(cluster, resources)
        _fit(job, cluster, scaling, threads, journal_folder, stop)


def preflight(cluster: Cluster, job: Job) -> None:
    """Asks every node of a running cluster for what training needs, shows it, and raises before anything is
    scheduled where something is missing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    store, data, copy = Path(job.store), Path(job.data), nodes.copy_of(job, cluster.stream)
    store.mkdir(parents=True, exist_ok=True)
    ask, alive = ray.remote(num_cpus=0)(nodes.facts), [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    with ExitStack() as stack:
        name = Path(stack.enter_context(tempfile.NamedTemporaryFile(dir=store, prefix="preflight-")).name).name
        if job.url:
            stack.enter_context(mirror.token_at(job.url, name))
        here = nodes.facts("here", 0, str(store), job.url, name, copy)
        asked = [
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0)), str(store), job.url, name, copy
            )
            for node in alive
        ]
        found = _answers(asked, str(cluster.address))
    print_table(
        ("node", "host", "CPUs", "GPUs", "python", "torch", "ray", "cluster.storage"),
        [
            (n.address, n.host, str(n.cpus), ", ".join(n.gpus) or "none", n.versions["python"], n.versions["torch"])
            + (n.versions["ray"], n.storage if job.url is None else n.url)
            for n in found
        ],
    )
    copied = sum(file.stat().st_size for file in data.iterdir()) if job.url and not cluster.stream else 0
    wrong = nodes.problems(found, here.versions, job.url, copied)
    if wrong:
        raise UserError("the cluster is not fit to train on: " + "\n  ".join(["", *wrong]))


def _answers(asked: list[Any], address: str) -> list[nodes.Facts]:
    """Of the nodes that are still there; a node that has died is no obstacle, one that does not answer is."""
    import ray

    found, deadline = [], time.monotonic() + PREFLIGHT_SECONDS
    for answer in asked:
        try:
            found.append(ray.get(answer, timeout=max(deadline - time.monotonic(), 0.1)))
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError):
            continue
        except ray.exceptions.GetTimeoutError:
            raise UserError(
                f"params.yaml: cluster.address: not all {len(asked)} nodes of {address} answered within "
                f"{PREFLIGHT_SECONDS:.0f} s. `ray status` shows them; mend or stop those that hang."
            ) from None
    return found


def _check_batch(batch_size: int, cluster: Cluster) -> None:
    """Every worker takes the same share of a global batch, however many there are."""
    numbers = range(cluster.least, cluster.most + 1)
    if not numbers:
        raise UserError(f"params.yaml: cluster.workers: [{cluster.least}, {cluster.most}]: the least comes first.")
    uneven = [number for number in numbers if batch_size % number]
    if uneven:
        multiple = math.lcm(*numbers)
        raise UserError(
            f"params.yaml: cluster.workers: {uneven[0]} workers cannot share a batch_size of {batch_size} equally; "
            f"make the run's batch_size a multiple of {multiple}."
        )


@contextmanager
def _connected(cluster: Cluster) -> Iterator[dict[str, float]]:
    """The cluster's resources; a local cluster lives as long as the block."""
    import ray

    logging.getLogger("ray").setLevel(logging.WARNING)
    if (cluster.address or "").startswith("ray://"):
        raise UserError(
            f"params.yaml: cluster.address: '{cluster.address}' is a Ray client's address. Run `dvc repro` on a node "
            "of the cluster, with cluster.address: auto; docs/clusters.md shows how."
        )
    try:
        _knock(cluster.address)
        with _own_signal_handlers():
            context = ray.init(
                address=cluster.address or "local",
                include_dashboard=False if cluster.address is None else None,
                log_to_driver=False,
                configure_logging=False,
                runtime_env=_runtime_env(cluster),
            )
    except (ConnectionError, TimeoutError, socket.gaierror, ValueError) as error:
        raise UserError(
            f"params.yaml: cluster.address: cannot join '{cluster.address}' ({error}). "
            "Start it with `ray start --head`, or set cluster.address to null for a cluster of this machine alone."
        ) from error
    try:
        if cluster.address is None:
            local_ray.end_idle_processes()
        elif context.dashboard_url:
            print(f"Ray's dashboard: http://{context.dashboard_url}", flush=True)
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        started = psutil.Process().children(recursive=True) if cluster.address is None else []
        ray.shutdown()
        _end(started)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for a crash and aborts: after the block, this program's handlers hold again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _runtime_env(cluster: Cluster) -> dict[str, Any]:
    """What Ray's processes get: this program's code, by its place or, on a cluster, as a copy."""
    if cluster.address is None:
        return {"env_vars": WORKER_ENVIRONMENT | {"PYTHONPATH": str(Path.cwd())}}
    code = [str(Path(pipeline.__file__).parent)]
    return {"env_vars": WORKER_ENVIRONMENT, "py_modules": code, "worker_process_setup_hook": _name_interface}


def _name_interface() -> None:
    """In every process that Ray starts on a cluster: the head's address tells which network joins the nodes."""
    import ray

    nodes.name_interface(ray.get_runtime_context().gcs_address.rpartition(":")[0])


def _end(processes: list[psutil.Process]) -> None:
    """Ends what a cluster of this machine left behind: now and then an actor hangs in its exit and keeps a GB."""
    for process in psutil.wait_procs(processes, timeout=EXIT_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _knock(address: str | None) -> None:
    """Raises within seconds where nothing listens: Ray itself tries for minutes, then ends the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _scaling(cluster: Cluster, resources: dict[str, float]) -> tuple[Any, int]:
    """Ray's ScalingConfig and the threads of a worker; says at once what the cluster cannot give."""
    from ray.train import ScalingConfig

    cpus = int(resources.get("CPU", 0))
    _check_cpus(cluster, cpus, "the cluster")
    threads = cluster.cpus_per_worker or max(cpus // cluster.most, 1)
    gpus = resources.get("GPU", 0)
    wanted = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else float(gpus >= cluster.least)
    if wanted * cluster.least > gpus:
        raise UserError(
            f"params.yaml: cluster.gpus_per_worker: {cluster.least} workers with {wanted:g} GPUs each were asked "
            f"for, but the cluster has {gpus:g}. Lower cluster.workers or cluster.gpus_per_worker."
        )
    return ScalingConfig(
        num_workers=cluster.workers,  # type: ignore[arg-type]  # a pair is elastic: Ray's hints are behind
        use_gpu=wanted > 0,
        resources_per_worker={"CPU": threads} | ({"GPU": wanted} if wanted else {}),
    ), threads


def _check_cpus(cluster: Cluster, cpus: int, who: str) -> None:
    each = cluster.cpus_per_worker or 1
    if cluster.least * each > cpus:
        raise UserError(
            f"params.yaml: cluster.workers: {cluster.least} workers with {each} CPU each were asked for, but {who} "
            f"has {cpus}. Set cluster.workers to at most {cpus // each}, or join a larger cluster with cluster.address."
        )


def _fit(
    job: Job, cluster: Cluster, scaling: Any, threads: int, journal_folder: Path, stop: Callable[[], bool]
) -> None:
    """Trains to the end. Ray's controller restarts workers; if it dies itself, another one takes its place."""
    import ray
    from ray.train import TrainingFailedError

    settings = {
        "job": job,
        "parcel": _parcel(job, cluster.stream) if job.url else None,  # without a URL all nodes see the folders
        "threads": threads,
        "stall_seconds": cluster.stall_seconds,
    }
    _diverged(job).unlink(missing_ok=True)
    for left in reversed(range(cluster.max_failures + 1)):
        # Never the name of an earlier start: Ray would take its state, finished or damaged, for ours.
        name = f"{job.key[:16]}-{uuid.uuid4().hex[:8]}"
        trainer = _trainer(name, settings | {"name": name}, cluster, scaling, _to_journal(journal_folder, job))
        try:
            _run(trainer, name, stop)
            break
        except TrainingFailedError as error:
            if line := out_of_memory(error):
                raise MemoryError(line) from error
            raise UserError(_reason(error, cluster)) from error
        except ray.exceptions.RayActorError as error:
            if not left:
                raise UserError(
                    f"Ray's controller died {cluster.max_failures + 1} times. The last checkpoint is kept: look into "
                    "Ray's logs (/tmp/ray/session_latest/logs), and run `dvc repro` again."
                ) from error
            print("Ray's controller died; training starts again from the last checkpoint", flush=True)
            _release()
    if _diverged(job).exists():
        raise DivergedError(_diverged(job).read_text())


def _parcel(job: Job, stream: bool) -> nodes.Parcel:
    import ray

    return nodes.Parcel.of(job, ray.put, images_from_here(job.data) if stream else None)


def images_from_here(data: str) -> Callable[[str], Source]:
    """Where workers on other nodes ask for a split's images: an actor on the driver's node, which reads them there
    from the folder ``data``."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    server = ray.remote(_Images).options(
        num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1, max_concurrency=SERVED_AT_ONCE
    )
    return partial(_Asked, server.remote(data))


class _Images:
    """Reads images for workers on other nodes."""

    def __init__(self, data: str) -> None:
        self.splits = open_dataset(Path(data)).splits

    def read(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.splits[split].source.ask(rows)()


@dataclass(frozen=True)
class _Asked:
    """A split's images on the driver's node."""

    server: Any
    split: str

    def ask(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8]]:
        import ray

        reference = self.server.read.remote(self.split, rows)
        return lambda: np.array(ray.get(reference))  # torch takes no memory that is Ray's to write


def _release() -> None:
    """Gives back what a dead controller reserved: Ray keeps it until the driver ends. (Ray's own cleaner asks Ray's
    dashboard, which is not always there.)"""
    import ray
    from ray._raylet import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    own = ray.get_runtime_context().get_job_id()  # the end of the id of what a job reserves
    for name, group in placement_group_table().items():
        if name.endswith(own) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


def _run(trainer: Any, name: str, stop: Callable[[], bool]) -> None:
    """``trainer.fit()`` in a thread, so that this one hears signals; workers see a request to stop in Ray's store."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    fit: Future[Any] = Future()
    threading.Thread(target=_into, args=(fit, trainer.fit), daemon=True).start()  # a second Ctrl-C does not wait for it
    asked = False
    while not wait([fit], timeout=0.5).done:
        if stop() and not asked:
            asked = True
            print("stopping at the next checkpoint; once more ends at once", flush=True)
            _internal_kv_put(_stop_key(name), b"1", overwrite=True)
    _internal_kv_del(_stop_key(name))
    fit.result()


def _into(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _stop_key(name: str) -> bytes:
    return f"genloom-stop-{name}".encode()


def _is_asked_to_stop(name: str) -> bool:
    from ray.experimental.internal_kv import _internal_kv_exists

    return bool(_internal_kv_exists(_stop_key(name)))


def _trainer(name: str, settings: dict[str, Any], cluster: Cluster, scaling: Any, to_journal: Any) -> Any:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    job: Job = settings["job"]
    trainer = local_ray.trainer_class() if cluster.address is None else TorchTrainer
    return trainer(
        _worker,
        train_loop_config=settings,
        scaling_config=scaling,
        torch_config=TorchConfig(timeout_s=cluster.stall_seconds),
        run_config=RunConfig(
            name=name,
            storage_path=job.url or str(Path(job.store).absolute() / "ray"),
            callbacks=[to_journal],
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )


def _diverged(job: Job) -> Path:
    return Path(job.store) / "diverged.txt"


def _reason(error: Exception, cluster: Cluster) -> str:
    """The last line of a worker's exception, which is what it says."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = {str(cause).strip().splitlines()[-1] for cause in failures.values()} or {str(error).strip()}
    return (
        f"training failed {cluster.max_failures + 1} times, the last time with: {'; '.join(sorted(causes))} "
        "The last checkpoint is kept: mend the cause and run `dvc repro` again."
    )


def _to_journal(folder: Path, job: Job) -> Any:
    """A callback on Ray's controller, which runs on the driver's node."""
    from ray.train import UserCallback

    class ToJournal(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            # An exception here would end the training: what fails now, the driver records at the end.
            try:
                if message := metrics[0].get("diverged"):
                    _diverged(job).write_text(message)
                job.fetch_snapshots(metrics[0]["rows"])
                with Journal.open(folder) as journal:
                    record(journal, metrics[0]["rows"], job.snapshots)
            except Exception as error:
                print(f"journal {folder}: {error!r}", flush=True)

    return ToJournal()


def _worker(config: dict[str, Any]) -> None:
    """What each Ray worker runs."""
    import ray
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from pipeline.core.world import World
    from pipeline.training import train

    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(config["threads"])
    job = nodes.unpacked(config["job"], config["parcel"], ray.get)
    if torch.distributed.get_world_size() == 1:
        torch.distributed.destroy_process_group()  # gloo's thread wakes a hundred times a second
    world = World.joined(get_device())
    reporter = _Reporter(world, ray_train.report, config["stall_seconds"])
    try:
        train(job, world, reporter, lambda: world.rank == 0 and _is_asked_to_stop(config["name"]))
        reporter.flush()
        nodes.forget(config["job"], job)
    except DivergedError as error:  # on all ranks alike; no restart mends it, so to Ray it is no failure
        reporter.flush(diverged=str(error))
    finally:
        faulthandler.cancel_dump_traceback_later()


class _Reporter:
    """Collects rows and reports them together, all ranks at the same moment, at most every few seconds.

    A worker whose next row does not come in time says where it hangs and ends itself, so that Ray starts another.
    """

    def __init__(self, world: Any, report: Callable[[dict[str, Any]], None], stall_seconds: float) -> None:
        self.world, self.report, self.stall_seconds = world, report, stall_seconds
        self.rows: list[Row] = []
        self.last = time.monotonic()
        faulthandler.dump_traceback_later(stall_seconds, exit=True)

    def __call__(self, rows: list[Row]) -> None:
        faulthandler.dump_traceback_later(self.stall_seconds, exit=True)  # anew
        self.rows += rows
        if self.world.from_first(int(time.monotonic() - self.last >= REPORT_SECONDS)):
            self.flush()

    def flush(self, **more: str) -> None:
        self.report({"rows": self.rows, **more} if self.world.rank == 0 else {})
        self.rows, self.last = [], time.monotonic()
