"""Stage train: one run of params.yaml, on Ray or in this process, to its published weights and history."""

import csv
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline import errors
from pipeline.config import Cluster, Params, Run, read_params, read_run
from pipeline.files import atomic_file, atomic_folder, sha256_of, write_json
from pipeline.stages.common import content_key, exclusive, scratch_folder
from pipeline.stages.paths import DATA, run_folder

if TYPE_CHECKING:
    from pipeline.core.method import Method
    from pipeline.data.dataset import Dataset
    from pipeline.tracking.journal import Journal
    from pipeline.training.trainer import Job


def main(run: str) -> None:
    """Trains one run of params.yaml; resumes it where an earlier, interrupted call left it."""
    params = read_params()
    settings, own = read_run(params, run)
    prefix = f"{params.section(run)}.{run}."

    from pipeline import methods
    from pipeline.data.dataset import open_dataset
    from pipeline.training.trainer import Job

    method = methods.configure(settings, own, prefix)
    dataset = open_dataset(DATA)
    check_data(prefix, settings, method, dataset)
    with initial_weights(params, run, settings.init_from) as weights:
        check_nets(prefix, settings, method, dataset, weights)
        key = content_key(run, params, dataset.digest, sha256_of(weights) if weights else None)
        scratch = scratch_folder(params, run, key)
        url = params.cluster.url and f"{params.cluster.url}/runs/{scratch.name}"
        data, store, shard = str(DATA.absolute()), str(scratch), params.cluster.shard
        job = Job(key=key, run=settings, method=method, data=data, store=store, url=url, shard=shard)
        with exclusive(scratch):
            if weights and not job.initial.exists():
                with atomic_file(job.initial) as temporary:
                    shutil.copyfile(weights, temporary)
            track(run, params, job, dataset)


def check_data(prefix: str, run: Run, method: "Method", dataset: "Dataset") -> None:
    """Says before anything starts what the method needs and the data does not bring."""
    classes = [str(name) for name in dataset.info["classes"]]
    if "labels" in method.needs and len(classes) < 2:
        raise errors.UserError(
            f"params.yaml: {prefix}method: {run.method} needs labels, but data.source has {len(classes)} class(es). "
            "Choose a source with classes, or a method without labels."
        )
    if ("other" in method.needs) != (run.domains is not None):
        raise errors.UserError(
            f"params.yaml: {prefix}domains: "
            + ("name two classes of the data, for example" if run.domains is None else "leave it out:")
            + (f" [{', '.join(classes[:2])}]." if run.domains is None else f" {run.method} has one domain.")
        )
    for name in run.domains or ():
        if name not in classes:
            raise errors.UserError(
                f"params.yaml: {prefix}domains: no class '{name}' in the data. {errors.nearest(name, classes)}"
            )


@contextmanager
def initial_weights(params: Params, name: str, init_from: str | None) -> Iterator[Path | None]:
    """The weights file that init_from means: a run's (of ``derived``), a file, or one fetched from MLflow."""
    if init_from is None:
        yield None
    elif name in params.derived:
        yield run_folder(init_from) / "weights.safetensors"
    elif init_from.startswith(("models:/", "runs:/")):
        from pipeline.tracking.shipper import fetch_weights

        with tempfile.TemporaryDirectory() as folder:
            yield fetch_weights(init_from, params.tracking, Path(folder))
    elif Path(init_from).is_file():
        yield Path(init_from)
    else:
        raise errors.UserError(
            f"params.yaml: runs.{name}.init_from: '{init_from}' is no file. Name a weights file or an MLflow model "
            "(models:/<id>); to begin from a run, move this run to the section derived."
        )


def check_nets(prefix: str, run: Run, method: "Method", dataset: "Dataset", weights: Path | None) -> None:
    """Builds the nets once, so that a shape that does not fit is said before anything starts; says which
    weights will be loaded, and refuses to train on nets that would miss theirs."""
    from pipeline.core import transfer
    from pipeline.inference.weights import load_tensors

    try:
        nets = method.build(dataset.spec)
        transfer.trainable_parameters(nets, method.phases(), run.freeze)
    except ValueError as error:
        raise errors.UserError(f"params.yaml: {prefix.removesuffix('.')}: {error}") from None
    account = transfer.compare(nets, load_tensors(weights) if weights else {})
    lacking = [key for key in (*account.missing, *account.reshaped) if key.split(".")[0] in method.starts_from]
    if lacking:
        raise errors.UserError(
            f"params.yaml: {prefix}init_from: {run.method} needs trained weights of {', '.join(method.starts_from)}: "
            + (f"{account}. Give both runs the same sizes." if weights else "put it under derived and name their run.")
        )
    if weights:
        print(f"{run.init_from}: {account}", flush=True)


