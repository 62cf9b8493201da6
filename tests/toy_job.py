"""A tiny training job on toy images, for tests that train it in several ways and compare."""

from pathlib import Path

import numpy as np
import torch
from toy_data import toy_split

from pipeline import methods
from pipeline.cluster.launch import Launch, train_job
from pipeline.config import Cluster, Run, Tracking
from pipeline.core.world import World
from pipeline.dependencies.key import TrainingKey
from pipeline.files import write_json
from pipeline.tracking.journal import Journal
from pipeline.tracking.record import record
from pipeline.training.job import Job
from pipeline.training.publish import RunInfo
from pipeline.training.trainer import train


def job(folder: Path, batch_size: int = 16, images: int = 256, **settings: object) -> Job:
    """A tiny DCGAN without batch norm on 48 toy images."""
    data = folder / "data"
    if not data.exists():
        data.mkdir(parents=True)
        split = toy_split(48)
        images_file = split.images(range(48)).permute(0, 2, 3, 1).contiguous().numpy()
        np.save(data / "train-images-00000.npy", images_file)
        np.save(data / "train-labels.npy", split.labels)
        splits = {"train": {"count": 48, "shards": ["train-images-00000.npy"]}}
        write_json(data / "spec.json", {"channels": 1, "size": 16, "classes": [], "splits": splits, "digest": "toy"})
    method = methods.load("dcgan", width=8, latent=4, generator_norm="none", critic_norm="none", **settings)
    run = Run(method="dcgan", images=images, batch_size=batch_size, log_every=64, checkpoint_every=128)
    return Job(key="key", run=run, method=method, data=str(data), store=str(folder / "store"))


def trained_here(work: Job) -> dict[str, torch.Tensor]:
    with Journal.open(Path(work.store)) as journal:
        journal.start(name="toy", key="key", params={}, tags={})
        train(work, World(), lambda rows: record(journal, rows, work.snapshots))
    return weights(work)


def weights(work: Job) -> dict[str, torch.Tensor]:
    content = work.checkpoints.load(work.finished_at, torch.device("cpu"))
    return {key: value for key, value in content["state"]["nets"].items() if value.is_floating_point()}


def launching(cluster: Cluster, work: Job, key: TrainingKey | None = None) -> Launch:
    key, run = key or TrainingKey(params={}, data="", code={}), RunInfo(name="toy", key="key", params={})
    return Launch(run=run, key=key, journal=Path(work.store), dataset={}, cluster=cluster, tracking=Tracking())


def train_on(cluster: Cluster, work: Job, key: TrainingKey | None = None) -> None:
    """As the train stage does, without publishing."""
    train_job(work, launching(cluster, work, key))
