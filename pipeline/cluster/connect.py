"""The connection to a Ray cluster: one that runs, checked for what training needs, or one of this machine alone."""

import logging
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import pipeline
from pipeline.cluster import nodes
from pipeline.cluster.keeper import shared_cluster
from pipeline.cluster.one_machine import WORKERS
from pipeline.config import Cluster
from pipeline.console import print_table
from pipeline.errors import UserError
from pipeline.files import private_folder
from pipeline.storage import remote
from pipeline.training.job import Job

PREFLIGHT_SECONDS = 120.0  # a node's first task imports torch
EXIT_SECONDS = 5.0

_log = logging.getLogger(__name__)


@contextmanager
def connect(cluster: Cluster, *, shared: bool = False) -> Iterator[dict[str, float]]:
    """Join the cluster at ``cluster.address``, or start one of this machine alone, for the block.

    Blocks until Ray answers. At the end of the block Ray releases what this process had reserved there; a cluster of
    this machine alone that was started here ends, with all its processes.

    Args:
        cluster: where to train.
        shared: rather than to start a cluster, join the one that all trainings of a `dvc repro` share.

    Yields:
        The cluster's resources: amounts by Ray's names.

    Raises:
        UserError: if nothing answers at the address.
    """
    import ray

    logging.getLogger("ray").setLevel(logging.WARNING)
    if (cluster.address or "").startswith("ray://"):
        raise UserError(
            f"params.yaml: cluster.address: '{cluster.address}' is a Ray client's address. Run `dvc repro` on a node "
            "of the cluster, with cluster.address: auto; docs/clusters.md shows how."
        )
    address = shared_cluster() if shared and cluster.address is None else cluster.address
    others = psutil.Process().children()  # such as the one that sends journals to MLflow
    try:
        _check_listening(address)
        with _keep_signal_handlers():
            context = join(address, _runtime_env(cluster))
    except (ConnectionError, TimeoutError, socket.gaierror, ValueError) as error:
        raise UserError(_not_joined(cluster, error)) from error
    try:
        if cluster.address is not None and context.dashboard_url:
            _log.info("Ray's dashboard: http://%s", context.dashboard_url)
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        if address is None:
            end_cluster(but=others)
        else:
            ray.shutdown()


def join(address: str | None, runtime_env: dict[str, Any] | None = None) -> Any:
    """Join a Ray cluster; without an address start one of this machine alone. Return Ray's context."""
    import ray

    return ray.init(
        address=address or "local",
        include_dashboard=False if address is None else None,
        log_to_driver=False,
        configure_logging=False,
        runtime_env=runtime_env,
    )


def _not_joined(cluster: Cluster, error: Exception) -> str:
    if cluster.address is None:
        return (
            f"Ray's cluster of this machine cannot be used ({error}); its logs are in {logs(cluster)}. Run `dvc repro` "
            "again, or set cluster.workers to 0 in params.yaml to train without Ray."
        )
    return (
        f"params.yaml: cluster.address: cannot join '{cluster.address}' ({error}). "
        "Start it with `ray start --head`, or set cluster.address to null for a cluster of this machine alone."
    )


def logs(cluster: Cluster) -> Path:
    """Return where Ray writes its logs, on the head of a cluster or on this machine."""
    return Path(tempfile.gettempdir() if cluster.address else private_folder(), "ray", "session_latest", "logs")


@contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Restore this program's signal handlers after the block: Ray's own take SIGTERM for a crash and abort."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _runtime_env(cluster: Cluster) -> dict[str, Any] | None:
    """Return what gives Ray's processes this program's code: a copy; None: they have it from who started them."""
    if cluster.address is None:
        return None
    # A copy: Ray writes the hook's key into it, which is of one connection alone.
    return {
        "env_vars": dict(WORKERS),
        "py_modules": [str(Path(pipeline.__file__).parent)],
        "worker_process_setup_hook": _name_interface,
    }


def _name_interface() -> None:
    """Choose the network that joins the nodes, by the head's address, in every process that Ray starts on a cluster."""
    import ray

    nodes.name_interface(ray.get_runtime_context().gcs_address.rpartition(":")[0])


