"""What a command shows a person while it works: messages, bars, tables."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

DECIDES_NOTHING = "shows what happens"


LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
VARIABLE = "GENLOOM_LOG"
_FLAGS = {"--verbose": "debug", "--quiet": "warning"}


def set_up_logging(arguments: Sequence[str] = ()) -> list[str]:
    """Show this package's messages on standard error, one line each.

    Args:
        arguments: of the command line; --verbose and --quiet among them, else the variable GENLOOM_LOG, set the level.

    Returns:
        The arguments without these two.
    """
    chosen = [_FLAGS[argument] for argument in arguments if argument in _FLAGS]
    level = (chosen or [os.environ.get(VARIABLE, "info").lower()])[-1]
    if chosen:
        os.environ[VARIABLE] = level  # processes that this one starts
    logger = logging.getLogger("pipeline")
    logger.setLevel(LEVELS.get(level or "info", logging.INFO))
    logger.propagate = False
    handler = _OnStandardError()
    handler.setFormatter(_Plain())
    logger.handlers[:] = [handler]
    if level and level not in LEVELS:
        logger.warning("%s: there is no level '%s': info is taken. Set it to %s.", VARIABLE, level, ", ".join(LEVELS))
    return [argument for argument in arguments if argument not in _FLAGS]


class _OnStandardError(logging.Handler):
    """Asks for sys.stderr at each message: a bar that is on the screen puts its own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Plain(logging.Formatter):
    """The message alone; "warning: " before one, and where it comes from if everything is shown."""

    def format(self, record: logging.LogRecord) -> str:
        before = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        where = f"{record.name}: " if logging.getLogger("pipeline").level <= logging.DEBUG else ""
        return f"{where}{before}{record.getMessage()}"


def is_quiet() -> bool:
    """Tell whether only warnings are wanted, and so no bars."""
    return logging.getLogger("pipeline").level >= logging.WARNING


@contextmanager
def progress(*, in_bytes: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a function of (what is under way, how much is done, of how much or None) that draws a bar for each."""
    from rich import progress as rich
    from rich.console import Console

    amount = rich.DownloadColumn() if in_bytes else rich.MofNCompleteColumn()
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), amount, rich.TimeRemainingColumn())
    bars = rich.Progress(*columns, console=Console(stderr=True), disable=is_quiet())
    tasks: dict[str, rich.TaskID] = {}

    def report(name: str, done: int, total: int | None) -> None:
        if name not in tasks:
            bars.start()  # not before: bars of nothing would be an empty line above an error
            tasks[name] = bars.add_task(name)
        bars.update(tasks[name], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


@contextmanager
def training_bar(
    name: str, total: int
) -> Iterator[tuple[Callable[[int, Mapping[str, float]], None], Callable[[str], None]]]:
    """Show a live line on a terminal, else a line per tenth of the training.

    Args:
        name: the run's.
        total: images of the budget.

    Yields:
        A function of (images seen, a log window's values), and one that prints a line above.
    """
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    text = rich.TextColumn("{task.fields[text]}")
    columns = (rich.TextColumn(name), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn(), text)
    tenth = -1
    with rich.Progress(*columns, console=console, disable=is_quiet() or not console.is_terminal) as bars:
        task = bars.add_task(name, total=total, text="starting")

        def show(seen: int, values: Mapping[str, float]) -> None:
            nonlocal tenth
            bars.update(task, completed=seen, text=_summary(values))
            if not is_quiet() and not console.is_terminal and seen * 10 // total > tenth:
                tenth = seen * 10 // total
                console.print(f"{name}: {seen:,} of {total:,} images, {_summary(values)}", highlight=False)

        yield show, lambda line: None if is_quiet() else console.print(f"{name}: {line}", highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard error, as wide as it needs to be if that is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(stderr=True, soft_wrap=True).print(table)


def _summary(values: Mapping[str, float]) -> str:
    losses = [f"{key.removesuffix('/loss')} {value:.3g}" for key, value in values.items() if key.endswith("/loss")]
    return "  ".join([f"{values['images_per_second']:,.0f} images/s", *losses])


@contextmanager
def live_table(columns: Sequence[str]) -> Iterator[Callable[[Sequence[Sequence[str]]], None]]:
    """Show a table that changes, on a terminal; elsewhere each row again when its second column, its state, changes.

    Args:
        columns: their heads.

    Yields:
        A function of the rows, the first column of which names them.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    console = Console(stderr=True, soft_wrap=True)
    told: dict[str, str] = {}

    def tell(rows: Sequence[Sequence[str]]) -> None:
        for name, state, *rest in rows:
            if told.get(name) != state:
                told[name] = state
                console.print(f"{name}: {', '.join(text for text in (state, *rest) if text)}", highlight=False)

    if is_quiet() or not console.is_terminal:
        yield (lambda rows: None) if is_quiet() else tell
        return
    with Live(console=console, auto_refresh=False) as live:

        def draw(rows: Sequence[Sequence[str]]) -> None:
            table = Table(*columns, box=None)
            for row in rows:
                table.add_row(*row)
            live.update(table, refresh=True)

        yield draw
