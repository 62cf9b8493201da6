"""The section render of params.yaml: which pictures are drawn, and how."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from pipeline import registry
from pipeline.errors import UserError

PICTURES = (  # which a run has by default
    "film",
    "interpolation",
    "seeds",
    "classes",
    "codes",
    "traversal",
    "truncation",
    "temperature",
    "reconstructions",
    "real_interpolation",
    "there_and_back",
    "pairs",
    "neighbours",
    "critic_outputs",
    "saliency",
    "sensitivity",
    "gradient_norms",
    "curves",
)


@dataclass(frozen=True, kw_only=True)
class Render:
    """Pictures: a grid of rows x columns samples, one class per column, and those that are chosen.

    Attributes:
        pictures: files of pipeline/render/pictures, in the order in which they are shown; of a run that lacks what one
            needs, such as a critic, it is not made.
        rows: of the grid of samples.
        columns: of the grid of samples.
        seed: of the samples, and of the order in which images are taken.
        milliseconds_per_frame: of the film.
        truncation: as in ``evaluate``, of the grid of samples.
        explorer: whether each run's sampler is exported for the page's explorer.
    """

    pictures: list[str] = field(default_factory=lambda: list(PICTURES))

    rows: Annotated[int, Field(gt=0)] = 8
    columns: Annotated[int, Field(gt=0)] = 10
    seed: Annotated[int, Field(ge=0)] = 0
    milliseconds_per_frame: Annotated[int, Field(gt=0)] = 200
    truncation: Annotated[float, Field(gt=0)] | None = None
    explorer: bool = True

    def __post_init__(self) -> None:
        check_chosen("pipeline.render.pictures", "pictures", self.pictures)


def check_chosen(package: str, key: str, names: Sequence[str]) -> None:
    """Raise ValueError, as pydantic wants it, if a list names what is no file of a package, or something twice."""
    for name in names:
        try:
            registry.check(package, name, key)
        except UserError as error:
            raise ValueError(str(error)) from None
    check_once(key, names)


def check_once(key: str, names: Sequence[str]) -> None:
    """Raise ValueError if a list names something twice."""
    if len(set(names)) < len(names):
        raise ValueError(f"{key}: {max(names, key=list(names).count)} stands there more than once; leave one")
