"""Stage `report`: all runs side by side, as a page for people and a table for `dvc plots`."""

import typer

from pipeline.config import read_params
from pipeline.errors import UserError, run
from pipeline.stages.paths import OUT


def main() -> None:
    """Write out/report.html, one self-contained page, and out/leaderboard.csv, one row per run, best first.

    MLflow gets what stands in out/runs, also where DVC restored it without running a stage.
    """
    from pipeline.render.report import read_board, write_leaderboard, write_page
    from pipeline.tracking.agreement import send_all_results

    params = read_params()
    board = read_board(OUT, list(params.runs), params.evaluate.metrics, params.evaluate.extractors)
    if not board.runs:
        raise UserError("out/runs: no run of params.yaml is trained yet. Run `dvc repro`.")
    write_leaderboard(OUT / "leaderboard.csv", board)
    write_page(OUT / "report.html", board)
    send_all_results(params)


if __name__ == "__main__":
    run(typer.run, main)
