"""Checkpoints at a URL: complete or absent there too; nodes that share no folder; storage that is away for a while."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
import torch.multiprocessing as mp
from chaos import Training
from moto.server import ThreadedMotoServer
from namespaces import HOST, Namespaces, reason_not
from s3fs import S3FileSystem
from toy_data import gloo_rank
from toy_job import job, trained_here, weights

from pipeline.cluster import nodes
from pipeline.cluster.nodes import NodeReport
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.storage import remote
from pipeline.storage.checkpoint import MANIFEST, Budgets, name_of
from pipeline.storage.remote import RemoteStore
from pipeline.tracking.journal import Journal
from pipeline.training.job import Job
from pipeline.training.trainer import resume, train

PORT = 5077


def mirrored(folder: Path, scratch: str = "store", **settings: Any) -> Job:
    work = job(folder, **settings)
    return Job(
        key=work.key,
        run=work.run,
        method=work.method,
        data=work.data,
        store=str(folder / scratch),
        url=f"file://{folder}/bucket/runs/toy",
    )


def interrupted(work: Job) -> None:
    rows: list[int] = []
    train(work, World(), lambda new: rows.extend(row["seen"] for row in new), stop=lambda: len(rows) >= 2)


def there(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / "bucket/runs/toy/checkpoints").glob(f"*/{MANIFEST}"))


def test_another_node_goes_on_from_what_is_there(tmp_path: Path) -> None:
    through = trained_here(job(tmp_path / "alone"))
    first = mirrored(tmp_path)
    interrupted(first)
    assert there(tmp_path)[-1] == name_of(first.checkpoints.newest() or 0).rpartition("/")[2]
    shutil.rmtree(first.store)
    second = mirrored(tmp_path, "another")
    resumed = trained_here(second)
    assert all(torch.equal(through[key], resumed[key]) for key in through)
    assert len(there(tmp_path)) == 2  # as many as on a disk
    snapshots = sorted(path.name for path in (tmp_path / "bucket/runs/toy/snapshots").iterdir())
    assert snapshots == ["000000000.png", "000000256.png"]


@pytest.mark.parametrize("damage", ["bit", "half"])
def test_a_damaged_copy_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    work = mirrored(tmp_path)
    trained_here(work)
    expected = weights(work)
    newest = tmp_path / "bucket/runs/toy" / name_of(work.finished_at)
    content = bytearray((newest / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.pt").write_bytes(content if damage == "bit" else content[: len(content) // 2])
    other = mirrored(tmp_path, "another")
    trained_here(other)
    assert "does not match its hash; taking the checkpoint before it" in caplog.text
    again = weights(other)
    assert all(torch.equal(expected[key], again[key]) for key in expected)


def access(host: str, port: int) -> dict[str, str]:
    """What a client has in its environment."""
    secrets = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    return secrets | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}


@contextmanager
def bucket(host: str, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """A server that speaks S3, with a bucket "toys"."""
    server = ThreadedMotoServer(ip_address=host, port=port)
    server.start()
    for name, value in access(*server.get_host_and_port()).items():
        monkeypatch.setenv(name, value)
    try:
        S3FileSystem.clear_instance_cache()  # one that was made before knows another server
        boto3.client("s3").create_bucket(Bucket="toys")
        yield server
    finally:
        server.stop()


def test_an_s3_bucket_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket("127.0.0.1", 0, monkeypatch):
        through = trained_here(job(tmp_path / "alone"))
        interrupted(replace(mirrored(tmp_path), url="s3://toys/runs/toy"))
        other = replace(mirrored(tmp_path, "another"), url="s3://toys/runs/toy")
        resumed = trained_here(other)
        assert all(torch.equal(through[key], resumed[key]) for key in through)
        keys = [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket="toys")["Contents"]]
        assert len([key for key in keys if key.endswith(MANIFEST)]) == 2
        assert "runs/toy/snapshots/000000256.png" in keys


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(reason_not() is not None, reason=str(reason_not()))
def test_two_nodes_that_share_no_folder_train_what_two_that_do_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with an empty file system of its own in place of the project's folder; on the way a worker dies, and what
    sends the images."""
    private = tmp_path / "private"
    (private / "home").mkdir(parents=True)
    env = access(HOST, PORT) | {"HOME": str(private / "home")}
    with Namespaces(3, env=env, private=private) as cluster, bucket(HOST, PORT, monkeypatch):
        shared = Training(tmp_path / "shared", cluster, images=6_000)
        shared.finish()
        for stream in (True, False):
            storage = f"s3://toys/{stream}"
            apart = Training(private / str(stream), cluster, images=6_000, storage=storage, stream=stream)
            apart.until(lambda apart=apart: apart.seen >= 1_000, "it trains")  # type: ignore[misc]
            if stream:
                assert cluster.kill(0, "ray::ImageServer")
                before = apart.seen
                apart.until(lambda apart=apart, before=before: apart.seen > before, "it trains on")  # type: ignore[misc]
            assert cluster.kill(1, "ray::RayTrainWorker")
            held = on_node(cluster, 1, private / "home")
            assert "train-labels.npy" in held and ("train-images-00000.npy" in held) != stream
            apart.finish()
            assert apart.weights() == shared.weights()
            assert "state.pt" not in on_node(cluster, 1, private / "home") + on_node(cluster, 2, private / "home")


