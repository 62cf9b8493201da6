"""The page of the data, out/inspection/data.html: classes, sizes, what is there twice, what was left out and why.

data.html        one page that needs no other file
duplicates.csv   every pair: kind, correlation, and split, number and name of both
summary.json     what the report says of it
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.dataset import Dataset, open_dataset
from pipeline.files import atomic_folder, read_csv, write_csv, write_json
from pipeline.ingest.duplicates import NEAR, Duplicates, Pair, find_duplicates
from pipeline.ingest.duplicates import Image as Place
from pipeline.ingest.normalize import ABOUT, QUARANTINE, summary
from pipeline.ingest.source import LeftOut, Report, silent
from pipeline.render.grid import grid
from pipeline.render.samples import real_grid
from pipeline.render.template import environment

PAGE, DUPLICATES, SUMMARY = "data.html", "duplicates.csv", "summary.json"
_SHOWN = 200  # rows of what was left out
_PAIRS = 24
_SIZES = 12  # the most frequent ones
_BLOCK = 4096
_Names = Mapping[tuple[str, int], str]


def inspect(data: Path, about: Path, folder: Path, report: Report = silent) -> dict[str, Any]:
    """Look at all images of a dataset and write the page.

    Args:
        data: out/data.
        about: out/images, what the stage normalize wrote down of them.
        folder: is replaced by the page and its tables.
        report: called with the progress.

    Returns:
        What summary.json says: counts, and warnings in words.

    Raises:
        UserError: there is no dataset.
    """
    dataset = open_dataset(data)
    rows = read_csv(about / ABOUT)
    left_out = [LeftOut(**row) for row in read_csv(about / QUARANTINE)]
    found = find_duplicates(dataset, report)
    names = {(row["split"], int(row["number"])): row["name"] for row in rows}
    said = _summary(dataset, left_out, found)
    with atomic_folder(folder) as temporary:
        _write_pairs(temporary / DUPLICATES, found.pairs, names)
        write_json(temporary / SUMMARY, said)
        (temporary / PAGE).write_text(_page(dataset, rows, left_out, found, names, said), encoding="utf-8")
    return said


def _summary(dataset: Dataset, left_out: Sequence[LeftOut], found: Duplicates) -> dict[str, Any]:
    tests = len(dataset.splits["test"]) if "test" in dataset.splits else 0
    twins = found.across("test")
    warnings = []
    if twins:
        warnings.append(
            f"{twins} of {tests} test images are also among the training images, or nearly so: what is measured on the "
            "test split (bits/dim, memorization, FID against it) flatters a model that remembers."
        )
    if left_out:
        warnings.append(f"{len(left_out)} images were left out: {summary(left_out)}.")
    equal = sum(pair.equal for pair in found.pairs)
    counts = {"equal_pairs": equal, "near_pairs": len(found.pairs) - equal, "test_images_in_train": twins}
    return {"left_out": len(left_out), "all_pairs_compared": found.all_compared, "warnings": warnings, **counts}


def _page(
    dataset: Dataset,
    rows: Sequence[Mapping[str, str]],
    left_out: Sequence[LeftOut],
    found: Duplicates,
    names: _Names,
    said: Mapping[str, Any],
) -> str:
    here = Path(__file__).parent
    pages = environment(here)
    mean, deviation = _moments(dataset)
    splits = sorted(dataset.splits, reverse=True)
    return pages.get_template("inspection.html").render(
        style=(here / "report.css").read_text(),
        data=dataset.info,
        count=sum(len(split) for split in dataset.splits.values()),
        left_out=left_out,
        summary=summary(left_out),
        shown=_SHOWN,
        twice=f"pairs that are equal: {said['equal_pairs']}, nearly equal: {said['near_pairs']}",
        warnings=said["warnings"][:1] if said["test_images_in_train"] else [],
        pictures={
            "grid": _uri(real_grid(dataset, "train", 0)),
            "mean": _uri(grid(mean.round().to(torch.uint8), 1)),
            "deviation": _uri(grid((deviation * (255 / max(deviation.max().item(), 1))).to(torch.uint8), 1)),
        },
        deviation=round(deviation.max().item()),
        splits=splits,
        classes=_classes(dataset, splits),
        cropped=str(dataset.info.get("normalization", "")).startswith("crop"),
        **_sizes(rows),
        pairs=[_shown_pair(dataset, pair, names) for pair in found.pairs[:_PAIRS]],
        duplicates_note=_note(found),
    )


def _note(found: Duplicates) -> str:
    compared = (
        "every two images" if found.all_compared else "each test image and each training image, there being many,"
    )
    note = f"Found by comparing {compared} after normalization: pairs whose pixels correlate by {NEAR} or more."
    note += " Mirrored, turned and shifted copies are not found."
    if found.cut:
        note += " There were more candidates than are compared, so some may be missing."
    if len(found.pairs) > _PAIRS:
        note += f" Shown are {_PAIRS} of {len(found.pairs)}, those across splits first; all are in {DUPLICATES}."
    return note if found.pairs else f"{note} There is none."


def _classes(dataset: Dataset, splits: Sequence[str]) -> list[dict[str, Any]]:
    counts = {name: dataset.info["splits"][name]["class_counts"] for name in splits}
    most = max(counts["train"]) or 1
    return [
        {
            "name": name,
            "counts": [counts[split][label] for split in splits],
            "width": 100 * counts["train"][label] / most,
        }
        for label, name in enumerate(dataset.info["classes"])
    ]


def _sizes(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Count the most frequent sizes; all are of published images of one size where that is known."""
    counts = Counter((int(row["width"]), int(row["height"])) for row in rows)
    most = [
        {
            "width": width,
            "height": height,
            "count": count,
            "cut": round(100 * (1 - min(width, height) / max(width, height))),
        }
        for (width, height), count in counts.most_common(_SIZES)
    ]
    sides = np.array([min(size) for size in counts.elements()] or [0])
    note = f"{len(counts)} different sizes, the {len(most)} most frequent ones above. " if len(counts) > _SIZES else ""
    note += f"The shorter side is {sides.min()} to {sides.max()} pixels, of half of the images {int(np.median(sides))} "
    note += "or less."
    return {"sizes": most, "sizes_note": note}


