"""Stage `report`: all runs side by side, as a page for people and a table for `dvc plots`."""

import typer

from pipeline.config import read_params
from pipeline.errors import UserError, run
from pipeline.stages.paths import OUT, RUNS


def main() -> None:
    """Writes out/report.html, one self-contained page, and out/leaderboard.csv, one row per run, best first."""
    from pipeline.render.report import load_runs, ranked, read_context, write_leaderboard, write_page

    params = read_params()
    headline = f"fid_{params.evaluate.extractors[0]}"
    runs = ranked(load_runs(RUNS, list(params.runs)), headline)
    if not runs:
        raise UserError("out/runs: no run of params.yaml is trained yet. Run `dvc repro`.")
    write_leaderboard(OUT / "leaderboard.csv", runs)
    write_page(OUT / "report.html", runs, read_context(OUT, params.evaluate.extractors), headline)


if __name__ == "__main__":
    run(typer.run, main)
