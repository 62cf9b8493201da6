"""How a stage that needs more than the standard library begins, and what it needs."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from pipeline.errors import run
from pipeline.session.client import hand_over

# Imported once for all stages of a `dvc repro` (session/server.py); a stage that is run by hand imports them itself.
TORCH = ("torch",)
TRACKING = ("mlflow", "mlflow.store.tracking.sqlalchemy_store")
PICTURES = ("PIL.Image", "PIL.WebPImagePlugin", "matplotlib.figure", "matplotlib.backends.backend_agg")
COMPILER = ("torch._dynamo",)  # what computes with shapes alone imports it
EXPORT = (
    *COMPILER,
    "torch.onnx",
    "torch.export._trace",  # and the rest, which an export imports once it is asked for one
    "onnx",
    "onnxscript",
    "onnxscript.function_libs.torch_lib.ops",
)

_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_stage(main: Callable[..., Any], *needs: str, soon: Sequence[str] = (), nets: bool = False) -> None:
    """Run a stage's function with the arguments of the command line; end as it ends.

    Args:
        main: what `typer` calls.
        *needs: modules that it imports and that take long to import.
        soon: such modules of processes that it will start.
        nets: it computes with nets, whose tensors are freed and asked for again and again.
    """
    status = hand_over(needs, soon, later=not set(TRACKING).isdisjoint(needs))
    if status is None:
        if nets:  # features of batches of 64 cost a fifth less on a CPU (bench/README.md)
            from pipeline.training.memory import keep_freed_memory

            keep_freed_memory()
        return run(typer.run, main)
    if status < 0:  # of a signal: this process ends of the same
        if -status not in _ASKED:
            print(f"error: {_killed(-status)}", file=sys.stderr, flush=True)
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _killed(number: int) -> str:
    """Say that a signal which nobody here sends has ended the stage, and what to do."""
    often = " (SIGKILL, often the kernel's, where memory runs out)" if number == signal.SIGKILL else ""
    return (
        f"the stage's process was ended by signal {number}{often}. Run `dvc repro` again: a training goes on from its "
        "last checkpoint."
    )
