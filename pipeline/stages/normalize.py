"""Stage normalize: the images that out/raw names to out/data, and what people want to know of them to out/images."""

from typing import TYPE_CHECKING

from pipeline.config import Params, read_params
from pipeline.console import progress
from pipeline.dependencies.entries import CODE
from pipeline.files import sha256_of
from pipeline.stages.common import scratch
from pipeline.stages.entry import TORCH, run_stage
from pipeline.stages.origin import origin_of
from pipeline.stages.paths import DATA, IMAGES, RAW
from pipeline.storage.dvc_cache import in_cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.ingest.normalize import Normalization
    from pipeline.ingest.shards import Make
    from pipeline.ingest.source import Origin


def main() -> None:
    """Convert the images to one shape (data.channels, data.size, data.fit) and write them to out/data.

    Where data.classes are given, only images of these. If the source has no test split, data.test_fraction is held out.
    Finished shards are kept in <scratch>/shards, where the next call finds them. On a running cluster its nodes make
    those of many images (cluster/shards.py).
    """
    from pipeline.ingest import sources
    from pipeline.ingest.normalize import Normalization, normalize
    from pipeline.ingest.shards import Work, fingerprint

    params = read_params()
    data, code = params.data, CODE / f"normalize-{params.data.source}.json"
    source = sources.find(data.source)
    # By itself the stage is not under DVC, which compares the code. Shards of own images are named by their hashes.
    identity = (sha256_of(code) if code.exists() else "") + ("" if source.own else fingerprint(RAW))
    normalization = Normalization(
        channels=source.channels(data.channels),
        size=data.size,
        fit=data.fit,
        background=data.background,
        profile=data.profile,
    )
    with progress() as report, source.open(RAW, origin := origin_of(params, report)) as raw:
        normalize(
            raw.of_classes(data.chosen_classes),
            DATA,
            IMAGES,
            normalization,
            source=data.source,
            test_fraction=data.test_fraction,
            most_bad=data.max_bad_fraction,
            work=Work(folder=scratch(params) / "shards", identity=identity, finished=in_cache),
            report=report,
            elsewhere=_elsewhere(params, origin, normalization),
        )


def _elsewhere(params: Params, origin: "Origin", normalization: "Normalization") -> "Callable[[Make], Make]":
    """Return what makes shards on the nodes of a running cluster; without one nothing of Ray's is imported."""
    if params.cluster.address is None:
        return lambda here: here
    from pipeline.cluster.shards import Job, on_nodes

    job = Job(
        source=params.data.source,
        raw=RAW,
        origin=origin,
        normalization=normalization,
        test_fraction=params.data.test_fraction,
        classes=params.data.chosen_classes,
    )
    return on_nodes(params.cluster, job)


if __name__ == "__main__":
    run_stage(main, *TORCH)
