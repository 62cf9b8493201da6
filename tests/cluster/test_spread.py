"""Samples are examined where training runs; how many workers there are, and what becomes of them, changes nothing."""

import os
import pickle
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from examinations import contents, materials
from namespaces import PORT as NODES_PORT
from namespaces import Namespaces, python, reason_not
from ray_node import one_node, one_token, workers_of
from toy_data import ROOT

from pipeline.cluster import nodes, spread
from pipeline.cluster.parcel import Parcel
from pipeline.config import Cluster
from pipeline.data.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.evaluate.chunks import Materials, examine_here
from pipeline.evaluate.extraction import generate, make_reference

PORT = 6391


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    with one_token():
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """61 samples, seen 4 at a time."""
    return materials(tmp_path_factory.mktemp("toy"), samples=61, batch_size=4)


@pytest.fixture(scope="module")
def here(toy: Materials, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What this process finds."""
    folder = tmp_path_factory.mktemp("here")
    generate(folder, toy)
    return contents(folder)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (Cluster(workers=512), "cluster.workers: 512 workers with 1 CPU each were asked for, but this machine has"),
        (Cluster(workers=2, cpus_per_worker=999), "2 workers with 999 CPU each"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(toy: Materials, tmp_path: Path, cluster: Cluster, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match=message):
        generate(tmp_path, toy, spread.spread(cluster, "toy"))
    assert time.monotonic() - begin < 5 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cluster", "on_ray"),
    [
        (Cluster(workers=0), False),
        (Cluster(workers=1), False),
        (Cluster(workers=1, address="auto"), True),
        (Cluster(workers=2), True),
        (Cluster(workers=(1, 2)), True),
    ],
)
def test_one_worker_of_this_machine_is_this_process(
    toy: Materials, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, on_ray: bool
) -> None:
    asked: list[Cluster] = []

    def examine(where: Cluster, *what: Any) -> Any:
        asked.append(where)
        return examine_here(*what)

    monkeypatch.setattr(spread, "examine_on_ray", examine)
    chunks = toy.subject().chunks()
    parts = list(spread.spread(cluster, "toy")(toy, chunks))
    assert [part.chunk for part in parts] == chunks
    assert asked == ([cluster] if on_ray else [])


def test_a_node_that_sees_no_folder_finds_the_same_in_what_it_is_sent(
    toy: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With images from elsewhere, and with those of a copy that a training has left there."""
    hub, given = tmp_path / "hub", tmp_path / "given.pth"
    (hub / "checkpoints").mkdir(parents=True)
    (hub / "checkpoints" / "published.pth").write_bytes(b"published")
    given.write_bytes(b"given")
    monkeypatch.setattr("pipeline.cluster.parcel.downloaded", lambda name: hub / "checkpoints" / "published.pth")
    toy = replace(toy, settings=replace(toy.settings, weights=str(given)))
    chunks = toy.subject().chunks()
    whole = [part.features for part in map(toy.examiner(torch.device("cpu")).examine, chunks)]
    images = open_dataset(toy.data).splits
    settings = replace(toy.settings, extractors=[*toy.settings.extractors, "inception"])
    parcel = Parcel.of(replace(toy, settings=settings)).sending(bytes, lambda split: images[split].store)
    assert not any("images" in name for name in parcel.sent.files)  # type: ignore[union-attr]
    parcel = replace(parcel, hashes={toy.data / "spec.json": "of another folder"})
    home = tmp_path / "home"
    monkeypatch.setattr(Path, "home", lambda: home)
    before = torch.hub.get_dir()
    for copied in (False, True):
        if copied:
            (home / ".cache" / "genloom").mkdir(parents=True)
            (nodes.cache() / nodes.copy_name(toy.data, streamed=False)).symlink_to(toy.data)
        with parcel.opened("node", bytes) as (there, elsewhere):
            assert (elsewhere is None) == copied and there.weights != toy.weights
            assert Path(torch.hub.get_dir(), "checkpoints", "published.pth").read_bytes() == b"published"
            assert Path(str(there.settings.weights)).read_bytes() == b"given"
            there = replace(there, settings=replace(there.settings, extractors=toy.settings.extractors))
            examiner = there.examiner(torch.device("cpu"), elsewhere)
        found = [part.features for part in map(examiner.examine, chunks)]
        for one, other in zip(found, whole, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name].pooled, other[name].pooled) for name in one)
        assert torch.hub.get_dir() == before


def test_a_node_that_should_see_the_folder_and_does_not_says_what_to_do(toy: Materials) -> None:
    parcel: Parcel = pickle.loads(pickle.dumps(Parcel.of(toy)))
    with parcel.opened("node", bytes) as (there, elsewhere):
        assert there.weights == toy.weights and elsewhere is None
    absent = replace(parcel, hashes={Path("/nowhere/spec.json"): ""})
    with (
        pytest.raises(UserError, match=r"node kiwi does not see .*data, or sees another.*cluster\.storage"),
        absent.opened("kiwi", bytes),
    ):
        pass


