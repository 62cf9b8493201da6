"""Stage `report`: all runs side by side, as a page for people and a table for `dvc plots`."""

import logging

import typer

from pipeline.config import read_params
from pipeline.errors import run
from pipeline.stages.paths import OUT

logger = logging.getLogger("pipeline.stages.report")  # __name__ is "__main__" in a script


def main() -> None:
    """Write out/report.html, one self-contained page, the scripts of its explorer in out/explorer, and
    out/leaderboard.csv, one row per run, best first; a run in trouble stands in both with the reason.

    MLflow gets what stands in out/runs, also where DVC restored it without running a stage.
    """
    from pipeline.render.board import read_board, write_leaderboard
    from pipeline.render.explorer import write_scripts
    from pipeline.render.report import write_page
    from pipeline.tracking.agreement import send_all_results

    params = read_params()
    board = read_board(OUT, params.runs, params.evaluate.metrics, params.evaluate.extractors)
    write_leaderboard(OUT / "leaderboard.csv", board)
    write_page(OUT / "report.html", board)
    write_scripts(OUT / "explorer", {run.name: run.folder for run in board.runs})
    for problem in board.problems:
        logger.warning("%s", problem)
    send_all_results(params)


if __name__ == "__main__":
    run(typer.run, main)
