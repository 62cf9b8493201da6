"""`genloom profile`: where the time of a run's training goes, beside what this machine could do."""

from pathlib import Path
from typing import Annotated

import typer


def profile(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")],
    iterations: Annotated[int, typer.Option(help="To time, and as many again to trace.", min=1)] = 20,
    to: Annotated[Path | None, typer.Option(help="The folder; profile/<run> if not given.")] = None,
) -> None:
    """Train a few iterations of a run on out/data, and write where their time goes: a trace and a table.

    Nothing of the run changes. trace.json opens in https://ui.perfetto.dev; table.csv is what is printed. A part's
    floor is the time that its operations would take at this machine's measured rates, of a product of large matrices
    and of a large copy; what fits in caches may be faster.
    """
    from pipeline.config import read_params
    from pipeline.core.world import default_device
    from pipeline.files import write_csv
    from pipeline.stages.common import scratch
    from pipeline.stages.paths import OUT
    from pipeline.training.prepare import prepared
    from pipeline.training.profile import COLUMNS, profile

    params, folder, device = read_params(), to or Path("profile") / run, default_device()
    folder.mkdir(parents=True, exist_ok=True)
    with prepared(run, params, out=OUT, scratch=scratch(params)) as ready:
        found = profile(ready.job, ready.dataset, device, iterations, folder / "trace.json")
    write_csv(folder / "table.csv", COLUMNS, found.table)
    widths = [max(map(len, column)) for column in zip(COLUMNS, *found.table, strict=True)]
    for row in (COLUMNS, *found.table):
        print("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))
    print(f"{found.images / found.seconds:,.0f} images/s")
    print(f"this machine: {found.rates.flops / 1e9:,.0f} GFLOP/s, {found.rates.bandwidth / 1e9:,.1f} GB/s")
    print(f"{folder}/trace.json, table.csv: written")
