"""Images are normalized on the nodes of a cluster that see them; the bytes are those of one process."""

import os
import pickle
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from namespaces import PORT as NODES_PORT
from namespaces import Namespaces, python, reason_not
from PIL import Image
from ray_node import one_node, one_token, workers_of
from toy_data import ROOT

from pipeline.cluster import shards
from pipeline.cluster.crew import Unfit
from pipeline.cluster.shards import Job, Normalizer, Sent, on_nodes
from pipeline.config import Cluster
from pipeline.errors import UserError
from pipeline.ingest.listing import write_listing
from pipeline.ingest.normalize import Normalization, normalize, with_test_split
from pipeline.ingest.originals import list_files
from pipeline.ingest.shards import Make, Work
from pipeline.ingest.source import Origin
from pipeline.ingest.sources.image_folder import SOURCE

PORT = 6393
COUNT = 600
NORMALIZATION = Normalization(channels=3, size=32)
RNG = np.random.default_rng


def photographs(folder: Path, count: int = COUNT) -> Path:
    """Images in two class folders, of which each 50th is damaged."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG(number).integers(0, 256, (40, 32 + number % 7, 3), dtype=np.uint8)).save(path)
        if number % 50 == 7:
            path.write_bytes(path.read_bytes()[:-500])
    return folder


def job_of(photos: Path, work: Path) -> Job:
    """What the stages list and download leave."""
    origin = Origin(paths=(str(photos),), folder=work, listing=work / "listing.csv", downloads=work / "downloads")
    (work / "raw").mkdir(parents=True)
    write_listing(work / "listing.csv", list_files(origin.paths, work, work / "hashes.sqlite"))
    SOURCE.download(origin, work / "raw")
    return Job(source="image_folder", raw=work / "raw", origin=origin, normalization=NORMALIZATION, test_fraction=0.2)


def normalized(job: Job, folder: Path, elsewhere: Callable[[Make], Make] = lambda here: here) -> dict[str, bytes]:
    """What the stage writes: shards of 40 images on average."""
    work = Work(folder=folder / "shards", identity="", mean_bytes=40 * 32 * 32 * 3, most_bytes=80 * 32 * 32 * 3)
    with SOURCE.open(job.raw, job.origin) as raw:
        normalize(
            raw, folder / "data", folder / "images", NORMALIZATION, source="image_folder",
            test_fraction=job.test_fraction, most_bad=0.1, work=work, elsewhere=elsewhere,
        )  # fmt: skip
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("data", "images")
        for path in sorted((folder / name).iterdir())
    }


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    with one_token():
        yield


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    return job_of(photographs(folder / "photos"), folder / "work")


@pytest.fixture(scope="module")
def here(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    found = normalized(job, tmp_path_factory.mktemp("here"))
    assert found["images/quarantine.csv"].count(b"damaged") == COUNT // 50
    assert sum("images-" in name for name in found) >= 8
    return found


def joined(**settings: Any) -> Cluster:
    return Cluster(**{"address": f"127.0.0.1:{PORT}", "workers": 1, "cpus_per_worker": 1} | settings)


def own(sent: Sent) -> Sent:
    return pickle.loads(pickle.dumps(sent))  # type: ignore[no-any-return]


def test_a_node_that_sees_no_project_opens_what_it_is_sent(job: Job, tmp_path: Path) -> None:
    elsewhere = replace(job, raw=tmp_path / "raw")
    (tmp_path / "raw").symlink_to(job.raw)
    sent = own(Sent.of(elsewhere, bytes))
    (tmp_path / "raw").unlink()
    assert not sent.unfit()
    with sent.opened(bytes) as splits, Sent.of(job, bytes).opened(bytes) as known:
        assert splits.keys() == known.keys() == {"train", "test"}
        for name, split in splits.items():
            assert split.digests == known[name].digests and split.names == known[name].names


def test_a_node_takes_the_chosen_classes_alone(job: Job) -> None:
    """Under the numbers that the driver's pieces have."""
    some = replace(job, classes=("b",))
    with own(Sent.of(some, bytes)).opened(bytes) as splits, SOURCE.open(job.raw, job.origin) as raw:
        known = with_test_split(raw.of_classes(("b",)), job.test_fraction)
        for name, split in splits.items():
            assert split.names == known[name].names and all(one.startswith("b/") for one in split.names or ())
            members = np.arange(len(split.labels))
            assert shards.content_of(name, split, members) == shards.content_of(name, known[name], members)


