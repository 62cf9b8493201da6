"""What a stage shows a person while it works. The only importer of rich."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

DECIDES_NOTHING = "shows what happens"


@contextmanager
def progress(*, in_bytes: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields a function of (what is under way, how much is done, of how much or None) that draws a bar for each."""
    from rich import progress as rich
    from rich.console import Console

    amount = rich.DownloadColumn() if in_bytes else rich.MofNCompleteColumn()
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), amount, rich.TimeRemainingColumn())
    bars = rich.Progress(*columns, console=Console(stderr=True))
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
    """Yields a function of (images seen, a log window's values): a live line on a terminal, else a line per tenth; and
    one that prints a line above."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    text = rich.TextColumn("{task.fields[text]}")
    columns = (rich.TextColumn(name), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn(), text)
    tenth = -1
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=total, text="starting")

        def show(seen: int, values: Mapping[str, float]) -> None:
            nonlocal tenth
            bars.update(task, completed=seen, text=_summary(values))
            if not console.is_terminal and seen * 10 // total > tenth:
                tenth = seen * 10 // total
                console.print(f"{name}: {seen:,} of {total:,} images, {_summary(values)}", highlight=False)

        yield show, lambda line: console.print(f"{name}: {line}", highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """To standard error, as wide as it needs to be where that is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(stderr=True, soft_wrap=True).print(table)


def _summary(values: Mapping[str, float]) -> str:
    losses = [f"{key.removesuffix('/loss')} {value:.3g}" for key, value in values.items() if key.endswith("/loss")]
    return "  ".join([f"{values['images_per_second']:,.0f} images/s", *losses])
