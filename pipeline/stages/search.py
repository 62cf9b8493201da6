"""Stage `search`, per run and on demand: the search of params.yaml, on Ray Tune (search/dvc.yaml)."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import read_params
from pipeline.errors import UserError, run
from pipeline.files import project_root
from pipeline.stages.common import scratch
from pipeline.stages.paths import OUT, TUNE

logger = logging.getLogger("pipeline.stages.search")  # __name__ is "__main__" in a script


def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml that has a search.")]) -> None:
    """Do the search of a run, or go on with it; write what it found to out/tune/<run>, and send it to MLflow."""
    from pipeline.tracking.search_shipper import shipping_search
    from pipeline.tracking.searches import send_search
    from pipeline.tune.confirm import STOPPED, confirm
    from pipeline.tune.driver import search_on_ray
    from pipeline.tune.record import Record
    from pipeline.tune.report import write_report
    from pipeline.tune.results import as_sent, write_best, write_trials, write_weights
    from pipeline.tune.search import task_of

    params, root = read_params(), project_root()
    task = task_of(name, params, root=root, out=OUT, scratch=scratch(params))
    with Record.open(task.folder, name) as record:
        with shipping_search(task.folder, params.tracking) as tell:
            if not search_on_ray(task, record, lambda: tell(as_sent(task, record, status="RUNNING"))):
                raise SystemExit(STOPPED)
        compared = confirm(task, record) if task.search.confirm else None
        folder = TUNE / name
        write_best(folder / "best.yaml", task, record, compared.as_dict() if compared else None)
        write_trials(folder / "trials.csv", task, record)
        write_weights(folder / "weights", task, record)
        write_report(folder / "report.html", task, record, compared)
        _renew_report()
        found = as_sent(task, record, sorted(filter(Path.is_file, folder.iterdir())))
        if page := send_search(found, params.tracking, task.folder):
            logger.info("%s: in MLflow: %s", name, page)
        logger.info("%s: %s shows the search; `genloom adopt %s` takes its best", name, folder / "report.html", name)


def _renew_report() -> None:
    """Let out/report.html, where there is one, link the search's page and say what it found.

    DVC knows of no way from a search to the report, as a plain `dvc repro` would then search.
    """
    from pipeline.stages.report import main as write_report

    if (OUT / "report.html").exists():
        try:
            write_report()
        except UserError as error:
            logger.warning("%s does not link this search yet: %s", OUT / "report.html", error)


if __name__ == "__main__":
    run(typer.run, main)
