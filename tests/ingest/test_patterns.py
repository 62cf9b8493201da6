"""Patterns in data.path, local and at URLs."""

from pathlib import Path

import fsspec
import pytest

from pipeline.errors import UserError
from pipeline.ingest.listing import local, write_listing
from pipeline.ingest.originals import keep_listing, list_files, originals, read
from pipeline.ingest.patterns import expand_braces, matcher, split_pattern
from pipeline.ingest.source import Origin


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("photos", ("photos", "")),
        ("shards/train-{00..09}.tar", ("shards", "train-{00..09}.tar")),
        ("*.tar", (".", "*.tar")),
        ("/a/b*/c.tar", ("/a", "b*/c.tar")),
        ("/*.tar", ("/", "*.tar")),
        ("a[1]/b.tar", (".", "a[1]/b.tar")),
        ("s3://bucket/x/*.tar", ("s3://bucket/x", "*.tar")),
        ("https://host/a.zip?key=1", ("https://host/a.zip?key=1", "")),
    ],
)
def test_where_a_pattern_begins(path: str, parts: tuple[str, str]) -> None:
    assert split_pattern(path) == parts


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("a", ["a"]),
        ("{a,b}{1..3}", ["a1", "a2", "a3", "b1", "b2", "b3"]),
        ("x{08..11}", ["x08", "x09", "x10", "x11"]),
        ("{a,{b,c}}", ["a", "b", "a", "c"]),
    ],
)
def test_braces(pattern: str, texts: list[str]) -> None:
    assert sorted(expand_braces(pattern)) == sorted(texts)


@pytest.mark.parametrize("braces", ["{5..1}", "{0..9999999999}"])
def test_braces_for_nothing_or_too_much_are_refused(braces: str) -> None:
    with pytest.raises(UserError, match="stands for no numbers, or for more than"):
        expand_braces(f"a-{braces}.tar")


def test_what_a_pattern_matches() -> None:
    matches = matcher("*/{a,b}-[0-9]?.tar")
    assert matches("x/a-12.tar") and matches("y/b-0z.tar")
    assert not matches("a-12.tar") and not matches("x/y/a-12.tar") and not matches("x/c-12.tar")


def test_local_files(tmp_path: Path) -> None:
    for name in ("s/1.tar", "s/2.tar", "s/2.txt", "s/deep/3.tar", "s[1]/4.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)

    def found(path: str) -> list[str]:
        return [one.name for one in list_files([path], tmp_path, tmp_path / "hashes.sqlite")]

    assert found("s/*.tar") == ["1.tar", "2.tar"] and found("s/*/*.tar") == ["deep/3.tar"]
    assert found("s[1]") == ["4.tar"]  # a folder of that name
    assert local("s/*.tar", tmp_path) == tmp_path / "s" and local("s", tmp_path) == tmp_path / "s"
    with pytest.raises(UserError, match=r"no file is '\*\.zip', which 's/\*\.zip' stands for"):
        found("s/*.zip")
    with pytest.raises(UserError, match="there is no 'gone'"):
        found("gone")


def test_files_in_a_bucket(tmp_path: Path) -> None:
    """fsspec's file system in memory stands for those of the clouds."""
    bucket = fsspec.filesystem("memory")
    for name in ("0.tar", "1.tar", "x/2.tar", "1.txt"):
        bucket.pipe_file(f"/patterns/{name}", name.encode())
    for path, names in (
        ("memory://patterns/*.tar", ["0.tar", "1.tar"]),
        ("memory://patterns/{0..1}.tar", ["0.tar", "1.tar"]),
        ("memory://patterns", ["0.tar", "1.tar", "1.txt", "x/2.tar"]),
    ):
        assert [one.name for one in list_files([path], tmp_path, tmp_path / "hashes.sqlite")] == names
    with pytest.raises(UserError, match=r"can't be listed .*2\.tar"):
        list_files(["memory://patterns/{0..7}.tar"], tmp_path, tmp_path / "hashes.sqlite")


@pytest.mark.parametrize(("count", "told"), [(2, {"0.bin", "1.bin"}), (20, {"downloading files"})])
def test_many_files_of_a_bucket_have_one_bar(tmp_path: Path, count: int, told: set[str]) -> None:
    bucket, names = fsspec.filesystem("memory"), set[str]()
    for number in range(count):
        bucket.pipe_file(f"/many{count}/{number}.bin", bytes(number + 1))
    paths = (f"memory://many{count}",)
    write_listing(tmp_path / "listing.csv", list_files(paths, tmp_path, tmp_path / "hashes.sqlite"))
    given = Origin(
        paths=paths,
        folder=tmp_path,
        listing=tmp_path / "listing.csv",
        downloads=tmp_path / "downloads",
        report=lambda name, done, total: names.add(name),
    )
    (tmp_path / "raw").mkdir()
    keep_listing(given, tmp_path / "raw", lambda name: name != "0.bin" or count == 2)
    assert names == told
    found = originals(tmp_path / "raw", given)
    assert [read(one) for one in found] == [bytes(int(one.name.split(".")[0]) + 1) for one in found]
    assert len(found) == (count if count == 2 else count - 1)
