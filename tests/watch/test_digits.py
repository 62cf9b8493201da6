"""Real runs on the project's own digits: what is sick is flagged within its first tenth, what is healthy is not.

The beginnings of runs of params.yaml, whose whole budgets stand in docs/tracking.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_data import origin
from toy_job import train_on

from pipeline import methods
from pipeline.config import Cluster, Run
from pipeline.core.world import World
from pipeline.ingest import sources
from pipeline.ingest.normalize import Normalization, normalize
from pipeline.ingest.shards import Work
from pipeline.tracking.journal import Journal
from pipeline.training.job import Job, Row
from pipeline.training.outcome import outcome_of
from pipeline.training.trainer import train

TENTHS = {"dcgan": 15_000, "vae": 10_100}  # whole log windows: that of a tenth of 100,000 images ends at 10,048


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like out/data of params.yaml."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "raw").mkdir()
    source = sources.find("digits")
    source.download(origin(folder), folder / "raw")
    with source.open(folder / "raw", origin(folder)) as raw:
        as_there, work = Normalization(channels=1, size=16), Work(folder=folder / "work", identity="")
        normalize(raw, folder / "data", folder / "images", as_there, source="digits", test_fraction=0.2, work=work)
    return folder / "data"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A diverging GAN is chaotic: the same sums in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(data: Path, folder: Path, method: str, images: int, own: dict[str, Any], **settings: Any) -> Job:
    run = Run(method=method, images=images, snapshot_every=10**6, **settings)
    return Job(key="key", run=run, method=methods.load(method, **own), data=str(data), store=str(folder / "store"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("method", "own", "kind"),
    [
        ("dcgan", {"lr": 0.5}, "collapse"),
        ("dcgan", {}, None),
        ("vae", {"beta": 100.0}, "posterior_collapse"),
        ("vae", {"beta": 4.0}, None),
    ],
)
def test_what_is_sick_is_flagged_in_its_first_tenth_and_what_is_healthy_is_not(
    digits: Path, tmp_path: Path, method: str, own: dict[str, Any], kind: str | None
) -> None:
    found: dict[str, int] = {}

    def note(rows: list[Row]) -> None:
        for row in rows:
            found.update({alarm["kind"]: alarm["said"] for alarm in row.get("warnings", ())})

    train(job(digits, tmp_path, method, 15_000, own), World(), note)
    if kind is None:
        assert found == {}
    else:
        assert found[kind] <= TENTHS[method], found


@pytest.mark.slow
def test_a_run_on_ray_stops_on_its_warning_and_the_terminal_has_it_from_the_journal(
    digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = job(digits, tmp_path, "vae", 30_000, {"beta": 100.0, "width": 8}, stop_on=("posterior_collapse",))
    train_on(Cluster(workers=2), made)
    outcome = outcome_of(made)
    assert outcome is not None and outcome.stopped is not None
    assert outcome.end == outcome.stopped["said"] == 10_048 and made.checkpoints.existing()[-1] == 10_048
    with Journal.open(Path(made.store)) as journal:
        assert journal.known_tags()["warning.posterior_collapse"] == outcome.stopped["message"]
        assert [row["step"] for row in journal.rows() if "watched/active_units" in row] == [5_056, 10_048]
    with caplog.at_level("INFO", logger="pipeline"):
        train_on(Cluster(workers=2), made)
    assert "this very training is finished" in caplog.text
