"""A person sees a run's progress, and once where to look at it."""

import time
from pathlib import Path
from typing import Any

import pytest
from journaled import begin

from pipeline.tracking.progress import watching
from pipeline.tracking.record import record

PAGE = "http://there/#/runs/1"


def test_a_person_sees_progress_and_once_where_to_look(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, seen = project / "run", ""
    pages: list[str] = []

    def wait_for(what: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while what not in seen:
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)
            seen += capfd.readouterr().err

    with begin(folder) as opened, watching(folder, "dcgan", 400, lambda: pages[0] if pages else None):
        opened.metrics({"critic/loss": 0.5, "images_per_second": 1234.0}, step=40, once=True)
        wait_for("40 of 400")
        pages.append(PAGE)
        wait_for(PAGE)
        opened.metrics({"critic/loss": 0.5, "images_per_second": 1234.0}, step=80, once=True)
        wait_for("80 of 400")
        opened.finish("FINISHED")
    seen += capfd.readouterr().err
    assert seen.splitlines() == [
        "dcgan: 40 of 400 images, 1,234 images/s  critic 0.5",
        f"dcgan: {PAGE}",
        "dcgan: 80 of 400 images, 1,234 images/s  critic 0.5",
    ]


def test_a_page_known_only_at_the_end_is_still_said(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    known: list[str] = []
    with watching(project / "run", "dcgan", 400, lambda: known[0] if known else None):
        known.append(PAGE)
    assert capfd.readouterr().err.splitlines() == [f"dcgan: {PAGE}"]


def test_rows_of_before_are_not_shown_again(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither those in the journal nor those that a checkpoint brings into a new one, at the time of their making."""
    folder, hour_ago = project / "run", (time.time_ns() // 1_000_000) - 3_600_000
    values = {"critic/loss": 0.5, "images_per_second": 1234.0}
    with begin(folder) as opened:
        opened.metrics(values, step=40, once=True)
    time.sleep(0.01)
    with begin(folder) as opened, watching(folder, "dcgan", 400, lambda: None):
        opened.metrics(values, step=40, once=True, time=hour_ago)
        opened.metrics(values, step=80, once=True, time=hour_ago)
        opened.metrics(values, step=120, once=True)
    assert capfd.readouterr().err.splitlines() == ["dcgan: 120 of 400 images, 1,234 images/s  critic 0.5"]


def test_a_warning_is_said_when_it_comes_and_not_again(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not that of before, which the journal has already; and a look between two rows is no row."""
    folder = project / "run"
    before, new = ({"kind": kind, "message": f"{kind} since 5 images"} for kind in ("divergence", "collapse"))
    row: dict[str, Any] = {"time": time.time_ns() // 1_000_000 + 1_000, "snapshot": None}
    rows = [
        row | {"seen": 40, "values": {}, "watched": {"diversity": 0.5}, "warnings": [before]},
        row | {"seen": 80, "values": {}, "watched": {"diversity": 0.0}, "warnings": [new]},
    ]
    with begin(folder) as opened:
        record(opened, rows[:1], project)
    time.sleep(0.01)
    with caplog.at_level("WARNING", logger="pipeline"), begin(folder) as opened:
        with watching(folder, "dcgan", 400, lambda: None):
            record(opened, rows, project)
            record(opened, rows, project)
        assert opened.known_tags()["warning.collapse"] == "collapse since 5 images"
        assert [row["watched/diversity"] for row in opened.rows()] == [0.5, 0.0]
    assert [record.getMessage() for record in caplog.records] == ["dcgan: collapse since 5 images"]
