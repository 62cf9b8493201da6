"""A person sees a run's progress, and once where to look at it."""

import time
from pathlib import Path

import pytest
from journaled import begin

from pipeline.tracking.progress import POLL_SECONDS, watching


def test_a_person_sees_progress_and_once_where_to_look(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, pages = project / "run", iter([None, "http://there/#/runs/1"])
    with begin(folder) as opened, watching(folder, "dcgan", 400, lambda: next(pages)):
        for seen in (40, 80):
            opened.metrics({"critic/loss": 0.5, "images_per_second": 1234.0}, step=seen, once=True)
            time.sleep(2 * POLL_SECONDS)
        opened.finish("FINISHED")
    assert capfd.readouterr().err.splitlines() == [
        "dcgan: 40 of 400 images, 1,234 images/s  critic 0.5",
        "dcgan: http://there/#/runs/1",
        "dcgan: 80 of 400 images, 1,234 images/s  critic 0.5",
    ]