def test_a_node_that_does_not_see_the_images_says_which(job: Job, tmp_path: Path) -> None:
    sent = Sent.of(job, bytes)
    assert 50 <= len(sent.witnesses) <= 130
    seen = next(iter(sent.witnesses))
    assert "does not see /nowhere/a.png" in replace(sent, witnesses={Path("/nowhere/a.png"): 3}).unfit()
    assert f"sees another {seen}" in replace(sent, witnesses={seen: 3}).unfit()
    older = dict(sent.versions) | {"pillow": "1.0"}
    assert "(here 1.0); install requirements.lock" in replace(sent, versions=older).unfit() and not sent.unfit()


def test_a_worker_whose_images_are_others_refuses(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", bytes)
    photos = photographs(tmp_path / "photos", 60)
    small = job_of(photos, tmp_path / "work")
    pieces: list[Any] = []

    def keep(here: Make) -> Make:
        def make(found: Any, tell: Any) -> Any:
            pieces.extend(found)
            yield from here(found, tell)

        return make

    normalized(small, tmp_path / "made", keep)
    worker = Normalizer()
    assert worker.prepare(Sent.of(small, bytes), 1) is None
    part = worker.run(pieces[0])
    assert not isinstance(part, Unfit) and len(part.images) + len(part.left_out) == len(pieces[0].members)
    shifted = replace(pieces[0], members=(pieces[0].members + 1) % 40)
    assert "other images" in worker.run(shifted).reason  # type: ignore[union-attr]
    for path in photos.rglob("*.png"):
        path.write_bytes(b"another")
    assert "has changed since it was listed" in worker.run(pieces[0]).reason  # type: ignore[union-attr]
    worker.stack.close()


def test_little_is_made_in_this_process(job: Job, here: dict[str, bytes], tmp_path: Path) -> None:
    """No cluster is asked, so it may as well not be there."""
    assert normalized(job, tmp_path, on_nodes(joined(address="127.0.0.1:1"), job)) == here


def test_a_cluster_that_does_not_answer_is_said(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ALONE_SECONDS", 0.0)
    with pytest.raises(UserError, match="cannot join"):
        normalized(job, tmp_path, on_nodes(joined(address="127.0.0.1:1"), job))


# On a real cluster


@pytest.fixture(scope="module")
def ray_node() -> Iterator[psutil.Process]:
    with one_node(PORT) as node:
        yield node


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process makes one piece alone."""
    monkeypatch.setattr(shards, "ALONE_SECONDS", 0.0)


def disturbed(elsewhere: Callable[[Make], Make], disturb: Callable[[int], None]) -> Callable[[Make], Make]:
    """Calls ``disturb`` with the number of each part that is there."""

    def instead(here: Make) -> Make:
        def make(pieces: Any, tell: Any) -> Any:
            for number, part in enumerate(elsewhere(here)(pieces, tell)):
                disturb(number)
                yield part

        return make

    return instead


@pytest.mark.slow
def test_three_workers_make_the_bytes_of_one_process(
    ray_node: psutil.Process, job: Job, here: dict[str, bytes], tmp_path: Path, large: None
) -> None:
    def wait(number: int) -> None:
        """The pieces are few, so until more than one worker is there."""
        deadline = time.monotonic() + 120
        while number == 1 and len(workers_of(ray_node, "Normalizer")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    assert normalized(job, tmp_path, disturbed(on_nodes(joined(), job), wait)) == here


@pytest.mark.slow
def test_pieces_of_a_killed_worker_are_made_again(
    ray_node: psutil.Process, job: Job, here: dict[str, bytes], tmp_path: Path, large: None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def kill(number: int) -> None:
        if number == 2:
            workers_of(ray_node, "Normalizer")[0].kill()

    assert normalized(job, tmp_path, disturbed(on_nodes(joined(), job), kill)) == here
    assert "a worker was lost" in caplog.text


@pytest.mark.slow
def test_a_killed_driver_goes_on_at_the_shards_that_lack(
    ray_node: psutil.Process, job: Job, here: dict[str, bytes], tmp_path: Path, large: None
) -> None:
    class Stop(BaseException):
        pass

    def stop(number: int) -> None:
        if number == 6:
            raise Stop

    with suppress(Stop):
        normalized(job, tmp_path, disturbed(on_nodes(joined(), job), stop))
    written = {path.name for path in (tmp_path / "shards").glob("*.npy")}
    assert 3 <= len(written) <= 6 and not (tmp_path / "data").exists()
    seen: list[int] = []
    assert normalized(job, tmp_path, disturbed(on_nodes(joined(), job), seen.append)) == here
    assert len(seen) == sum("images-" in name for name in here) - len(written)


@pytest.mark.slow
def test_what_the_workers_can_not_make_this_process_does(
    ray_node: psutil.Process, job: Job, here: dict[str, bytes], tmp_path: Path, large: None,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They are sent another job, whose images have other hashes, as a node would see that has another copy."""
    other = job_of(photographs(tmp_path / "photos", COUNT + 1), tmp_path / "other")
    assert normalized(job, tmp_path / "made", on_nodes(joined(), other)) == here
    assert caplog.text.count("a worker is not used: node") == 3
    caplog.clear()
    monkeypatch.setattr(shards, "_large_files", lambda _: [ROOT / "README.md"])
    monkeypatch.setattr(shards.nodes, "differences", lambda here, there: "pillow 1")
    assert normalized(job, tmp_path / "again", disturbed(on_nodes(joined(), job), lambda _: None)) == here


DRIVER = """
import logging, os, pickle, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2].split(os.pathsep)
import test_shards
from pipeline.cluster import shards
logging.basicConfig()
shards.ALONE_SECONDS = 0.0
cluster, job, folder, dies = pickle.loads(Path(sys.argv[1]).read_bytes())

def wait(number):
    if dies and number == 2:
        (folder / "ready").touch()
        while not (folder / "killed").exists():
            time.sleep(0.1)

test_shards.normalized(job, folder, test_shards.disturbed(shards.on_nodes(cluster, job), wait))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(reason_not() is not None, reason=str(reason_not()))
@pytest.mark.parametrize("case", ["no images", "a node dies"])
def test_nodes_that_share_no_folder(tmp_path: Path, here: dict[str, bytes], case: str) -> None:
    """Two nodes with an empty file system in place of the driver's; they work if they see the images at least."""
    private = tmp_path / "private"
    private.mkdir()
    photos = photographs((private if case == "no images" else tmp_path) / "photos")
    work = job_of(photos, private / "work")
    with Namespaces(3, env={"HOME": str(private)}, private=private) as nodes:
        cluster = joined(workers=2, address=f"{nodes.address(0)}:{NODES_PORT}")
        asked, folder = private / "asked.pickle", private / "made"
        asked.write_bytes(pickle.dumps((cluster, work, folder, case == "a node dies")))
        tests = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests" / "cluster")])
        driver = python(
            ROOT, "-c", f"from pipeline.errors import run; run(exec, {DRIVER!r}, {{}})", str(asked), tests,
            inside=nodes.inside(0), stderr=subprocess.PIPE,
        )  # fmt: skip
        if case == "a node dies":
            while driver.poll() is None:
                if (folder / "ready").exists() and nodes.processes(1, "ray::Normalizer"):
                    break
                time.sleep(0.2)
            nodes.kill(1)
            (folder / "killed").touch()
        said = driver.communicate(timeout=400)[1]
    assert driver.returncode == 0, said
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("data", "images")
        for path in (folder / name).iterdir()
    }
    assert found == here
    assert said.count("is not used to normalize: it does not see") == (2 if case == "no images" else 0), said
    assert ("a worker was lost" in said) == (case == "a node dies"), said
