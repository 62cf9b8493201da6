"""Training on a Ray cluster, from the driver: the process that wants it.

Ray starts and restarts the workers; they resume from this program's own checkpoints. So the death of a worker, a node
or the driver costs the time since the last one, and a damaged file of Ray's own costs nothing: every start of the
trainer has a new name.

Nodes of a cluster get this program's code from Ray, and the data too if they do not see the project's folder.
"""

import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cluster import nodes, one_machine
from pipeline.cluster.connect import check_cpus, connect, logs, preflight, scaling_for
from pipeline.cluster.image_server import start_image_server
from pipeline.cluster.stop_request import StopByActor, StopByFile, StopRequest
from pipeline.cluster.worker import run_worker
from pipeline.config import Cluster
from pipeline.errors import UserError
from pipeline.tracking.journal import Journal
from pipeline.tracking.record import record
from pipeline.training.checks import check_workers
from pipeline.training.job import DivergedError, Job
from pipeline.training.memory import out_of_memory

# Set before Ray is imported, as it reads them then; what the user has set wins.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # how late reports come, and the end is noticed; Ray's own is 2
}
START_SECONDS = 300
HEALTH_SECONDS = 120  # a worker that does not answer Ray within them is replaced
POLL_SECONDS = 0.5

_log = logging.getLogger(__name__)


def train_on_ray(job: Job, cluster: Cluster, journal_folder: Path, stop: Callable[[], bool] = lambda: False) -> None:
    """Train on ``cluster.workers`` workers; blocks until they have ended.

    Ray's controller restarts workers; if it dies itself, this leaves the cluster, so that Ray releases what the dead
    controller had reserved, and starts again. Raises MemoryError if a worker ran out of memory.

    Args:
        job: what to train.
        cluster: where.
        journal_folder: of the journal on the driver's node that gets the rows as they come.
        stop: asked every half second; once it is true, the workers stop at their next log window, at a checkpoint.

    Raises:
        UserError: if the cluster cannot give what was asked for, or training failed more often than
            ``cluster.max_failures``.
        DivergedError: if a loss is no longer finite.
    """
    if cluster.address is None:
        check_cpus(cluster, os.cpu_count() or 1, "this machine")
    check_workers("the run's ", job.run.batch_size, cluster)
    _diverged(job).unlink(missing_ok=True)
    with rays_environment(cluster):
        for left in reversed(range(cluster.max_failures + 1)):
            with connect(cluster, shared=True) as resources:
                if cluster.address is not None:
                    preflight(cluster, job)
                if _fit(job, cluster, resources, journal_folder, stop):
                    break
            if not left:
                raise UserError(
                    f"Ray's controller died {cluster.max_failures + 1} times. The last checkpoint is kept: look into "
                    f"Ray's logs ({logs(cluster)}), and run `dvc repro` again."
                )
            _log.warning("Ray's controller died; training starts again from the last checkpoint")
    if _diverged(job).exists():
        raise DivergedError(_diverged(job).read_text())


@contextmanager
def rays_environment(
    cluster: Cluster, *, more: Mapping[str, str] | None = None, but: Collection[str] = ()
) -> Iterator[None]:
    """Set Ray's variables that are not set, for the block alone: another training may want others. Ray's own go too.

    Args:
        cluster: where; one that runs keeps the reports that a cluster of this machine alone leaves out.
        more: further variables.
        but: those of a cluster of this machine alone that stay as Ray has them.
    """
    # If fewer workers would do, Ray should not wait long for room on a node whose death it has not noticed yet.
    start = START_SECONDS if cluster.least == cluster.most else HEALTH_SECONDS
    waits = {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(min(cluster.stall_seconds, HEALTH_SECONDS)),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start),
    }
    before = dict(os.environ)
    alone = one_machine.environment() if cluster.address is None else {}
    # Ray takes this one in when it is loaded. Said later, it reaches the cluster and not this process, which the
    # cluster then turns away for 20 s; unsaid, Ray says it to both of a cluster that starts here.
    late = {"RAY_AUTH_MODE"} if "ray" in sys.modules else set()
    alone = {name: value for name, value in alone.items() if name not in {*but, *late}}
    path = {"PYTHONPATH": alone["PYTHONPATH"]} if alone else {}  # which has the user's own
    os.environ |= ENVIRONMENT | waits | alone | dict(more or {}) | before | path
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ |= before


