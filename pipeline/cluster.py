"""Training on Ray: the only module that imports it.

Ray starts and restarts the workers; what they resume from are this program's own checkpoints, so a
worker's, a node's or the driver's death costs the time since the last one, and a damaged file of
Ray's own costs nothing: every start of the trainer has a new name.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.config import Cluster
from pipeline.errors import UserError
from pipeline.journal import Journal
from pipeline.training import DivergedError, Job, Row, record

# Set before Ray is imported, as it reads them then; what the user has set wins.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# A cluster of this machine alone, which lives as long as the training. Its workers train at the priority that
# training without Ray has, not at 15, and its dozen helpers, idle but for reports that nobody reads, report
# seldom: on two cores they otherwise take a tenth of one, and a step waits for its slowest thread.
LOCAL_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_metrics_report_interval_ms": "300000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_core_worker_internal_heartbeat_ms": "10000",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
}
# Ray trains in a thread, and glibc gives a thread memory that it hands back to the system at every turn:
# one arena for all threads lets training.keep_freed_memory work there too.
WORKER_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
REPORT_SECONDS = 5.0  # Ray drains reports every two seconds, and a report waits for the one before
COLLECTIVE_TIMEOUT_SECONDS = 300
EXIT_SECONDS = 5.0


def train_on_ray(job: Job, cluster: Cluster, journal_folder: Path) -> None:
    """Runs ``train`` on ``cluster.workers`` workers; rows reach the journal on the driver's node as they come."""
    if cluster.address is None:
        _check_cpus(cluster, os.cpu_count() or 1, "this machine")
    _check_batch(job.run.batch_size, cluster.workers)
    for name, value in (ENVIRONMENT | (LOCAL_ENVIRONMENT if cluster.address is None else {})).items():
        os.environ.setdefault(name, value)
    with _connected(cluster) as resources:
        scaling, threads = _scaling(cluster, resources)
        _fit(job, cluster, scaling, threads, journal_folder)


def _check_batch(batch_size: int, workers: int) -> None:
    """Every worker takes the same share of a global batch."""
    if batch_size % workers:
        raise UserError(
            f"params.yaml: cluster.workers: {workers} workers cannot share a batch_size of {batch_size} equally; "
            f"make the run's batch_size a multiple of {workers}."
        )


@contextmanager
def _connected(cluster: Cluster) -> Iterator[dict[str, float]]:
    """The cluster's resources; a local cluster lives as long as the block."""
    import ray

    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        _knock(cluster.address)
        ray.init(
            address=cluster.address or "local",
            include_dashboard=False if cluster.address is None else None,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())} | WORKER_ENVIRONMENT},
        )
    except (ConnectionError, TimeoutError, socket.gaierror, ValueError) as error:
        raise UserError(
            f"params.yaml: cluster.address: cannot join '{cluster.address}' ({error}). "
            "Start it with `ray start --head`, or set cluster.address to null for a cluster of this machine alone."
        ) from error
    try:
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        started = psutil.Process().children(recursive=True) if cluster.address is None else []
        ray.shutdown()
        _end(started)


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
    threads = cluster.cpus_per_worker or max(cpus // cluster.workers, 1)
    gpus = resources.get("GPU", 0)
    wanted = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else float(gpus >= cluster.workers)
    if wanted * cluster.workers > gpus:
        raise UserError(
            f"params.yaml: cluster.gpus_per_worker: {cluster.workers} workers with {wanted:g} GPUs each were asked "
            f"for, but the cluster has {gpus:g}. Lower cluster.workers or cluster.gpus_per_worker."
        )
    return ScalingConfig(
        num_workers=cluster.workers,
        use_gpu=wanted > 0,
        resources_per_worker={"CPU": threads} | ({"GPU": wanted} if wanted else {}),
    ), threads


def _check_cpus(cluster: Cluster, cpus: int, who: str) -> None:
    each = cluster.cpus_per_worker or 1
    if cluster.workers * each > cpus:
        raise UserError(
            f"params.yaml: cluster.workers: {cluster.workers} workers with {each} CPU each were asked for, but {who} "
            f"has {cpus}. Set cluster.workers to at most {cpus // each}, or join a larger cluster with cluster.address."
        )


def _fit(job: Job, cluster: Cluster, scaling: Any, threads: int, journal_folder: Path) -> None:
    from ray.train import FailureConfig, RunConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "threads": threads},
        scaling_config=scaling,
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        run_config=RunConfig(
            # Never the name of an earlier start: Ray would take its state, finished or damaged, for ours.
            name=f"{job.key[:16]}-{uuid.uuid4().hex[:8]}",
            storage_path=str(Path(job.store).absolute() / "ray"),
            callbacks=[_to_journal(journal_folder, job.snapshots)],
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    _diverged(job).unlink(missing_ok=True)
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise UserError(_reason(error, cluster)) from error
    if _diverged(job).exists():
        raise DivergedError(_diverged(job).read_text())


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


def _to_journal(folder: Path, snapshots: Path) -> Any:
    """A callback on Ray's controller, which runs on the driver's node."""
    from ray.train import UserCallback

    class ToJournal(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            # An exception here would end the training: what fails now, the driver records at the end.
            try:
                with Journal.open(folder) as journal:
                    record(journal, metrics[0]["rows"], snapshots)
            except Exception as error:
                print(f"journal {folder}: {error!r}", flush=True)

    return ToJournal()


def _worker(config: dict[str, Any]) -> None:
    """What each Ray worker runs."""
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from pipeline.core.world import World
    from pipeline.training import train

    torch.set_num_threads(config["threads"])
    world = World.joined(get_device())
    reporter = _Reporter(world, ray_train.report)
    try:
        train(config["job"], world, reporter)
    except DivergedError as error:  # on all ranks alike; no restart mends it, so to Ray it is no failure
        if world.rank == 0:
            _diverged(config["job"]).write_text(str(error))
    reporter.flush()


class _Reporter:
    """Collects rows and reports them together, all ranks at the same moment, at most every few seconds."""

    def __init__(self, world: Any, report: Callable[[dict[str, Any]], None]) -> None:
        self.world, self.report = world, report
        self.rows: list[Row] = []
        self.last = time.monotonic()

    def __call__(self, rows: list[Row]) -> None:
        self.rows += rows
        if self.world.from_first(int(time.monotonic() - self.last >= REPORT_SECONDS)):
            self.flush()

    def flush(self) -> None:
        self.report({"rows": self.rows} if self.world.rank == 0 else {})
        self.rows, self.last = [], time.monotonic()
