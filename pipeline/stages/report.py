"""Stage `report`: all runs side by side, as a page for people and a table for `dvc plots`."""

import logging
from typing import TYPE_CHECKING

from pipeline.config import read_params
from pipeline.stages.entry import PICTURES, TORCH, TRACKING, run_stage
from pipeline.stages.paths import OUT, TUNE

if TYPE_CHECKING:
    from pipeline.render.board import Board
    from pipeline.tracking.pages import View

COLUMNS = 4  # of scores, in MLflow's table

logger = logging.getLogger("pipeline.stages.report")  # __name__ is "__main__" in a script


def main() -> None:
    """Write out/report.html, one self-contained page, the scripts of its explorer in out/explorer, out/leaderboard.csv,
    one row per run, best first, and out/pictures, for `dvc plots`; a run in trouble stands in page and table with the
    reason.

    MLflow gets what stands in out/runs, also where DVC restored it without running a stage.
    """
    from pipeline.render.board import read_board, write_leaderboard
    from pipeline.render.explorer import write_scripts
    from pipeline.render.report import write_page, write_pictures
    from pipeline.tracking.agreement import send_all_results
    from pipeline.tune.adopt import searches

    params = read_params()
    board = read_board(OUT, params.runs, params.evaluate.metrics, params.evaluate.extractor_names)
    links = send_all_results(params, _view(board))
    write_leaderboard(OUT / "leaderboard.csv", board)
    write_page(OUT / "report.html", board, links, searches(TUNE, params.runs))
    write_pictures(OUT / "pictures", board)
    write_scripts(OUT / "explorer", {run.name: run.folder for run in board.runs})
    for problem in board.problems:
        logger.warning("%s", problem)
    for title, link in links.items():
        logger.info("%s in MLflow: %s", title, link)


def _view(board: "Board") -> "View":
    """Return what MLflow's table of runs shows: the first numbers of the board, and what the trainings cost."""
    from pipeline.tracking.pages import View

    metrics = [column.key for column in board.columns[:COLUMNS]]
    ascending = board.headline is None or board.headline.better != "higher"
    return View(metrics=[*metrics, "cost/seconds"], ascending=ascending)


if __name__ == "__main__":
    run_stage(main, *TORCH, *PICTURES, *TRACKING)
