"""What training needs of every node of a cluster, asked before anything is scheduled; and bringing it what it lacks."""

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
from pipeline.storage import remote as mirror
from pipeline.training.job import Job

PACKAGES = ("torch", "ray", "numpy", "safetensors")
INTERFACES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
UNPACK_SECONDS = 1800.0


@dataclass(frozen=True)
class Facts:
    """One node: its address; versions by package; CPUs that Ray may use; names of its GPUs; whether it sees the run's
    folder and may write there (else why not); the same of the URL, where there is one; bytes that are free for a copy
    of the data (None where there is one)."""

    address: str
    host: str
    versions: Mapping[str, str]
    cpus: int
    gpus: tuple[str, ...]
    storage: str
    url: str
    free: int | None


def facts(address: str, cpus: int, store: str, url: str | None, token: str, copy: str) -> Facts:
    """Run on the node itself. cpus: for Ray. token: the name of a file that the driver has made in ``store``, and at
    the ``url``; copy: of the folder that the node would keep the data in."""
    import torch

    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    gpus = tuple(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    return Facts(
        address=address,
        host=socket.gethostname(),
        versions=versions,
        cpus=cpus,
        gpus=gpus,
        storage=_storage(Path(store), token),
        url=mirror.probe(url, token) if url else "none",
        free=None if (_cache() / copy).exists() else _free(),
    )


def _cache() -> Path:
    """Where a node keeps what it was sent."""
    return Path.home() / ".cache" / "genloom"


def _free() -> int:
    return shutil.disk_usage(next(folder for folder in _cache().parents if folder.exists())).free


def _storage(store: Path, token: str) -> str:
    """ "shared", "absent", or why it cannot be written."""
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


def problems(nodes: Iterable[Facts], driver: Mapping[str, str], url: str | None, copied: int = 0) -> list[str]:
    """What would go wrong later, a sentence each; copied: bytes that go to every node which does not see the folder."""
    found = []
    for node in nodes:
        other = {name: version for name, version in node.versions.items() if not _agree(name, version, driver[name])}
        if other:
            differences = ", ".join(f"{name} {version} (here {driver[name]})" for name, version in other.items())
            found.append(f"node {node.address} has {differences}; install requirements.lock there.")
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


def _agree(name: str, there: str, here: str) -> bool:
    """Python may differ in its last number; a package may not."""
    return there.split(".")[:2] == here.split(".")[:2] if name == "python" else there == here


def name_interface(peer: str) -> None:
    """Names the interface towards ``peer`` for collective operations, where the host's name means this machine alone:
    Gloo would listen on 127.0.0.1, and no other node could reach it (Debian's /etc/hosts is made so)."""
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
class Parcel:
    """What a node needs that does not see the driver's folders. data: the name of a folder for the files (by name, each
    as what Ray made of its bytes); initial: the weights to begin from; elsewhere: where the images are that are not
    among the files."""

    data: str
    files: Mapping[str, Any]
    initial: Any | None
    elsewhere: Callable[[str], ImageStore] | None

    @classmethod
    def of(
        cls, job: Job, put: Callable[[bytes], Any], elsewhere: Callable[[str], ImageStore] | None = None
    ) -> "Parcel":
        """With ``elsewhere`` without images."""
        files = [path for path in sorted(Path(job.data).iterdir()) if not (elsewhere and is_shard(path))]
        return cls(
            data=copy_of(job, streamed=elsewhere is not None),
            files={path.name: put(path.read_bytes()) for path in files},
            initial=put(job.initial.read_bytes()) if job.initial.exists() else None,
            elsewhere=elsewhere,
        )


def copy_of(job: Job, streamed: bool) -> str:
    """The name of the folder that holds what a node keeps of the job's data, for all jobs with these data."""
    return f"{'labels' if streamed else 'data'}-{sha256_of(Path(job.data) / 'spec.json')[:16]}"


def unpacked(job: Job, parcel: Parcel | None, get: Callable[[Any], bytes]) -> Job:
    """The job with folders that exist on this node: those of the driver where it sees them, else copies, made by the
    first worker of the node."""
    if parcel is None or (Path(job.data).exists() and Path(job.store).exists()):
        return job
    data, store = _cache() / parcel.data, _cache() / job.key[:16]
    here = replace(job, data=str(data), store=str(store), elsewhere=parcel.elsewhere)
    with locked(_cache() / f"{parcel.data}.lock", wait=UNPACK_SECONDS):
        if not data.exists():
            with atomic_folder(data) as temporary:
                for name, content in parcel.files.items():
                    (temporary / name).write_bytes(get(content))
        if parcel.initial is not None and not here.initial.exists():
            with atomic_file(here.initial) as path:
                path.write_bytes(get(parcel.initial))
    return here


def forget(job: Job, here: Job) -> None:
    """Removes a finished job's checkpoints from a node that has copies; its data stay, for other jobs."""
    if here.store != job.store:
        shutil.rmtree(here.store, ignore_errors=True)