def on_node(cluster: Namespaces, node: int, folder: Path) -> list[str]:
    """The files below ``folder`` as that node sees it."""
    seen = Path(f"/proc/{cluster.processes(node, 'raylet')[0].pid}/root{folder}")
    return [path.name for path in seen.rglob("*")]


def test_what_lies_at_the_url_counts_and_nothing_else(tmp_path: Path) -> None:
    """A node may hold a checkpoint that was never sent, or another one of the same name: the others do not see it."""
    work = mirrored(tmp_path)
    trained_here(work)
    at_url = tmp_path / "bucket/runs/toy" / name_of(256) / "state.pt"
    replaced = work.checkpoints.load(256, torch.device("cpu")) | {"seconds": 1e9}
    work.checkpoints.save(256, replaced, Budgets())
    work.checkpoints.save(1000, replaced, Budgets())
    assert work.storage.newest() == 256
    assert (Path(work.store) / name_of(256) / "state.pt").read_bytes() == at_url.read_bytes()
    work.storage.save(256, replaced, Budgets())
    assert work.checkpoints.existing() == [256]
    assert there(tmp_path) == [f"{128:012d}", f"{256:012d}"]  # two are kept, whatever this node has


def test_two_nodes_agree_on_a_checkpoint_that_both_have_whole(tmp_path: Path) -> None:
    """Rank 0 made the newest itself; the copy that rank 1 fetches is damaged."""
    work = mirrored(tmp_path, "node0")
    trained_here(work)
    damaged = tmp_path / "bucket/runs/toy" / name_of(work.finished_at) / "state.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    mp.spawn(_resumed, args=(2, str(tmp_path)), nprocs=2)
    found = [json.loads((tmp_path / f"resumed-{rank}").read_text()) for rank in range(2)]
    assert found == [128, 128] and work.storage.newest() == 256


def _resumed(rank: int, size: int, folder: str) -> None:
    work = mirrored(Path(folder), f"node{rank}")
    with gloo_rank(rank, size, folder) as world:
        state = State.fresh(work.method, open_dataset(Path(work.data)).spec, 0, world.device)
        resume(work, state, world)
    (Path(folder) / f"resumed-{rank}").write_text(str(state.seen))


def test_without_its_manifest_a_copy_is_none(tmp_path: Path) -> None:
    work = mirrored(tmp_path)
    interrupted(work)
    for file in (tmp_path / "bucket").rglob(MANIFEST):
        file.unlink()
    other = mirrored(tmp_path, "another")
    assert other.storage.remote is not None
    assert other.storage.remote.fetch_newest(other.checkpoints.is_whole) is None


def test_storage_that_is_away_is_waited_for_and_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    (tmp_path / "state").write_text("x")
    copy = RemoteStore(f"file://{tmp_path}/bucket", tmp_path)
    (tmp_path / "bucket").write_text("a file where the folder should be")

    def back_again(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            (tmp_path / "bucket").unlink()
            (tmp_path / "bucket").mkdir()

    monkeypatch.setattr(remote.time, "sleep", back_again)
    copy.send("state")
    assert (tmp_path / "bucket/state").read_text() == "x" and pauses == [1.0, 2.0, 4.0]
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", -1.0)
    (tmp_path / "away").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cluster\.storage: file://.*away did not answer .*run `dvc repro` again"):
        RemoteStore(f"file://{tmp_path}/away", tmp_path).send("state")


class LibraryError(Exception):
    """As botocore's and aiohttp's, of no class that Python knows."""


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError("late"), LibraryError("busy")])
def test_what_the_storage_raises_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)

    def action(filesystem: Any, root: str) -> str:
        if len(pauses) < 2:
            raise error
        return root

    assert RemoteStore(f"file://{tmp_path}", tmp_path)._retry(action) == str(tmp_path)
    assert pauses == [1.0, 2.0]


