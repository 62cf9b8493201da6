"""Examining samples and real images where training runs: in this process, or on Ray workers with the same shares."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from pipeline.cluster.connect import Share, check_cpus, connect, share_of
from pipeline.cluster.crew import Crew, Worker
from pipeline.cluster.driver import rays_environment
from pipeline.cluster.here import computing_here
from pipeline.cluster.image_server import start_image_server
from pipeline.cluster.nodes import versions
from pipeline.cluster.parcel import Parcel
from pipeline.config import Cluster
from pipeline.console import progress
from pipeline.errors import UserError
from pipeline.evaluate.chunks import Chunk, Kind, Materials, Part, examine_here

_TITLES: dict[Kind, str] = {
    "samples": "samples",
    "real": "real images",
    "paths": "pairs of samples on latent paths",
    "scores": "test images for its own scores",
}


def spread(cluster: Cluster, name: str) -> Callable[[Materials, Sequence[Chunk]], Iterator[Part]]:
    """Return a function that examines chunks where training runs, and shows how far it is.

    Without a cluster's address one worker is this process: it has the same device, and Ray takes longer to start than a
    small examination lasts.

    Args:
        cluster: where.
        name: of what is examined, for the terminal.

    Returns:
        A function as ``examine_here``.
    """
    examine = partial(_examine_alone if cluster.alone else examine_on_ray, cluster)

    def shown(materials: Materials, chunks: Sequence[Chunk]) -> Iterator[Part]:
        totals = {kind: sum(len(chunk) for chunk in chunks if chunk.kind == kind) for kind in _TITLES}
        done = dict.fromkeys(_TITLES, 0)
        with progress() as report:
            for part in examine(materials, chunks):
                kind = part.chunk.kind
                if part.features or part.paths or part.scores:  # a method without own scores needs no bar
                    done[kind] += len(part.chunk)
                    report(f"{name}: {_TITLES[kind]}", done[kind], totals[kind])
                yield part

    return shown


def _examine_alone(cluster: Cluster, materials: Materials, chunks: Sequence[Chunk]) -> Iterator[Part]:
    with computing_here(cluster) as device:
        yield from examine_here(materials, chunks, device)


def examine_on_ray(cluster: Cluster, materials: Materials, chunks: Sequence[Chunk]) -> Iterator[Part]:
    """Examine chunks on cluster.workers Ray workers, each with the resources of a training's.

    Args:
        cluster: where.
        materials: what the workers load; nodes that do not see these files get them if cluster.storage is a URL.
        chunks: of the subject's.

    Yields:
        What was found in each, in order.

    Raises:
        UserError: the cluster has not what is asked for, or workers were lost too often.
        MemoryError: a worker ran out of memory.
    """
    if cluster.address is None:
        check_cpus(cluster, os.cpu_count() or 1, "this machine")
    parcel = Parcel.of(materials)
    with rays_environment(cluster), connect(cluster, shared=True) as resources:
        import ray

        share = share_of(cluster, resources)
        size = _room(cluster, share)
        if cluster.url is not None:
            parcel = parcel.sending(ray.put, start_image_server(str(parcel.materials.data)))
        # Once for all workers, not with each: it holds the method's params and many references.
        reference = ray.put(parcel)
        crew = Crew[Chunk, Part](partial(_start, share, reference), size, cluster)
        yield from cast(Iterator[Part], crew.run(chunks))  # none of its workers calls itself unfit


def _start(share: Share, parcel: Any) -> tuple[Any, Any]:
    import ray

    actor: Any = ray.remote(Worker).options(num_cpus=share.threads, num_gpus=share.gpus).remote()
    return actor, actor.prepare.remote(parcel, share.threads, share.gpus > 0, versions())


def _room(cluster: Cluster, share: Share) -> int:
    """Return how many of the workers there is room for; UserError if on the nodes as they are not even the least."""
    import ray

    room = 0
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            has = node["Resources"]
            room += int(min(has.get(name, 0) // amount for name, amount in share.resources.items()))
    if room < cluster.least:
        wanted = " and ".join(f"{amount:g} {name}s" for name, amount in share.resources.items())
        raise UserError(
            f"params.yaml: cluster: {cluster.least} workers with {wanted} each were asked for, but its nodes have "
            f"room for {room}, as a worker's share must be on one node. Lower cluster.cpus_per_worker or "
            "cluster.gpus_per_worker."
        )
    return min(cluster.most, room)
