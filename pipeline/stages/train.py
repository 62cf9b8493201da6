"""Stage train: one run of params.yaml, on Ray or in this process, to its published weights and history."""

import csv
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline import errors
from pipeline.config import Params, Run, read_params, read_run
from pipeline.files import atomic_file, atomic_folder, write_json
from pipeline.stages.common import content_key, exclusive, scratch_folder
from pipeline.stages.paths import DATA, run_folder

if TYPE_CHECKING:
    from pipeline.data.shards import Dataset
    from pipeline.journal import Journal
    from pipeline.training import Job


def main(run: str) -> None:
    """Trains one run of params.yaml; resumes it where an earlier, interrupted call left it."""
    params = read_params()
    settings, own = read_run(params, run)

    from pipeline import methods
    from pipeline.data.shards import open_dataset
    from pipeline.training import Job

    method = methods.configure(settings, own, run)

    dataset = open_dataset(DATA)
    check_fit(run, method, dataset)
    key = content_key(run, params, dataset.digest)
    scratch = scratch_folder(params, run, key)
    job = Job(key=key, run=settings, method=method, data=str(DATA.absolute()), store=str(scratch))
    with exclusive(scratch):
        track(run, params, job, dataset)


def check_fit(name: str, method: Any, dataset: "Dataset") -> None:
    """Builds the nets without memory, so that a shape that does not fit is said before anything starts."""
    import torch

    try:
        with torch.device("meta"):
            method.build(dataset.spec)
    except ValueError as error:
        raise errors.UserError(f"params.yaml: runs.{name}: {error}") from None


def track(name: str, params: Params, job: "Job", dataset: "Dataset") -> None:
    """Trains and publishes, with the journal open before and closed after, whatever happens."""
    from pipeline.journal import Journal
    from pipeline.live import watching
    from pipeline.tracking import code_tags, run_reference, shipping

    flat = flat_params(params, job.run, job.method)
    folder = Path(job.store)
    with Journal.open(folder) as journal:
        journal.start(name=name, key=job.key, params=flat, tags=code_tags(), dataset=dict(dataset.info))
    with shipping(folder, params.tracking):
        try:
            with watching(folder, name, job.finished_at):
                train(params, job)
            with Journal.open(folder) as journal:
                publish(name, job, dataset, flat, params.cluster.workers, journal)
        except BaseException as error:
            with Journal.open(folder) as journal:
                journal.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise
    write_json(run_folder(name) / "mlflow.json", run_reference(folder, params.tracking))


def train(params: Params, job: "Job") -> None:
    """To the end of the budget, or with an exception that says why not."""
    from pipeline.training import DivergedError

    if job.checkpoints.newest() == job.finished_at:
        print(f"this very training is finished ({job.store}): publishing it", flush=True)
        return
    try:
        if params.cluster.workers:
            from pipeline.cluster import train_on_ray

            train_on_ray(job, params.cluster, Path(job.store))
        else:
            train_here(job)
    except DivergedError as error:
        raise errors.UserError(
            f"training diverged: {error}. Lower the learning rate (runs.<run>.lr) or change the seed; "
            f"the last good checkpoint and the pictures are in {job.store}."
        ) from error


def train_here(job: "Job") -> None:
    """The same loop in this process, without Ray."""
    from pipeline.core.world import World, default_device
    from pipeline.journal import Journal
    from pipeline.training import record, train

    with Journal.open(Path(job.store)) as journal, stop_on_signals() as stop:
        train(job, World(device=default_device()), lambda rows: record(journal, rows, job.snapshots), stop)
        if stop():
            raise SystemExit("stopped at a checkpoint; `dvc repro` goes on from it")


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


def publish(name: str, job: "Job", dataset: "Dataset", flat: dict[str, Any], workers: int, journal: "Journal") -> None:
    """The finished checkpoint to out/runs/<run>: weights, history, snapshots, train.json last."""
    import torch

    from pipeline.core.state import State
    from pipeline.training import record
    from pipeline.weights import save_weights

    content = job.checkpoints.load(job.checkpoints.newest() or 0, torch.device("cpu"))
    state = State.fresh(job.method, dataset.spec, job.run.seed, torch.device("cpu"))
    state.load_state_dict(content["state"])
    folder = run_folder(name)
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
        | {"workers": workers, "device": content["device"]}
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