@pytest.mark.parametrize("error", [TypeError("no such argument"), KeyError("name"), AttributeError("put")])
def test_a_mistake_in_the_program_is_raised_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("it waited"))

    def action(filesystem: Any, root: str) -> None:
        raise error

    with pytest.raises(type(error)):
        RemoteStore(f"file://{tmp_path}", tmp_path)._retry(action)


@pytest.mark.parametrize("url", ["nowhere://x", "abfs://host/x"])
def test_a_url_that_cannot_be_opened_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """An unknown protocol; one whose package is not installed."""
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(UserError, match=rf"cluster\.storage: cannot open {url} .*install the package"):
        RemoteStore(url, tmp_path).fetch("x")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_node_that_sees_no_folder_makes_do_with_what_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    work = job(tmp_path)
    Path(work.store).mkdir()
    expected = trained_here(job(tmp_path / "alone"))
    splits = open_dataset(Path(work.data)).splits
    elsewhere = (lambda name: splits[name].store) if streamed else None
    inputs = nodes.NodeInputs.collect(work, lambda content: content[::-1], elsewhere)
    Path(work.data).rename(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fetched: list[bytes] = []

    def get(reference: bytes) -> bytes:
        fetched.append(reference)
        return reference[::-1]

    for _ in range(2):
        here = nodes.unpack(work, inputs, get)
    assert len(fetched) == len(inputs.files)  # once per node
    assert any(Path(here.data).glob("*-images-*")) != streamed
    assert Path(here.data).is_relative_to(tmp_path / "home")
    with Journal.open(Path(here.store)) as journal:
        journal.start(name="toy", key="key", params={}, tags={})
    train(here, World(), lambda rows: None)
    assert all(torch.equal(expected[key], value) for key, value in weights(here).items())
    nodes.remove_copies(work, here)
    assert not Path(here.store).exists() and Path(here.data).exists()
    nodes.remove_copies(work, work)
    assert Path(work.store).exists()


def test_preflight_names_what_a_node_lacks(tmp_path: Path) -> None:
    store, url = tmp_path / "store", f"file://{tmp_path}/bucket"
    store.mkdir()
    here = nodes.inspect("10.0.0.1", 4, str(store), url, "token", "key")
    assert (here.storage, here.url) == ("absent", "not the one that the driver sees")
    (store / "token").touch()
    with remote.token_at(url, "token"):
        there = nodes.inspect("10.0.0.1", 4, str(store), url, "token", "key")
    assert (there.storage, there.url) == ("shared", "shared")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bucket", "store", "token"]  # it leaves nothing behind
    good = NodeReport("10.0.0.2", "b", here.versions, 4, (), "shared", "shared", 0)
    assert not nodes.problems([good], here.versions, None)
    old = NodeReport("10.0.0.3", "c", dict(here.versions) | {"torch": "2.0.0"}, 4, (), "absent", "shared", 10**9)
    versions, storage = nodes.problems([good, old], here.versions, None)
    assert versions.startswith("node 10.0.0.3 has torch 2.0.0 (here ") and "requirements.lock" in versions
    assert "node 10.0.0.3: cluster.storage is absent there" in storage and "s3://" in storage
    assert nodes.problems([good, old], here.versions, "s3://bucket", copied=10**9) == [versions]
    (room,) = nodes.problems([replace(old, versions=here.versions)], here.versions, "s3://bucket", copied=2 * 10**9)
    assert "node 10.0.0.3 has 1.0 GB free for a copy of the data of 2.0 GB" in room and "cluster.stream: true" in room
    (access,) = nodes.problems([replace(good, url="not usable (no credentials)")], here.versions, "s3://bucket")
    assert "node 10.0.0.2: cluster.storage, s3://bucket, is not usable (no credentials) there" in access
    has_it = replace(old, versions=here.versions, free=None)
    assert not nodes.problems([has_it], here.versions, "s3://bucket", copied=2 * 10**9)
