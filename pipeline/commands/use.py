"""What is done with a trained model on the command line: sampling, encoding, reconstructing."""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.config import is_in_mlflow
from pipeline.errors import UserError, nearest
from pipeline.stages.paths import DATA, EXTRACTORS, REFERENCE, RUNS, STATISTICS, run_folder

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.inference.weights import Trained

WEIGHTS = "weights.safetensors"

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A trained run of params.yaml, a weights file, or a model or run of MLflow (models:/<id>).",
    ),
]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGES...", help="Image files, folders or zip archives of them.")
]
ToFolder = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the PNG files go.")]
Label = Annotated[
    str | None,
    typer.Option("--label", "--class", metavar="CLASS", help="By name or number, for class-conditional models."),
]
Direction = Annotated[str | None, typer.Option(help="Of a model that translates: a_to_b or b_to_a.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PARAM=VALUE", help="Another value of a param of sampling, such as the steps."),
]
BatchSize = Annotated[int, typer.Option(help="Images at a time; it changes none of them.", min=1)]


def sample(
    source: Source,
    to: Annotated[
        Path, typer.Option("--to", "-o", metavar="PLACE", help="A folder for PNG files, or a file.png for one grid.")
    ],
    count: Annotated[int | None, typer.Option("--count", "-n", help="How many samples.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Sample i depends on it, on i and on its class alone.", min=0)] = 0,
    label: Label = None,
    truncation: Annotated[
        float | None, typer.Option(help="Bound of normal latents, in standard deviations.", show_default="no bound")
    ] = None,
    settings: Settings = None,
    batch_size: BatchSize = 64,
    images: Annotated[
        list[Path] | None, typer.Option(help="For a model that translates: files, folders or zip archives of images.")
    ] = None,
    direction: Direction = None,
) -> None:
    """Write samples of a trained model, or translations of images, as PNG files into a folder."""
    if bool(count) == bool(images):
        raise UserError("Give either --count N, or --images for a model that translates.")
    from pipeline.console import progress
    from pipeline.inference.sample import draw_samples, sampling_otherwise, write_samples, write_translations
    from pipeline.ingest.own_images import open_images

    with loaded(source) as (trained, classes), progress() as report:
        if images:
            with open_images(images) as found:
                write_translations(trained, found, to, direction=direction, batch_size=batch_size, report=report)
            print(f"{to}: {len(found)} images translated")
            return
        trained = sampling_otherwise(trained, _settings(settings or []))
        given = None if label is None else number_of(label, classes, trained)
        if to.suffix == ".png":
            drawn = draw_samples(
                trained, count or 0, seed=seed, label=given, truncation=truncation, batch_size=batch_size
            )
            _write_grid(drawn, to)
            return
        new = write_samples(
            trained,
            to,
            count or 0,
            seed=seed,
            label=given,
            truncation=truncation,
            batch_size=batch_size,
            report=report,
        )
    print(f"{to}: {new} samples written, {(count or 0) - new} were there already")


def _settings(given: list[str]) -> dict[str, Any]:
    """Return what --set says: each value as params.yaml would read it."""
    import yaml

    found = {}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: say which param and its value, such as --set temperature=0.7.")
        found[key] = yaml.safe_load(value)
    return found


def _write_grid(images: "Tensor", path: Path) -> None:
    """Write uint8 images (n, c, h, w) as one picture, about as wide as it is high."""
    from pipeline.files import atomic_file
    from pipeline.render.grid import grid

    if path.is_dir():
        raise UserError(f"{path}: that is a folder. Name another file, or a folder that does not end in .png.")
    with atomic_file(path) as temporary:
        grid(images, columns=math.ceil(math.sqrt(len(images)))).save(temporary, format="PNG")
    print(f"{path}: {len(images)} samples")


def encode(
    source: Source,
    images: Images,
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="The ending is the format: .npz, .npy, .safetensors.")
    ],
    label: Label = None,
    batch_size: BatchSize = 64,
) -> None:
    """Write what a trained model encodes images to: latents, codes or translations, with the images' names."""
    from pipeline.console import progress
    from pipeline.inference import encode as encoding
    from pipeline.ingest.own_images import open_images

    encoding.check_target(to)
    with loaded(source) as (trained, classes), progress() as report, open_images(images) as found:
        encoding.check_encodes(trained)

        def reported() -> Iterator["Tensor"]:
            done = 0
            for batch in found.batches(trained.spec, batch_size):
                yield batch
                done += len(batch)
                report("encoding", done, len(found))

        parts = encoding.encode(trained, reported(), labels_of(found.names, label, classes, trained))
        shapes = encoding.write_encodings(to, parts, found.names, encoding.describe(trained))
    print(f"{to}: {len(found)} images; " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))


def reconstruct(
    source: Source,
    images: Images,
    to: ToFolder,
    label: Label = None,
    direction: Direction = None,
    batch_size: BatchSize = 64,
) -> None:
    """Write what a trained model makes of images when it encodes and decodes them, as PNG files of their names."""
    from pipeline.console import progress
    from pipeline.inference.encode import check_encodes
    from pipeline.inference.sample import write_reconstructions
    from pipeline.ingest.own_images import open_images

    with loaded(source) as (trained, classes), progress() as report, open_images(images) as found:
        check_encodes(trained, decodes=True)
        labels = labels_of(found.names, label, classes, trained)
        error = write_reconstructions(
            trained, found, to, labels=labels, via=direction, batch_size=batch_size, report=report
        )
    print(f"{to}: {len(found)} images; a pixel differs by {error:.2f} of 255 levels on average")


