"""Train, sample and evaluate from Python: the same loop, nets and metrics as `dvc repro`, without files of a run."""

# --8<-- [start:imports]
from pathlib import Path

import torch

from pipeline import methods
from pipeline.core.batch import to_uint8
from pipeline.core.loop import fit
from pipeline.core.state import State
from pipeline.core.world import World, default_device
from pipeline.data.dataset import open_dataset
from pipeline.data.stream import batches
from pipeline.evaluate import extractors
from pipeline.evaluate.scoring import score_images
from pipeline.inference.export import Sampler
from pipeline.inference.weights import Trained
from pipeline.render.grid import grid

# --8<-- [end:imports]

# --8<-- [start:body]
dataset = open_dataset(Path("out/data"))
real = dataset.splits["train"]
world = World(device=default_device())
method = methods.load("dcgan", width=16)

state = State.fresh(method, dataset.spec, seed=0, device=world.device)
stream = batches(real, seed=0, batch_size=64, world=world)
for logs in fit(method, state, stream, world, seed=0, total=5_000, ema_half_life=1_000):
    print(f"{state.seen} images, critic's loss {logs['critic/loss']:.3f}", end="\r")

sampler = Sampler(Trained.of(method, state, dataset.spec))
seeds = torch.arange(256, device=world.device)
samples = to_uint8(sampler(seeds, seeds % dataset.spec.classes)).cpu()
grid(samples[:64], columns=8).save("out/samples.png")

extractor = extractors.load("efficientnet_lite0", device=world.device)
print(score_images(samples, real.images(range(256)), extractor, ["fid", "kid"]))
# --8<-- [end:body]
