"""`genloom reference`: statistics of the real images, in the files that pytorch-fid and clean-fid read and write."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError, nearest
from pipeline.stages.paths import REFERENCE

Extractor = Annotated[
    str | None, typer.Option(help="Whose features; the first of evaluate.extractors if not given.", metavar="NAME")
]

app = typer.Typer(no_args_is_help=True, help="Exchange the real images' statistics with pytorch-fid and clean-fid.")


@app.command("export")
def export_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, ending in .npz.")],
    extractor: Extractor = None,
) -> None:
    """Write mean and covariance of the real images' features, in a file that pytorch-fid and clean-fid read."""
    from pipeline.config import read_params
    from pipeline.evaluate.feature_set import read_protocol
    from pipeline.evaluate.statistics_files import export_statistics

    name = _chosen(extractor, read_params().evaluate.extractor_names)
    protocol = read_protocol(REFERENCE, "reference")
    if name not in protocol["extractors"]:
        raise UserError(f"{REFERENCE}: made without the extractor '{name}'. Run `dvc repro reference`.")
    export_statistics(REFERENCE, name, file)
    images = protocol["images"]
    print(f"{file}: written; of {images['count']} images ({images['split']}) as {name} sees them")


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .npz of pytorch-fid, clean-fid or `export`.")],
    extractor: Extractor = None,
) -> None:
    """Check a file of mean and covariance, put it into evaluate.path, and say how FID is compared with it.

    The file does not say which extractor, resize and images it is of: that it is of the extractor named here is yours
    to know.
    """
    from pipeline.config import read_params
    from pipeline.evaluate.statistics_files import import_statistics

    settings = read_params().evaluate
    name, target = _chosen(extractor, settings.extractor_names), Path(settings.path, file.name)
    if file.suffix != ".npz":
        raise UserError(f"{file}: the name of a file of statistics ends in .npz.")
    found = import_statistics(file)
    _check_dimensions(file, name, len(found.mean))
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    elif target.read_bytes() != file.read_bytes():
        raise UserError(f"{target}: another file of this name is there. Remove it, or give the new one another name.")
    print(f"{target}: {len(found.mean)} features")
    if settings.statistics.get(name) != target.name:
        line = f"statistics: {{{name}: {target.name}}}"
        print(f"Write `{line}` below evaluate in params.yaml; then `dvc repro` compares fid_{name} with it.")


def _chosen(extractor: str | None, known: list[str]) -> str:
    if extractor is None:
        return known[0]
    if extractor not in known:
        hint = nearest(extractor, known)
        raise UserError(f"--extractor: '{extractor}' is not in params.yaml: evaluate.extractors. {hint}")
    return extractor


def _check_dimensions(file: Path, extractor: str, dimensions: int) -> None:
    """Raise UserError if the extractor is known, by the reference, to have another number of features."""
    import numpy as np

    features = REFERENCE / extractor / "features.npy"
    if features.exists() and (own := np.load(features, mmap_mode="r", allow_pickle=False).shape[1]) != dimensions:
        raise UserError(
            f"{file}: of {dimensions} features, but {extractor} has {own}: it was made with another extractor. Name "
            "the right one by --extractor."
        )