def export(
    source: Source,
    onnx: Annotated[bool, typer.Option("--onnx", help="As ONNX, the one format so far.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.", show_default="<name>.onnx")
    ] = None,
) -> None:
    """Write a trained model's sampler as one file: from latents, and labels where they matter, to images.

    A batch may have any size. onnxruntime has given PyTorch's images before the file is written.
    """
    if not onnx:
        raise UserError("Name the format: --onnx.")
    from pipeline.inference.onnx import LABELS, export_onnx

    with loaded(source, "cpu") as (trained, _):
        path = output or Path(f"{_file_name(source)}.onnx")
        about = export_onnx(trained, path)
    inputs = [f"{given['name']} ({', '.join(map(str, ['n', *given['shape']]))})" for given in about["inputs"]]
    inputs += [f"{LABELS} (n)"] if about["classes"] else []
    print(f"{path}: {', '.join(inputs)} -> images (n, {', '.join(map(str, about['images']))})")


def evaluate(
    source: Source,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A JSON file; else it is printed.")] = None,
) -> None:
    """Score a model by params.yaml's protocol against out/reference: a published checkpoint, or any weights."""
    from pipeline.config import read_params
    from pipeline.data.dataset import domains, open_dataset
    from pipeline.evaluate.extraction import write_samples
    from pipeline.evaluate.extractors import load_all
    from pipeline.evaluate.scoring import score_run
    from pipeline.files import write_json
    from pipeline.inference.generate import refuse_other_images

    settings, dataset = read_params().evaluate, open_dataset(DATA)
    with loaded(source) as (trained, _), tempfile.TemporaryDirectory() as temporary:
        refuse_other_images(trained, dataset.spec, source)
        facts = _facts(trained.source) if trained.source else {}
        first, second = domains(dataset, facts.get("params", {}).get("domains"), trained.method.views)
        folder = Path(temporary)
        write_samples(folder, trained, first, settings, load_all(settings, EXTRACTORS, trained.device), second)
        scores = score_run(folder, REFERENCE, settings, STATISTICS)
    content = {"source": source, "seen": trained.seen, "metrics": scores.metrics, "protocol": scores.protocol}
    if to is None:
        print(json.dumps(content, indent=2, sort_keys=True))
    else:
        write_json(to, content)
        print(f"{to}: written")


@contextmanager
def loaded(source: str, device: str | None = None) -> Iterator[tuple["Trained", list[str]]]:
    """Load a model.

    Args:
        source: a run of params.yaml, its folder, a weights file, or a URI of MLflow.
        device: where to; None: the first GPU, or the CPU if there is none.

    Yields:
        The model, and its classes' names where they are known.

    Raises:
        UserError: there is no such model, or its file is damaged.
    """
    from pipeline.core.world import default_device
    from pipeline.inference.weights import load_weights

    with tempfile.TemporaryDirectory() as folder:
        path = _fetched(source, Path(folder)) if is_in_mlflow(source) else _found(source)
        yield load_weights(path, device or default_device()), _classes(path)


def number_of(label: str, classes: Sequence[str], trained: "Trained") -> int:
    """Return the number of a class, given by its name or number; UserError if there is none."""
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and int(label) < trained.spec.classes:
        return int(label)
    known = nearest(label, classes) if classes else f"Classes are numbered from 0 to {trained.spec.classes - 1}."
    raise UserError(f"--label: there is no class '{label}'. {known if trained.spec.classes else 'The model has none.'}")


def labels_of(names: Sequence[str], label: str | None, classes: Sequence[str], trained: "Trained") -> "Tensor | None":
    """Return a label for each image: the given one, else that of the class folder it lies in, else None."""
    import torch

    if label is not None:
        return torch.full((len(names),), number_of(label, classes, trained))
    folders = [name.partition("/")[0] for name in names if "/" in name]
    if len(folders) == len(names) and set(folders) <= set(classes):
        return torch.tensor([classes.index(folder) for folder in folders])
    return None


def _found(source: str) -> Path:
    for path in (run_folder(source) / WEIGHTS, Path(source) / WEIGHTS, Path(source)):
        if path.is_file():
            return path
    trained = [path.parent.name for path in RUNS.glob(f"*/{WEIGHTS}")]
    hint = nearest(source, trained) if trained else "Run `dvc repro` to train the runs of params.yaml."
    raise UserError(f"{source}: neither a trained run (in {RUNS}) nor a weights file. {hint}")


def _file_name(source: str) -> str:
    """Return a file name for what is made of a model: the run's or the file's, or the last part of a URI."""
    last = Path(source).name
    return last.removesuffix(Path(WEIGHTS).suffix) or "model"


def _fetched(uri: str, folder: Path) -> Path:
    from pipeline.config import Tracking, read_params
    from pipeline.tracking.queries import fetch_weights

    tracking = read_params().tracking if Path("params.yaml").exists() else Tracking()
    return fetch_weights(uri, tracking, folder, key=uri)


def _classes(weights: Path) -> list[str]:
    """Return the names of the classes, which a run's train.json has."""
    classes = _facts(weights).get("dataset", {}).get("classes", [])
    return [str(name) for name in classes]


def _facts(weights: Path) -> dict[str, Any]:
    """Return what train.json beside the weights says; {} if there is none."""
    try:
        content = json.loads((weights.parent / "train.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
