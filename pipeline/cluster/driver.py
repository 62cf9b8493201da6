"""Training on a Ray cluster, seen from the process that wants it.

Ray starts and restarts the workers; what they resume from are this program's own checkpoints, so a
worker's, a node's or the driver's death costs the time since the last one, and a damaged file of
Ray's own costs nothing: every start of the trainer has a new name.

Nodes of a cluster get this program's code and, where they do not see the project's folder, the data from Ray.
"""

import math
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cluster import nodes
from pipeline.cluster import one_machine as local
from pipeline.cluster.connect import check_cpus, connected, preflight, scaling_for
from pipeline.cluster.image_server import images_from_here
from pipeline.cluster.worker import stop_key, worker
from pipeline.config import Cluster
from pipeline.errors import UserError
from pipeline.tracking.journal import Journal
from pipeline.tracking.record import record
from pipeline.training.job import DivergedError, Job
from pipeline.training.memory import out_of_memory

# Set before Ray is imported, as it reads them then; what the user has set wins.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
START_SECONDS = 300
HEALTH_SECONDS = 120  # a worker that does not answer Ray for so long is replaced


def train_on_ray(job: Job, cluster: Cluster, journal_folder: Path, stop: Callable[[], bool] = lambda: False) -> None:
    """Runs ``train`` on ``cluster.workers`` workers; rows reach the journal on the driver's node as they come.

    Once ``stop`` says so, the workers end at their next log window, at a checkpoint.
    """
    if cluster.address is None:
        check_cpus(cluster, os.cpu_count() or 1, "this machine")
    _check_batch(job.run.batch_size, cluster)
    waits = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(min(cluster.stall_seconds, HEALTH_SECONDS)),
        # Where fewer would do, Ray is not to wait long for room on a node whose death it has not noticed yet.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(
            START_SECONDS if cluster.least == cluster.most else HEALTH_SECONDS
        ),
    }
    variables = ENVIRONMENT | waits | (local.ENVIRONMENT if cluster.address is None else {})
    with _environment(variables), connected(cluster) as resources:
        if cluster.address is not None:
            preflight(cluster, job)
        scaling, threads = scaling_for(cluster, resources)
        _fit(job, cluster, scaling, threads, journal_folder, stop)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets them where they are not set, for the block alone, as another training may want others; Ray's own go too."""
    before = dict(os.environ)
    os.environ |= variables | before
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


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
        "watched": cluster.address is not None,  # by Ray, for nodes that will be taken away
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


def _trainer(name: str, settings: dict[str, Any], cluster: Cluster, scaling: Any, to_journal: Any) -> Any:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    job: Job = settings["job"]
    trainer = local.trainer_class() if cluster.address is None else TorchTrainer
    return trainer(
        worker,
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
            _internal_kv_put(stop_key(name), b"1", overwrite=True)
    _internal_kv_del(stop_key(name))
    fit.result()


def _into(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


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


def _to_journal(folder: Path, job: Job) -> Any:
    """A callback on Ray's controller, which runs on the driver's node."""
    from ray.train import UserCallback

    class ToJournal(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            # An exception here would end the training: what fails now, the driver records at the end.
            try:
                if message := metrics[0].get("diverged"):
                    _diverged(job).write_text(message)
                job.storage.fetch_snapshots(row["snapshot"] for row in metrics[0]["rows"] if row["snapshot"])
                with Journal.open(folder) as journal:
                    record(journal, metrics[0]["rows"], job.snapshots)
            except Exception as error:
                print(f"journal {folder}: {error!r}", flush=True)

    return ToJournal()


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
