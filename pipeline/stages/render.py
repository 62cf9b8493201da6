"""Stage `render`, per run: pictures of what was learnt and how."""

from typing import Annotated

import typer

from pipeline.config import read_params, read_run
from pipeline.errors import run
from pipeline.stages.common import at_a_time, reopen, telling
from pipeline.stages.paths import DATA, run_folder


@telling("render")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Draw samples.png and, in panels/, the film of training, the loss curves and the method's own panels;
    all of them go to the run's journal too."""
    from pipeline.render.samples import render

    params, folder = read_params(), run_folder(name)
    seen = render(folder, DATA, params.render, read_run(params, name)[0].domains, at_a_time(params, name))
    with reopen(name) as journal:
        journal.image("final_samples", folder / "samples.png", step=seen)
        for file in (folder / "samples.png", *sorted((folder / "panels").iterdir())):
            journal.artifact(file, "pictures")


if __name__ == "__main__":
    run(typer.run, main)