def track(name: str, params: Params, job: "Job", dataset: "Dataset") -> None:
    """Trains and publishes, with the journal open before and closed after, whatever happens."""
    from pipeline.tracking.journal import Journal
    from pipeline.tracking.progress import watching
    from pipeline.tracking.shipper import code_tags, run_page, run_reference, shipping

    flat = flat_params(params, job.run, job.method)
    folder = Path(job.store)
    with Journal.open(folder) as journal:
        journal.start(name=name, key=job.key, params=flat, tags=code_tags(), dataset=dict(dataset.info))
    with shipping(folder, params.tracking):
        try:
            with watching(folder, name, job.finished_at, partial(run_page, folder, params.tracking)):
                train(params.cluster, job)
            with Journal.open(folder) as journal:
                publish(name, job, dataset, flat, journal)
        except BaseException as error:
            with Journal.open(folder) as journal:
                journal.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise
    write_json(run_folder(name) / "mlflow.json", run_reference(folder, params.tracking))


def train(cluster: Cluster, job: "Job") -> None:
    """To the end of the budget, or with an exception that says why not."""
    from pipeline.storage.remote import token_at
    from pipeline.training.trainer import DivergedError, out_of_memory

    if job.url:
        with token_at(job.url, "preflight"):  # says within seconds what a training would wait for
            pass
    if job.newest() == job.finished_at:
        print(f"this very training is finished ({job.store}): publishing it", flush=True)
        return
    try:
        with stop_on_signals() as stop:
            if cluster.most:
                from pipeline.cluster.driver import train_on_ray

                train_on_ray(job, cluster, Path(job.store), stop)
            else:
                train_here(job, stop)
            if stop() and job.newest() != job.finished_at:
                raise SystemExit("stopped at a checkpoint; `dvc repro` goes on from it")
    except DivergedError as error:
        raise errors.UserError(
            f"training diverged: {error}. Lower the learning rate (runs.<run>.lr), change the seed, or "
            "have such steps left out (runs.<run>.non_finite: skip). The last good checkpoint and the pictures are in "
            f"{job.store}."
        ) from error
    except (RuntimeError, MemoryError) as error:
        line = out_of_memory(error)
        if line is None:
            raise
        raise errors.UserError(
            f"training needs more memory than there is ({line}). Lower runs.<run>.batch_size or the net's width, or "
            "share the batch among more workers (cluster.workers, on more machines or GPUs); on a GPU "
            "runs.<run>.precision: bf16 saves about half of the activations. The last checkpoint is kept."
        ) from error


def train_here(job: "Job", stop: Callable[[], bool]) -> None:
    """The same loop in this process, without Ray."""
    from pipeline.core.world import World, default_device
    from pipeline.tracking.journal import Journal
    from pipeline.training.trainer import record, train

    with Journal.open(Path(job.store)) as journal:
        train(job, World(device=default_device()), lambda rows: record(journal, rows, job.snapshots), stop)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and Ctrl-C ask the loop to end at its next log window; a second one ends at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def publish(name: str, job: "Job", dataset: "Dataset", flat: dict[str, Any], journal: "Journal") -> None:
    """The finished checkpoint to out/runs/<run>: weights, history, snapshots, train.json last."""
    import torch

    from pipeline.core.state import State
    from pipeline.inference.weights import save_weights
    from pipeline.training.trainer import record

    content = job.checkpoints.load(job.newest() or 0, torch.device("cpu"))
    state = State.fresh(job.method, dataset.spec, job.run.seed, torch.device("cpu"), freeze=job.run.freeze)
    state.load_state_dict(content["state"])
    folder = run_folder(name)
    job.fetch_snapshots(content["history"])
    record(journal, content["history"], job.snapshots)
    save_weights(
        folder / "weights.safetensors",
        name=job.run.method,
        params=asdict(job.method),
        spec=dataset.spec,
        seen=state.seen,
        nets=state.nets,
        ema=state.ema,
    )
    write_history(folder / "history.csv", content["history"])
    with atomic_folder(folder / "snapshots") as temporary:
        shutil.copytree(job.snapshots, temporary, dirs_exist_ok=True)
    cost = {
        "seconds": content["seconds"],
        "images_per_second": state.seen / content["seconds"],
        "peak_memory_bytes": content["peak_memory_bytes"],
        "parameters": {net: sum(p.numel() for p in module.parameters()) for net, module in state.nets.items()},
    }
    write_json(
        folder / "train.json",
        {"run": name, "method": job.run.method, "key": job.key, "params": flat, "seen": state.seen}
        | {"spec": asdict(dataset.spec), "dataset": dict(dataset.info), "torch": torch.__version__}
        | {
            "workers": [{"from": seen, "workers": size} for seen, size in content["worlds"]],
            "device": content["device"],
        }
        | cost,
    )
    journal.metrics({f"cost/{key}": value for key, value in cost.items() if key != "parameters"}, step=state.seen)
    journal.artifact(folder / "history.csv")
    journal.artifact(folder / "weights.safetensors")
    journal.model(folder / "weights.safetensors")
    journal.finish("FINISHED")


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One line per log window; without the speed, which differs from one machine to the next."""
    names = [name for name in history[0]["values"] if name != "images_per_second"]
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seen", *names])
        writer.writerows([row["seen"], *(row["values"][name] for name in names)] for row in history)


def flat_params(params: Params, run: Run, method: Any) -> dict[str, Any]:
    """Every param that a run's result depends on, defaults included, by its name in params.yaml."""
    data = {f"data.{key}": value for key, value in asdict(params.data).items() if key not in ("mirror", "path")}
    return asdict(run) | asdict(method) | data


if __name__ == "__main__":
    errors.run(typer.run, main)