def _moments(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each pixel of the training images, float64 (1, c, h, w)."""
    split = dataset.splits["train"]
    shape = (1, dataset.spec.channels, dataset.spec.size, dataset.spec.size)
    total, squares = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for start in range(0, len(split), _BLOCK):
        images = split.images(range(start, min(start + _BLOCK, len(split)))).double()
        total += images.sum(0, keepdim=True)
        squares += images.square().sum(0, keepdim=True)
    mean = total / len(split)
    return mean, (squares / len(split) - mean.square()).clamp(min=0).sqrt()


def _shown_pair(dataset: Dataset, pair: Pair, names: _Names) -> dict[str, str]:
    images = torch.cat([dataset.splits[place.split].images([place.number]) for place in (pair.first, pair.second)])
    how = "equal" if pair.equal else f"correlation {pair.correlation:.4f}"
    first, second = (f"{place.split}: {_name(place, names)}" for place in (pair.first, pair.second))
    return {"picture": _uri(grid(images, 2)), "first": first, "second": second, "how": how}


def _name(place: Place, names: _Names) -> str:
    return names.get((place.split, place.number), str(place.number))


def _write_pairs(path: Path, pairs: Sequence[Pair], names: _Names) -> None:
    header = ("kind", "correlation", "split", "number", "name", "other_split", "other_number", "other_name")
    rows = (
        ("equal" if pair.equal else "near", f"{pair.correlation:.6f}")
        + tuple(value for place in (pair.first, pair.second) for value in (*place, _name(place, names)))
        for pair in pairs
    )
    write_csv(path, header, rows)


def _uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
