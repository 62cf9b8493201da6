"""The nodes of a cluster: what training needs of each, checked before it is scheduled, and sending what they lack."""

import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil

from pipeline.data.dataset import ImageStore, is_shard
from pipeline.files import atomic_file, atomic_folder, locked, sha256_of
from pipeline.storage import remote
from pipeline.training.job import Job

PACKAGES = ("torch", "ray", "numpy", "safetensors")
INTERFACES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
UNPACK_SECONDS = 1800.0


@dataclass(frozen=True)
class NodeReport:
    """What a node has of that which training needs.

    Attributes:
        address: by which Ray knows it.
        host: its name.
        versions: by package, and of Python.
        cpus: that Ray may use.
        gpus: their names.
        storage: "shared" if it sees the run's folder and may write there, else why not.
        url: the same for the storage's URL; "none" without one.
        free: bytes that are free for a copy of the data; None if it has one.
    """

    address: str
    host: str
    versions: Mapping[str, str]
    cpus: int
    gpus: tuple[str, ...]
    storage: str
    url: str
    free: int | None


def inspect(address: str, cpus: int, store: str, url: str | None, token: str, copy: str) -> NodeReport:
    """Report on the node that this runs on; writes a file at the storage and removes it.

    Args:
        address: by which Ray knows the node.
        cpus: that Ray may use there.
        store: the run's folder.
        url: the storage's URL.
        token: name of a file that the driver has made in ``store``, and at ``url``.
        copy: name of the folder in which the node would keep the data.

    Returns:
        What was found.
    """
    import torch

    gpus = tuple(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    return NodeReport(
        address=address,
        host=socket.gethostname(),
        versions=versions(),
        cpus=cpus,
        gpus=gpus,
        storage=_storage(Path(store), token),
        url=remote.probe(url, token) if url else "none",
        free=None if (cache() / copy).exists() else _free(),
    )


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions here, by package, and of Python."""
    return {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}


def cache() -> Path:
    """Return the folder in which a node keeps what it was sent."""
    return Path.home() / ".cache" / "genloom"


def _free() -> int:
    return shutil.disk_usage(next(folder for folder in cache().parents if folder.exists())).free


def _storage(store: Path, token: str) -> str:
    """Return "shared", "absent", or why the folder cannot be written."""
    if not (store / token).exists():
        return "absent"
    try:
        with tempfile.TemporaryFile(dir=store) as file:
            file.write(b"written")
    except OSError as error:
        return f"not writable ({error.strerror})"
    return "shared"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(socket.gethostbyname(host)).is_loopback
    except OSError:
        return True


def problems(nodes: Iterable[NodeReport], driver: Mapping[str, str], url: str | None, copied: int = 0) -> list[str]:
    """Return what would go wrong later, one sentence with a remedy for each problem.

    Args:
        nodes: all nodes' reports.
        driver: the driver's versions by package.
        url: the storage's URL.
        copied: bytes that are sent to every node that does not see the folder.

    Returns:
        The sentences; none if all is well.
    """
    found = []
    for node in nodes:
        if other := differences(node.versions, driver):
            found.append(f"node {node.address} has {other}; install requirements.lock there.")
        if url is None and node.storage != "shared":
            found.append(
                f"node {node.address}: cluster.storage is {node.storage} there. Name a folder that every node may "
                "write, or a URL (s3://...)."
            )
        if url is not None and node.url != "shared":
            found.append(
                f"node {node.address}: cluster.storage, {url}, is {node.url} there. Its credentials belong in the "
                "environment in which Ray is started on each node; or name another one."
            )
        if node.storage != "shared" and node.free is not None and node.free < copied:
            found.append(
                f"node {node.address} has {node.free / 1e9:.1f} GB free for a copy of the data of {copied / 1e9:.1f} "
                "GB (~/.cache/genloom). Make room there, or set cluster.stream: true, which needs none."
            )
    return found


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return which versions of a node differ from the driver's so that they do not work together; "" if none do."""
    other = {name: version for name, version in there.items() if not _agree(name, version, here[name])}
    return ", ".join(f"{name} {version} (here {here[name]})" for name, version in other.items())


def _agree(name: str, there: str, here: str) -> bool:
    """Compare versions: Python's may differ in the last number, a package's may not."""
    return there.split(".")[:2] == here.split(".")[:2] if name == "python" else there == here


def name_interface(peer: str) -> None:
    """Set the interface towards ``peer`` for collective operations, if the host's name resolves to loopback.

    Gloo would listen on 127.0.0.1, and no other node could reach it (Debian's /etc/hosts is like that).
    """
    if os.environ.get(INTERFACES["gloo"]) or not _is_loopback(socket.gethostname()):
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing, but chooses a route
        probe.connect((peer, 9))
        own = probe.getsockname()[0]
    for interface, addresses in psutil.net_if_addrs().items():
        if any(known.address == own for known in addresses):
            for variable in INTERFACES.values():
                os.environ.setdefault(variable, interface)


@dataclass(frozen=True)
class NodeInputs:
    """What a node needs if it does not see the driver's folders.

    Attributes:
        data: name of the folder for the files.
        files: by name, each as a reference to its bytes.
        initial: reference to the weights to begin from.
        elsewhere: clients for the images that are not among the files, by the split's name.
    """

    data: str
    files: Mapping[str, Any]
    initial: Any | None
    elsewhere: Callable[[str], ImageStore] | None

    @classmethod
    def collect(
        cls, job: Job, put: Callable[[bytes], Any], elsewhere: Callable[[str], ImageStore] | None = None
    ) -> "NodeInputs":
        """Read the job's data and weights into Ray's object store.

        Args:
            job: whose folders the driver sees.
            put: stores bytes and returns a reference.
            elsewhere: clients for the images, which are then not among the files.

        Returns:
            References, which can be sent to any worker.
        """
        files = [path for path in sorted(Path(job.data).iterdir()) if not (elsewhere and is_shard(path))]
        return cls(
            data=copy_name(Path(job.data), streamed=elsewhere is not None),
            files={path.name: put(path.read_bytes()) for path in files},
            initial=put(job.initial.read_bytes()) if job.initial.exists() else None,
            elsewhere=elsewhere,
        )


def copy_name(data: Path, streamed: bool) -> str:
    """Return the name of the folder in which a node keeps a copy of the data, the same for all jobs with these data."""
    return f"{'labels' if streamed else 'data'}-{sha256_of(data / 'spec.json')[:16]}"


def unpack(job: Job, inputs: NodeInputs | None, get: Callable[[Any], bytes]) -> Job:
    """Write copies of the job's data to ~/.cache/genloom, unless this node sees the driver's folders.

    The first worker of the node writes; the others wait for it, for at most ``UNPACK_SECONDS``.

    Args:
        job: with the driver's folders.
        inputs: what the driver has collected; None: all nodes see its folders.
        get: turns a reference into bytes.

    Returns:
        The job with folders that exist on this node.
    """
    if inputs is None or (Path(job.data).exists() and Path(job.store).exists()):
        return job
    data, store = cache() / inputs.data, cache() / job.key[:16]
    here = replace(job, data=str(data), store=str(store), elsewhere=inputs.elsewhere)
    with locked(cache() / f"{inputs.data}.lock", wait=UNPACK_SECONDS):
        if not data.exists():
            with atomic_folder(data) as temporary:
                for name, content in inputs.files.items():
                    (temporary / name).write_bytes(get(content))
        if inputs.initial is not None and not here.initial.exists():
            with atomic_file(here.initial) as path:
                path.write_bytes(get(inputs.initial))
    return here


def remove_copies(job: Job, here: Job) -> None:
    """Remove a finished job's checkpoints from a node that has copies; its data stay, for other jobs."""
    if here.store != job.store:
        shutil.rmtree(here.store, ignore_errors=True)