def end_cluster(*, but: Sequence[psutil.Process] = ()) -> None:
    """End the cluster that this process has started, and kill what it leaves behind: now and then an actor hangs.

    Args:
        but: this process's children that are not Ray's.
    """
    import ray

    started = [child for child in psutil.Process().children() if child not in but]
    started += [below for child in started for below in child.children(recursive=True)]
    ray.shutdown()
    for process in psutil.wait_procs(started, timeout=EXIT_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _check_listening(address: str | None) -> None:
    """Raise OSError within seconds if nothing listens: Ray itself tries for minutes, then ends the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def preflight(cluster: Cluster, job: Job) -> None:
    """Check that every node of a running cluster has what training needs, and print what they have as a table.

    Blocks until every node has answered, for at most ``PREFLIGHT_SECONDS``; nothing of the training is scheduled yet.

    Args:
        cluster: the cluster to which this process is connected.
        job: what is to be trained there.

    Raises:
        UserError: if something is missing, or a node does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    store, data = Path(job.store), Path(job.data)
    copy = nodes.copy_name(data, cluster.stream)
    store.mkdir(parents=True, exist_ok=True)
    ask, alive = ray.remote(num_cpus=0)(nodes.inspect), [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    with ExitStack() as stack:
        name = Path(stack.enter_context(tempfile.NamedTemporaryFile(dir=store, prefix="preflight-")).name).name
        if job.url:
            stack.enter_context(remote.token_at(job.url, name))
        here = nodes.inspect("here", 0, str(store), job.url, name, copy)
        asked = [
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0)), str(store), job.url, name, copy
            )
            for node in alive
        ]
        found = _collect(asked, str(cluster.address))
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


def _collect(asked: list[Any], address: str) -> list[nodes.NodeReport]:
    """Wait for the nodes' reports; a node that has died is left out, one that does not answer raises UserError."""
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
                f"{PREFLIGHT_SECONDS:.0f} s. `ray status` shows them; fix or stop those that hang."
            ) from None
    return found


@dataclass(frozen=True)
class Share:
    """What each worker gets. threads: whole CPUs; gpus: or a part of one; 0: none."""

    threads: int
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """The amounts by Ray's names."""
        return {"CPU": self.threads} | ({"GPU": self.gpus} if self.gpus else {})


def share_of(cluster: Cluster, resources: dict[str, float]) -> Share:
    """Return what a worker gets, in training and whatever else runs where training does.

    Args:
        cluster: what is asked for.
        resources: what the cluster has.

    Returns:
        CPUs and GPUs.

    Raises:
        UserError: if it has less than that.
    """
    cpus = int(resources.get("CPU", 0))
    check_cpus(cluster, cpus, "the cluster")
    threads = cluster.cpus_per_worker or max(cpus // cluster.most, 1)
    gpus = resources.get("GPU", 0)
    wanted = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else float(gpus >= cluster.least)
    if wanted * cluster.least > gpus:
        raise UserError(
            f"params.yaml: cluster.gpus_per_worker: {cluster.least} workers with {wanted:g} GPUs each were asked "
            f"for, but the cluster has {gpus:g}. Lower cluster.workers or cluster.gpus_per_worker."
        )
    return Share(threads=threads, gpus=wanted)


def scaling_for(cluster: Cluster, resources: dict[str, float]) -> tuple[Any, int]:
    """Return Ray's ScalingConfig and the number of threads of a worker; arguments and errors as for ``share_of``."""
    from ray.train import ScalingConfig

    share = share_of(cluster, resources)
    return ScalingConfig(
        num_workers=cluster.workers,  # type: ignore[arg-type]  # a pair is elastic: Ray's hints are behind
        use_gpu=share.gpus > 0,
        resources_per_worker=share.resources,
    ), share.threads


def check_cpus(cluster: Cluster, cpus: int, who: str) -> None:
    """Raise UserError if the least number of workers needs more CPUs than ``who`` has."""
    each = cluster.cpus_per_worker or 1
    if cluster.least * each > cpus:
        raise UserError(
            f"params.yaml: cluster.workers: {cluster.least} workers with {each} CPU each were asked for, but {who} "
            f"has {cpus}. Set cluster.workers to at most {cpus // each}, or join a larger cluster with cluster.address."
        )
