"""A run of params.yaml and the data to what a training is made from, checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import methods
from pipeline.config import Params, read_run
from pipeline.data.dataset import Dataset, open_dataset
from pipeline.dependencies.key import TrainingKey
from pipeline.files import sha256_of
from pipeline.storage.store import training_folder
from pipeline.training.checks import check_data, check_nets, check_watching
from pipeline.training.initial import initial_weights, keep_initial
from pipeline.training.job import Job
from pipeline.training.publish import RunInfo, flat_params
from pipeline.training.threads import product_of


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a training is made from.

    Attributes:
        job: what processes train.
        key: what its keys are of.
        run: what it is called.
        dataset: the images.
        weights: what it begins from; None: from scratch.
    """

    job: Job
    key: TrainingKey
    run: RunInfo
    dataset: Dataset
    weights: Path | None

    def keep_initial(self) -> None:
        """Copy the weights that training begins from to where it looks for them, once."""
        keep_initial(self.job.initial, self.weights)


@contextmanager
def prepared(name: str, params: Params, *, out: Path, scratch: Path, seed: int | None = None) -> Iterator[Prepared]:
    """Find all that a run's training is made from, and check that it fits.

    Args:
        name: the run's.
        params: of the project.
        out: the folder of the stages' outputs: data, code and runs.
        scratch: the folder of trainings.
        seed: which of its trainings, where it has several; None: the first.

    Yields:
        It; its ``weights`` exist within the block.

    Raises:
        UserError: there is no such run, or its settings, the data and the weights do not fit.
    """
    prefix, data = f"runs.{name}.", out / "data"
    run, own = read_run(params, name)
    run = replace(run, seed=run.all_seeds[0] if seed is None else seed, seeds=())
    method = methods.configure(run, own, prefix)
    dataset = open_dataset(data)
    check_data(prefix, run, method, dataset)
    check_watching(prefix, run, method)
    with initial_weights(name, run, out, params.tracking) as weights:
        check_nets(prefix, run, method, dataset, weights, params.cluster)
        key = TrainingKey.of(run, method, dataset.digest, sha256_of(weights) if weights else None)
        store = training_folder(scratch, name, key.course)
        job = Job(
            key=key.course,
            run=run,
            method=method,
            data=str(data.absolute()),
            store=str(store),
            url=params.cluster.url and f"{params.cluster.url}/trainings/{store.name}",
            shard=params.cluster.shard,
            data_on_device=params.cluster.data_on_device,
            product=product_of(run, method, dataset.spec),
        )
        info = RunInfo(name=name, key=key.digest, params=flat_params(params.data, run, method))
        yield Prepared(job=job, key=key, run=info, dataset=dataset, weights=weights)
