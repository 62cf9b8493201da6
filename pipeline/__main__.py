"""The genloom command: checks params.yaml, sends runs to MLflow, tells where results come from and where to look."""

import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import errors
from pipeline.commands import data, profile, reference, train, use
from pipeline.errors import UserError
from pipeline.tracking.target import UI_PORT

if TYPE_CHECKING:
    from pipeline.config import Params

app = typer.Typer(
    name="genloom",
    help="Look after a project's runs. With --verbose or --quiet any command, stages too, says more or less.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def check() -> None:
    """Check all of params.yaml, and rehearse each run: its nets, its batch, what it begins from. Trains nothing."""
    from pipeline.config import PARAMS
    from pipeline.training.check_params import check_params

    params = check_params()
    if params.search:
        from pipeline.tune.checks import check_searches

        check_searches(params)
    searches = f"; searches: {', '.join(params.search)}" if params.search else ""
    print(f"{PARAMS}: fine; runs: {', '.join(params.runs)}{searches}")


@app.command()
def schema() -> None:
    """Write params.schema.json, from which editors complete params.yaml; after a new method or param."""
    from pipeline.methods import _schema

    _schema.write()
    print(f"{_schema.PATH}: written")


@app.command()
def sync(
    everything: Annotated[
        bool, typer.Option("--all", help="Send all of every journal again; nothing doubles.")
    ] = False,
) -> None:
    """Make MLflow agree with out/runs and the journals: after an outage, at another server, or a DVC checkout."""
    from pipeline.config import read_params
    from pipeline.tracking.agreement import synchronize

    outcomes = []
    for outcome in synchronize(read_params(), everything):
        outcomes.append(outcome)
        what = [f"made to agree: {text}" for text in outcome.corrected] + outcome.notes
        if outcome.sent and not outcome.problem:
            print(f"{outcome.run}: sent", flush=True)
        elif what:
            print(f"{outcome.run}:")
        for text in what:
            print(f"  {text}", flush=True)
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    sent = sum(outcome.sent and not outcome.problem for outcome in outcomes)
    print(f"{sent} runs sent, {len(outcomes) - sent - len(problems)} were complete already")
    if problems:
        raise UserError("\nerror: ".join(problems))


@app.command()
def lineage(
    what: Annotated[str, typer.Argument(help="A file that the pipeline made, or an MLflow run id or its beginning.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell which stage, params, data, commit and MLflow run made a file, or what a run was made from."""
    from pipeline.config import read_params
    from pipeline.tracking import lineage as tracing

    result = tracing.lineage(what, read_params())
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        tracing.show(result)


@app.command()
def page(run: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")]) -> None:
    """Print the address of a run's page in MLflow."""
    from pipeline.config import read_params
    from pipeline.tracking.references import find_page

    print(find_page(run, read_params()))


@app.command()
def publish(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml; it may be training.")],
    at: Annotated[int | None, typer.Option(help="Images seen at the checkpoint; the newest if not given.")] = None,
    to: Annotated[Path | None, typer.Option(help="The folder; published/<run>-<images seen> if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of a run with several seeds; the first if not given.")] = None,
) -> None:
    """Write a checkpoint's weights, history and pictures to a folder, to sample from and to evaluate; training goes on.

    The stages' outputs in out/ stay as they are: to have a run end there, set its images.
    """
    from pipeline.config import read_params
    from pipeline.stages.common import scratch
    from pipeline.stages.paths import OUT
    from pipeline.training.prepare import prepared
    from pipeline.training.publish import publish_checkpoint

    params = read_params()
    with prepared(run, params, out=OUT, scratch=scratch(params), seed=seed) as ready:
        folder = publish_checkpoint(ready.run, ready.job, ready.dataset, at=at, to=to)
    print(f"{folder}: written")


@app.command()
def register(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A trained run of params.yaml.")],
    name: Annotated[
        str | None, typer.Option(help="Of the registered model; genloom-<run> if not given.", show_default=False)
    ] = None,
    alias: Annotated[str | None, typer.Option(help="To point at this version, such as champion.")] = None,
) -> None:
    """Register a run's model in MLflow: models:/<name>/<version>, for others and for `mlflow models serve`."""
    from pipeline.config import read_params
    from pipeline.tracking.references import find_run_id
    from pipeline.tracking.register import register as register_model
    from pipeline.tracking.target import resolve

    params, chosen = read_params(), name or f"genloom-{run}"
    version, new = register_model(resolve(params.tracking), find_run_id(run, params), chosen, alias)
    print(f"models:/{chosen}/{version}: {'registered' if new else 'registered before'}")


@app.command()
def adopt(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml that was searched.")],
    trial: Annotated[
        int | None, typer.Option(help="One of the best, where several are; the first if not given.", show_default=False)
    ] = None,
) -> None:
    """Write the best values that a search has found into params.yaml, and show what that changes.

    The trial's training is this run's from then on: `dvc repro` publishes it, or goes on from where it ended. That of a
    population's member (pbt), whose params changed on the way, is no run's: `dvc repro` trains anew with its last ones.
    """
    from pipeline.config import PARAMS
    from pipeline.stages.paths import TUNE
    from pipeline.tune import adopt as adopting

    found = adopting.read_best(TUNE / run / "best.yaml", trial)
    changed = adopting.adopt(run, found.params)
    print(changed or f"{PARAMS}: runs.{run} has these values already")
    values = ", ".join(f"{name} {value:.5g}" for name, value in found.values.items())
    print(f"trial {found.trial}: {values}, at {found.images:,} images. {found.what_comes(run)}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="The port on this machine.", min=1, max=65535)] = UI_PORT) -> None:
    """Open MLflow's pages on the runs, on http://127.0.0.1:<port>, until Ctrl-C."""
    from pipeline.config import read_params
    from pipeline.files import project_root
    from pipeline.tracking.target import initialise, resolve

    params = read_params()
    target = resolve(params.tracking)
    if not target.is_database:
        print(f"The runs are on a server: {target.shown}")
        _print_links(params)
        return
    with socket.socket() as trial:
        if trial.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"port {port} is taken: perhaps the pages are open already; else choose another by --port.")
    initialise(target)
    print(f"http://127.0.0.1:{port}  (Ctrl-C ends it)")
    _print_links(params, port)
    # The address may hold a password: MLflow reads it from its variable, not from arguments that all can see.
    os.environ |= {"MLFLOW_BACKEND_STORE_URI": target.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight processes that runs don't need
    root = str(Path(project_root(), "mlartifacts"))
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--artifacts-destination", root]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])


def _print_links(params: "Params", port: int = UI_PORT) -> None:
    """Print where to see the runs; without one if MLflow does not answer."""
    from pipeline.tracking.pages import find_links
    from pipeline.tracking.references import published_trainings
    from pipeline.tracking.target import reason

    try:
        for title, link in find_links(params, published_trainings()).items():
            print(f"{title}: {link.replace(f':{UI_PORT}/', f':{port}/')}", flush=True)
    except Exception as error:  # whatever a server or a database raises
        print(f"It does not answer: {reason(error)}", flush=True)


for command in (train.train, profile.profile, use.sample, use.encode, use.reconstruct, use.export, use.evaluate):
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(reference.app, name="reference")


def main() -> None:
    """Run the command; end with one message if a person made a mistake."""
    errors.run(app)


if __name__ == "__main__":
    main()
