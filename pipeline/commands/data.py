"""`genloom data`: the images that params.yaml names."""

import typer

app = typer.Typer(no_args_is_help=True, help="Look at the images that params.yaml names.")


@app.callback()
def _group() -> None:
    """Keep `inspect` a command of its own while it is the only one."""


@app.command()
def inspect() -> None:
    """Write the page of the images in out/data: classes, sizes, duplicates, what was left out, mean image."""
    from pipeline.console import progress
    from pipeline.render.inspection import PAGE
    from pipeline.render.inspection import inspect as look
    from pipeline.stages.paths import DATA, IMAGES, INSPECTION

    with progress() as report:
        said = look(DATA, IMAGES, INSPECTION, report)
    for warning in said["warnings"]:
        print(warning)
    print(f"{INSPECTION / PAGE}: written; open it in a browser")
