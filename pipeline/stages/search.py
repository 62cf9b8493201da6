"""Stage `search`, per run and on demand: the search of params.yaml, on Ray Tune (search/dvc.yaml)."""

from typing import Annotated

import typer

from pipeline.config import read_params
from pipeline.errors import run
from pipeline.files import project_root
from pipeline.stages.common import scratch
from pipeline.stages.paths import OUT, TUNE


def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml that has a search.")]) -> None:
    """Do the search of a run, or go on with it, and write what it found to out/tune/<run>."""
    from pipeline.tune.driver import search_on_ray
    from pipeline.tune.record import Record
    from pipeline.tune.report import write_report
    from pipeline.tune.results import write_best, write_trials
    from pipeline.tune.search import task_of

    params, root = read_params(), project_root()
    task = task_of(name, params, root=root, out=OUT, scratch=scratch(params))
    with Record.open(task.folder, name) as record:
        if not search_on_ray(task, record):
            raise SystemExit("stopped at a checkpoint; the same command goes on from it")
        folder = TUNE / name
        write_best(folder / "best.yaml", task, record)
        write_trials(folder / "trials.csv", task, record)
        write_report(folder / "report.html", task, record)


if __name__ == "__main__":
    run(typer.run, main)
