"""A journal keeps what was written, exactly and once, whatever dies in between."""

import math
import os
from pathlib import Path

import pytest
from journaled import HARD, begin, picture, points, train

from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.tracking import journal
from pipeline.tracking.journal import Journal


def test_a_half_written_line_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        train(opened, range(3))
    whole = (tmp_path / journal.NAME).read_bytes()
    for torn in (b'{"kind": "metr', b"\0\0\0\0\n\0\0", b'{"kind": "metrics"}\n{"ki'):
        (tmp_path / journal.NAME).write_bytes(whole + torn)
        Journal.open(tmp_path).close()
        assert (tmp_path / journal.NAME).read_bytes() == whole


def test_damage_before_the_end_is_said_and_not_hidden(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        train(opened, range(3))
    lines = (tmp_path / journal.NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / journal.NAME).write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"journal\.jsonl: the line that ends at byte \d+ is damaged"):
        Journal.open(tmp_path)
    with locked(tmp_path / journal.LOCK):
        pass  # and the failed opening holds no lock


def test_every_float_comes_back_as_it_was(tmp_path: Path) -> None:
    values = HARD | {"inf": math.inf, "minus": -math.inf}
    with begin(tmp_path) as opened:
        opened.metrics(values, step=64, once=True)
    with Journal.open(tmp_path) as opened:
        (row,) = opened.rows()
    assert repr(row) == repr({"step": 64} | values)


def test_replayed_training_leaves_no_second_point_and_the_first_value_stays(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        opened.metrics({"loss": 1.0}, step=10, once=True)
        opened.metrics({"loss": math.nan}, step=20, once=True)
    with begin(tmp_path) as opened:
        opened.metrics({"loss": 9.0, "norm": 2.0}, step=10, once=True)
        opened.metrics({"loss": 9.0}, step=20, once=True)
        opened.metrics({"loss": 3.0}, step=30, once=True)
        assert repr(opened.rows()) == repr(
            [{"step": 10, "loss": 1.0, "norm": 2.0}, {"step": 20, "loss": math.nan}, {"step": 30, "loss": 3.0}]
        )
    assert [len(values) for values in points(tmp_path).values()] == [3, 1]


def test_a_later_metric_counts_only_if_it_differs_and_is_no_row_of_training(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        for value in (5.0, 5.0, 6.0, math.nan, math.nan):
            opened.metrics({"fid": value}, step=10)
        assert opened.rows() == []
    assert [value for _, _, value in points(tmp_path)["fid"]][:2] == [5.0, 6.0]
    assert len(points(tmp_path)["fid"]) == 3


def test_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LOCK_WAIT", 0.1)
    with begin(tmp_path):
        assert journal.is_open(tmp_path)
        with pytest.raises(UserError, match="another process is writing"):
            Journal.open(tmp_path)
    assert not journal.is_open(tmp_path)
    Journal.open(tmp_path).close()


def test_attachments_keep_their_content_and_a_new_picture_takes_the_old_ones_time(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", 10)
    first = source.read_bytes()
    with begin(tmp_path / "run") as opened:
        opened.image("samples", source, step=5)
        opened.image("samples", source, step=5)
        with source.open("r+b") as file:
            file.write(picture(tmp_path / "b.png", 20).read_bytes())
        opened.image("samples", source, step=5)
    images = [record for record, _ in journal.read(tmp_path / "run" / journal.NAME) if record["kind"] == "image"]
    assert len(images) == 2
    assert images[0]["time"] == images[1]["time"]
    assert (tmp_path / "run" / images[0]["file"]).read_bytes() == first


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with begin(tmp_path) as opened:
        before = (tmp_path / journal.NAME).read_bytes()
        monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
        with pytest.raises(OSError, match="disk is full"):
            opened.metrics({"loss": 1.0}, step=1, once=True)
        monkeypatch.undo()
        assert (tmp_path / journal.NAME).read_bytes() == before
        opened.metrics({"loss": 1.0}, step=1, once=True)
        assert opened.rows() == [{"step": 1, "loss": 1.0}]


def test_what_mlflow_would_refuse_is_refused_at_once(tmp_path: Path) -> None:
    with begin(tmp_path) as opened:
        with pytest.raises(ValueError, match="loss"):
            opened.metrics({"loss?": 1.0}, step=1)
        with pytest.raises(ValueError, match="PNG"):
            opened.image("film", tmp_path / "film.gif", step=1)
        with pytest.raises(ValueError, match="journal of dcgan"):
            opened.start(name="vae", key="k1", params={}, tags={})
