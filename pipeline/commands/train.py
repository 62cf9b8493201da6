"""`genloom train`: all runs of params.yaml at once; `dvc repro` then only publishes them."""

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.cluster.together import Training

COLUMNS = ("run", "state", "images", "images/s", "time left")


def train(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="All of params.yaml if none.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Trainings at a time at most.", show_default="as many as fit", min=1),
    ] = None,
) -> None:
    """Train runs at the same time, as many as there is room for; the next `dvc repro` publishes what they left.

    An interrupted call goes on where it was; a failing run does not stop the others.
    """
    from pipeline.cluster.launch import stop_on_signals
    from pipeline.cluster.together import refuse_failures, room, train_together, trainings
    from pipeline.config import read_params
    from pipeline.console import live_table

    params = read_params()
    found = trainings(params, runs or [])
    _dvc("code", "normalize")
    with room(params.cluster, len(found), jobs) as place, live_table(COLUMNS) as draw, stop_on_signals() as stop:

        def publish(run: str) -> None:
            _dvc("--single-item", f"train@{run}")

        train_together(found, place, publish, lambda now: draw([_row(training) for training in now]), stop)
    refuse_failures(found)
    if any(training.state != "trained" for training in found):
        raise SystemExit("stopped at checkpoints; the same command goes on from them")


def _row(training: "Training") -> tuple[str, ...]:
    """Return what the table says of a training."""
    total, speed = training.total, training.speed
    images = f"{training.seen:,} of {total:,}" if total else ""
    left = f"{(total - training.seen) / speed / 60:.1f} min" if total and speed and training.state == "training" else ""
    return training.name, training.state, images, f"{speed:,.0f}" if speed else "", left


def _dvc(*arguments: str) -> None:
    """Run `dvc repro`; end with its exit code if it fails, as it has said why."""
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)