def _fit(
    job: Job, cluster: Cluster, resources: dict[str, float], journal_folder: Path, stop: Callable[[], bool]
) -> bool:
    """Train to the end on the cluster to which this process is connected; False if Ray's controller died."""
    import ray
    from ray.train import TrainingFailedError

    request = _start_stop_request() if cluster.address else _stop_by_file(job)
    trainer = _trainer(job, cluster, resources, request, _to_journal(journal_folder, job))
    try:
        _run(trainer, request, stop)
    except TrainingFailedError as error:
        if line := out_of_memory(error):
            raise MemoryError(line) from error
        raise UserError(_reason(error, cluster)) from error
    except ray.exceptions.RayActorError:
        return False
    return True


def _stop_by_file(job: Job) -> StopByFile:
    file = Path(job.store).absolute() / "stop"
    file.unlink(missing_ok=True)
    return StopByFile(file)


def _start_stop_request() -> StopByActor:
    """Start the actor that passes a request to stop on, on this node: it lives as long as who makes the request."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Restarted, it has forgotten the request, which the driver repeats as long as training goes on.
    actor = ray.remote(StopRequest).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
    return StopByActor(actor.remote())


def _trainer(
    job: Job, cluster: Cluster, resources: dict[str, float], request: StopByActor | StopByFile, to_journal: Any
) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    scaling, threads = scaling_for(cluster, resources)
    inputs = None  # without a URL all nodes see the folders
    if job.url:
        inputs = nodes.NodeInputs.collect(job, ray.put, start_image_server(job.data) if cluster.stream else None)
    settings = {
        "job": job,
        "inputs": inputs,
        "threads": threads,
        "stall_seconds": cluster.stall_seconds,
        "watched": cluster.address is not None,  # by Ray, for nodes that will be taken away
        "stop_request": request,
    }
    return TorchTrainer(
        run_worker,
        train_loop_config=settings,
        scaling_config=scaling,
        torch_config=TorchConfig(timeout_s=cluster.stall_seconds),
        run_config=RunConfig(
            # Never the name of an earlier start: Ray would take its state, finished or damaged, for ours.
            name=f"{job.key[:16]}-{uuid.uuid4().hex[:8]}",
            storage_path=job.url or str(Path(job.store).absolute() / "ray"),
            callbacks=[to_journal],
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )


def _run(trainer: Any, request: StopByActor | StopByFile, stop: Callable[[], bool]) -> None:
    """Run ``trainer.fit()`` in a thread, so that this one hears signals; block until it has ended."""
    fit: Future[Any] = Future()
    threading.Thread(target=_call_into, args=(fit, trainer.fit), daemon=True).start()  # a second Ctrl-C ends at once
    asked = False
    while not wait([fit], timeout=POLL_SECONDS).done:
        if stop():
            if not asked:
                _log.warning("stopping at the next checkpoint; once more ends at once")
            asked = True
            request.make()
    fit.result()


def _call_into(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _to_journal(folder: Path, job: Job) -> Any:
    """Return a callback on Ray's controller, which runs on the driver's node."""
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
                _log.warning("journal %s: %r", folder, error)

    return ToJournal()


def _diverged(job: Job) -> Path:
    return Path(job.store) / "diverged.txt"


def _reason(error: Exception, cluster: Cluster) -> str:
    """Return advice that quotes the last line of each worker's exception."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = {str(cause).strip().splitlines()[-1] for cause in failures.values()} or {str(error).strip()}
    return (
        f"training failed {cluster.max_failures + 1} times, the last time with: {'; '.join(sorted(causes))} "
        "The last checkpoint is kept: fix the cause and run `dvc repro` again."
    )
