"""A process beside the stages of a `dvc repro`: trains one run that DVC will come to, then starts the next."""

import logging
from dataclasses import replace

from pipeline import errors
from pipeline.config import read_params
from pipeline.stages.common import scratch
from pipeline.stages.paths import OUT

_log = logging.getLogger("pipeline.stages.beside")  # __name__ is "__main__" in a script


def main() -> None:
    """Train the next run to its end and leave its checkpoints where its stage finds them; start another process."""
    from pipeline.cluster.beside import fill, slots_of, train_next

    params = read_params()
    slots = slots_of(params)
    if slots is None:
        return
    here = replace(params, cluster=replace(params.cluster, workers=0))
    with slots.hold(1) as held:
        try:
            trained = bool(held) and train_next(slots, here, OUT, scratch(params))
        except Exception:
            _log.exception("a training beside others failed; its own stage tries it again")
            trained = True
    if trained:
        fill(slots, params)


if __name__ == "__main__":
    errors.run(main)
