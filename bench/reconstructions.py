"""How well trained runs reconstruct test images: pixel errors, and the Frechet distance of all of them to the images.

    python bench/reconstructions.py RUN [RUN ...] [--data out/data] [--images 2000] [--extractor NAME] [--weights FILE]
        [--picture FILE]

RUN is a folder with weights.safetensors, such as out/runs/vqvae. Errors are of pixels in [-1, 1], where black and white
are 2 apart. The distance is between the reconstructions and the very images that they are of, in an extractor's
features, so a perfect one has 0; the weights of classifier are out/extractors/classifier.safetensors. Seconds are CPU
seconds of this process. The picture has a row of images, and below it one for each run.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.dataset import open_dataset
from pipeline.evaluate import extractors
from pipeline.evaluate.feature_set import Statistics
from pipeline.evaluate.metrics.fid import frechet_distance
from pipeline.inference.encode import reconstruct
from pipeline.inference.weights import load_weights
from pipeline.render.grid import grid

AT_A_TIME, SHOWN = 100, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data", default="out/data")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--extractor", default="efficientnet_lite0")
    parser.add_argument("--weights")
    parser.add_argument("--picture")
    args = parser.parse_args()
    split = open_dataset(Path(args.data)).splits["test"]
    ids = range(min(args.images, len(split)))
    images, labels = split.images(ids), split.labels_of(ids)
    extractor = extractors.load(args.extractor, weights=args.weights)

    def statistics_of(some: Tensor) -> Statistics:
        return Statistics.of(torch.cat([extractor(part).pooled for part in some.split(AT_A_TIME)]))

    real, rows = statistics_of(images).factorized(), [images[:SHOWN]]
    for run in args.runs:
        trained, begin = load_weights(Path(run, "weights.safetensors")), time.process_time()
        made = torch.cat(list(reconstruct(trained, images.split(AT_A_TIME), labels)))
        seconds = time.process_time() - begin
        error = (made.float() - images.float()) / 127.5
        distance = frechet_distance(real, statistics_of(made))
        print(
            f"{run}: mean absolute error {error.abs().mean():.4f}, mean squared {error.square().mean():.4f}, "
            f"FID of reconstructions by {args.extractor} {distance:.1f} ({seconds:.1f} s)",
            flush=True,
        )
        rows.append(made[:SHOWN])
    if args.picture:
        grid(torch.cat(rows), SHOWN).save(args.picture)


if __name__ == "__main__":
    main()