# On a real cluster


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two CPUs")
def test_two_workers_of_this_machine_find_what_one_process_finds(
    toy: Materials, here: dict[str, bytes], tmp_path: Path
) -> None:
    generate(tmp_path, toy, spread.spread(Cluster(workers=2), "toy"))
    assert contents(tmp_path) == here


@pytest.fixture(scope="module")
def ray_node() -> Iterator[psutil.Process]:
    with one_node(PORT) as node:
        yield node


def joined(**settings: Any) -> Cluster:
    return Cluster(**{"address": f"127.0.0.1:{PORT}", "cpus_per_worker": 1, "workers": 3} | settings)


def disturbed(cluster: Cluster, disturb: Callable[[int], None]) -> Any:
    """Examine as ``spread`` does, but call ``disturb`` with the number of each part that is there."""

    def examine(*what: Any) -> Any:
        for number, part in enumerate(spread.examine_on_ray(cluster, *what)):
            disturb(number)
            yield part

    return examine


def at_first(action: Callable[[], object]) -> Callable[[int], None]:
    return lambda number: None if number else (action(), None)[1]


@pytest.mark.slow
def test_three_workers_find_what_one_process_finds(
    ray_node: psutil.Process, toy: Materials, here: dict[str, bytes], tmp_path: Path
) -> None:
    for workers in (1, 3):
        (folder := tmp_path / str(workers)).mkdir()
        seen: list[int] = []
        count = lambda _, seen=seen: seen.append(len(workers_of(ray_node)))  # noqa: E731
        generate(folder, toy, disturbed(joined(workers=workers), count))
        assert contents(folder) == here and (max(seen) > 1) == (workers > 1)
    (alone := tmp_path / "alone").mkdir()
    (several := tmp_path / "several").mkdir()
    real = replace(toy, weights=None)
    make_reference(alone, real)
    make_reference(several, real, spread.spread(joined(), "reference"))
    assert contents(several) == contents(alone)


@pytest.mark.slow
def test_a_worker_that_dies_or_hangs_is_replaced(
    ray_node: psutil.Process,
    toy: Materials,
    here: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, end in (("killed", psutil.Process.kill), ("stopped", psutil.Process.suspend)):
        (folder := tmp_path / name).mkdir()
        caplog.clear()
        cluster = joined(workers=1, stall_seconds=15)  # of several the others may have done all before one is missed
        generate(folder, toy, disturbed(cluster, at_first(lambda end=end: end(workers_of(ray_node)[0]))))
        assert contents(folder) == here
        assert caplog.text.count("a worker was lost") == 1
    with pytest.raises(UserError, match=r"1 workers were lost, one more than params\.yaml: cluster\.max_failures"):
        kill = lambda: [process.kill() for process in workers_of(ray_node)]  # noqa: E731
        generate(tmp_path, toy, disturbed(joined(max_failures=0), at_first(kill)))


@pytest.mark.slow
def test_what_a_cluster_cannot_give_or_a_worker_finds_wrong_is_said(
    ray_node: psutil.Process, toy: Materials, tmp_path: Path
) -> None:
    examine = [
        (joined(workers=1, cpus_per_worker=4), toy, r"1 workers with 4 CPU each .* the cluster has 3"),
        (joined(workers=2, gpus_per_worker=1.0), toy, r"2 workers with 1 GPUs each .* the cluster has 0"),
        (joined(), replace(toy, prepared=tmp_path / "none"), r"files\.json: not readable.*dvc repro extractors"),
    ]
    for cluster, files, message in examine:
        with pytest.raises(UserError, match=message):
            generate(tmp_path, files, spread.spread(cluster, "toy"))
    assert not list(tmp_path.iterdir())


DRIVER = """
import pickle, sys
from pathlib import Path
from pipeline.cluster.spread import spread
from pipeline.evaluate.extraction import generate
cluster, materials, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
folder.mkdir()
generate(folder, materials, spread(cluster, "toy"))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(reason_not() is not None, reason=str(reason_not()))
def test_two_nodes_that_share_no_folder_find_what_this_process_finds(tmp_path: Path, here: dict[str, bytes]) -> None:
    """Each with an empty file system in place of the driver's folder. Without a URL as storage it is an error."""
    private = tmp_path / "private"
    toy = materials(private / "toy", samples=61, batch_size=4)
    with Namespaces(3, env={"HOME": str(private)}, private=private) as nodes:
        for name, storage in (("apart", "s3://any/where"), ("lost", ".genloom")):
            cluster = joined(workers=2, address=f"{nodes.address(0)}:{NODES_PORT}", storage=storage)
            asked, folder = private / f"{name}.pickle", private / name
            asked.write_bytes(pickle.dumps((cluster, toy, folder)))
            driver = python(
                ROOT, "-c", f"from pipeline.errors import run; run(exec, {DRIVER!r}, {{}})", str(asked),
                inside=nodes.inside(0), stderr=subprocess.PIPE,
            )  # fmt: skip
            said = driver.communicate(timeout=400)[1]
            if name == "apart":
                assert driver.returncode == 0, said
                assert contents(folder) == here
            else:
                assert driver.returncode == 1 and "does not see" in said and "cluster.storage" in said, said
