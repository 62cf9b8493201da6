"""Stage `evaluate`, per run: every metric of params.yaml from the kept features; nothing is sampled here."""

import json
from typing import Annotated

import typer

from pipeline.config import read_params
from pipeline.errors import run
from pipeline.stages.common import reopen, telling
from pipeline.stages.paths import REFERENCE, run_folder


@telling("evaluate")
def main(name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Score a run's samples against out/reference and write metrics.json (numbers only) and protocol.json (how each
    number was made); both go to the run's journal too."""
    from pipeline.evaluate.feature_set import read_protocol
    from pipeline.evaluate.scoring import score_run
    from pipeline.files import write_json

    folder = run_folder(name)
    scores = score_run(folder / "features", REFERENCE, read_params().evaluate)
    seen = read_protocol(folder / "features", "generate")["images"]["images_seen"]
    write_json(folder / "protocol.json", scores.protocol)
    write_json(folder / "metrics.json", scores.metrics)
    with reopen(name) as journal:
        journal.metrics(scores.metrics, step=seen)
        journal.tags({f"protocol.{key}": json.dumps(how, sort_keys=True) for key, how in scores.protocol.items()})


if __name__ == "__main__":
    run(typer.run, main)
