"""Stage `render`, per run: pictures of what was learnt and how."""

import time
from typing import Annotated

import typer

from pipeline.config import read_params, read_run
from pipeline.stages.common import at_a_time, telling
from pipeline.stages.entry import EXPORT, PICTURES, TORCH, TRACKING, run_stage
from pipeline.stages.paths import DATA, run_folder


@telling("render")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Draw samples.png and, in panels/, the pictures that params.yaml chooses; all of them go to the run in MLflow."""
    from pipeline.render.samples import render
    from pipeline.tracking.agreement import send_run

    begin = time.monotonic()
    params, folder = read_params(), run_folder(name)
    render(folder, DATA, params.render, read_run(params, name)[0].domains, at_a_time(params, name))
    send_run(folder, params, {"render": time.monotonic() - begin})


if __name__ == "__main__":
    run_stage(main, *TORCH, *PICTURES, *EXPORT, *TRACKING, nets=True)
