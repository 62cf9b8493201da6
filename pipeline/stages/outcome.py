"""The end of `make repro`, and no stage of DVC's: which runs failed and why; it ends with 1 if any did."""

import typer

from pipeline.config import read_params
from pipeline.errors import UserError, run
from pipeline.stages.paths import OUT


def main() -> None:
    """Say what failed of the runs of params.yaml; what is well goes without saying."""
    from pipeline.render.board import read_board

    params = read_params()
    problems = read_board(OUT, params.runs, params.evaluate.metrics, params.evaluate.extractor_names).problems
    if problems:
        listed = "\n  ".join(problems)
        raise UserError(f"not all runs are well; {OUT / 'report.html'} shows the others:\n  {listed}")


if __name__ == "__main__":
    run(typer.run, main)
