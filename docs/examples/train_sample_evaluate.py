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
from pipeline.evaluate.feature_set import Statistics
from pipeline.evaluate.metrics.fid import frechet_distance
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

trained = Trained(method=method, nets=state.averaged(), spec=dataset.spec, seen=state.seen, name="dcgan", params={})
sampler = Sampler(trained)
seeds = torch.arange(256, device=world.device)
samples = to_uint8(sampler(seeds, seeds % dataset.spec.classes))
grid(samples[:64].cpu(), columns=8).save("samples.png")

extractor = extractors.load("efficientnet_lite0", device=world.device)
moments = [Statistics.of(extractor(images).pooled) for images in (real.images(range(256)), samples)]
print(f"FID of 256 samples: {frechet_distance(*moments):.1f}")
# --8<-- [end:body]
