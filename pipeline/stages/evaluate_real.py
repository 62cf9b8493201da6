"""Stage `evaluate_real`: real images in the place of samples, a scale to read the runs' numbers by."""

from pipeline.config import read_params
from pipeline.stages.entry import TORCH, run_stage
from pipeline.stages.paths import OUT, REFERENCE, STATISTICS


def main() -> None:
    """Score real images by every metric of params.yaml and write out/real/metrics.json and protocol.json."""
    from pipeline.evaluate.scoring import score_real
    from pipeline.files import atomic_folder, write_json

    scores = score_real(REFERENCE, read_params().evaluate, STATISTICS)
    with atomic_folder(OUT / "real") as folder:
        write_json(folder / "metrics.json", scores.metrics)
        write_json(folder / "protocol.json", scores.protocol)


if __name__ == "__main__":
    run_stage(main, *TORCH, nets=True)
