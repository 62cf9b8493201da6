"""Checkpoints at a URL: complete or absent there too; nodes that share no folder; storage that is away for a while."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer
from test_cluster import job, trained_here, weights

from pipeline import mirror, nodes
from pipeline.checkpoint import MANIFEST, name_of
from pipeline.core.world import World
from pipeline.errors import UserError
from pipeline.journal import Journal
from pipeline.mirror import Mirror
from pipeline.nodes import Facts
from pipeline.training import Job, train


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
def test_a_damaged_copy_is_passed_over(tmp_path: Path, damage: str) -> None:
    work = mirrored(tmp_path)
    trained_here(work)
    expected = weights(work)
    newest = tmp_path / "bucket/runs/toy" / name_of(work.finished_at)
    content = bytearray((newest / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.pt").write_bytes(content if damage == "bit" else content[: len(content) // 2])
    other = mirrored(tmp_path, "another")
    with pytest.warns(UserWarning, match="does not match its hash; taking the checkpoint before it"):
        trained_here(other)
    again = weights(other)
    assert all(torch.equal(expected[key], again[key]) for key in expected)


def test_an_s3_bucket_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        secrets = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": address}
        for name, value in (secrets | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="toys")
        through = trained_here(job(tmp_path / "alone"))
        interrupted(replace(mirrored(tmp_path), url="s3://toys/runs/toy"))
        other = replace(mirrored(tmp_path, "another"), url="s3://toys/runs/toy")
        resumed = trained_here(other)
        assert all(torch.equal(through[key], resumed[key]) for key in through)
        keys = [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket="toys")["Contents"]]
        assert len([key for key in keys if key.endswith(MANIFEST)]) == 2
        assert "runs/toy/snapshots/000000256.png" in keys
    finally:
        server.stop()


def test_without_its_manifest_a_copy_is_none(tmp_path: Path) -> None:
    work = mirrored(tmp_path)
    interrupted(work)
    for file in (tmp_path / "bucket").rglob(MANIFEST):
        file.unlink()
    other = mirrored(tmp_path, "another")
    assert other.mirror is not None
    other.mirror.fetch_newest(other.checkpoints.is_whole)
    assert other.checkpoints.newest() is None


def test_storage_that_is_away_is_waited_for_and_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    (tmp_path / "state").write_text("x")
    copy = Mirror(f"file://{tmp_path}/bucket", tmp_path)
    (tmp_path / "bucket").write_text("a file where the folder should be")

    def back_again(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            (tmp_path / "bucket").unlink()
            (tmp_path / "bucket").mkdir()

    monkeypatch.setattr(mirror.time, "sleep", back_again)
    copy.send("state")
    assert (tmp_path / "bucket/state").read_text() == "x" and pauses == [1.0, 2.0, 4.0]
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(UserError, match=r"cluster\.storage: nowhere://x did not answer .*run `dvc repro` again"):
        Mirror("nowhere://x", tmp_path).send("state")


def test_a_node_that_sees_no_folder_unpacks_what_it_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = job(tmp_path)
    expected = trained_here(job(tmp_path / "alone"))
    files = nodes.parcel(work, lambda content: content[::-1])
    Path(work.data).rename(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fetched: list[bytes] = []

    def get(reference: bytes) -> bytes:
        fetched.append(reference)
        return reference[::-1]

    for _ in range(2):
        here = nodes.unpacked(work, files, get)
    assert len(fetched) == len(files)  # once per node
    assert Path(here.data).is_relative_to(tmp_path / "home")
    with Journal.open(Path(here.store)) as journal:
        journal.start(name="toy", key="key", params={}, tags={})
    train(here, World(), lambda rows: None)
    assert all(torch.equal(expected[key], value) for key, value in weights(here).items())


def test_preflight_names_what_a_node_lacks(tmp_path: Path) -> None:
    here = nodes.facts("10.0.0.1", 4, str(tmp_path), "token")
    assert here.storage == "absent"
    (tmp_path / "token").touch()
    assert nodes.facts("10.0.0.1", 4, str(tmp_path), "token").storage == "shared"
    assert [path.name for path in tmp_path.iterdir()] == ["token"]  # it leaves nothing behind
    good = Facts("10.0.0.2", "b", here.versions, 4, (), "shared")
    assert not nodes.problems([good], here.versions, None)
    old = Facts("10.0.0.3", "c", dict(here.versions) | {"torch": "2.0.0"}, 4, (), "absent")
    versions, storage = nodes.problems([good, old], here.versions, None)
    assert versions.startswith("node 10.0.0.3 has torch 2.0.0 (here ") and "requirements.lock" in versions
    assert "node 10.0.0.3: cluster.storage is absent there" in storage and "s3://" in storage
    assert nodes.problems([old], here.versions, "s3://bucket") == [versions]
