"""What the stages of a run share: the scratch folder, how many images at once, and what is kept of a failure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from pipeline.config import Params, read_run
from pipeline.errors import UserError
from pipeline.files import project_root
from pipeline.render.failures import forget_failure, note_failure
from pipeline.stages.paths import run_folder


def telling(stage: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Return a decorator of a run's stage that keeps why it failed, for the report, which shows the other runs whole.

    A stage that was stopped did not fail. An error that nobody foresaw goes on as a traceback.

    Args:
        stage: its name.

    Returns:
        The decorator of a function of the run's name.
    """

    def decorate(main: Callable[[str], None]) -> Callable[[str], None]:
        @wraps(main)
        def told(name: str) -> None:
            folder = run_folder(name)
            forget_failure(folder, stage)
            try:
                with enough_memory(stage):
                    main(name)
            except Exception as error:
                foreseen = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                note_failure(folder, stage, foreseen)
                raise

        return told

    return decorate


@contextmanager
def enough_memory(stage: str) -> Iterator[None]:
    """Say what to change if memory ends a stage after training, which says so itself.

    Args:
        stage: its name.

    Raises:
        UserError: there is not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from pipeline.training.memory import REMEDIES, out_of_memory

        line = out_of_memory(error)
        if line is None:
            raise
        remedy = REMEDIES["pictures" if stage == "render" else "samples"]
        raise UserError(f"{stage} needs more memory than there is ({line}). {remedy}") from error


def at_a_time(params: Params, name: str) -> int:
    """Return how many images a process of a run's training takes at once: what is sampled of it takes no more."""
    return max(1, read_run(params, name)[0].batch_size // max(1, params.cluster.most))


def scratch(params: Params) -> Path:
    """Return the folder of all journals, trainings and unfinished downloads."""
    return project_root() / params.cluster.scratch
