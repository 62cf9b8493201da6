"""Stage `evaluate`, per run: every metric of params.yaml from the kept features, and pictures of these; nothing is
sampled here."""

import time
from typing import Annotated

import typer

from pipeline.config import read_params, read_run
from pipeline.stages.common import telling
from pipeline.stages.entry import PICTURES, TORCH, TRACKING, run_stage
from pipeline.stages.paths import REFERENCE, STATISTICS, run_folder


@telling("evaluate")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Score a run's samples against out/reference and write metrics.json (numbers only) and protocol.json (how each
    number was made), and draw the comparisons; all of them go to the run in MLflow."""
    from pipeline.evaluate.seeds import score_trainings
    from pipeline.files import write_json
    from pipeline.inference.published import training_of
    from pipeline.render.compare import compare
    from pipeline.tracking.agreement import send_run

    begin = time.monotonic()
    params, folder = read_params(), run_folder(name)
    seeds, features = read_run(params, name)[0].all_seeds, folder / "features"
    places = {seed: training_of(features, seed, seeds) for seed in seeds}
    scores = score_trainings(places, REFERENCE, params.evaluate, STATISTICS)
    write_json(folder / "protocol.json", scores.protocol)
    compare(folder / "comparisons", folder / "features", REFERENCE, params.evaluate)
    write_json(folder / "metrics.json", scores.metrics)
    send_run(folder, params, {"evaluate": time.monotonic() - begin})


if __name__ == "__main__":
    run_stage(main, *TORCH, *PICTURES, *TRACKING)
