"""What a picture may be: images side by side, a figure or a film; and the folder that holds a run's pictures.

    <folder>/<name>.png | .webp
    <folder>/pictures.json       of each, in order: file, title, caption and kind

So whoever shows a picture can say what it is without knowing who drew it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from PIL import Image

from pipeline.errors import UserError
from pipeline.files import atomic_file, write_json
from pipeline.render.grid import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIST = "pictures.json"
DPI = 120

Kind = Literal["images", "figure", "film"]


@dataclass(frozen=True)
class Film:
    """Frames of one size, and how long each is shown, in milliseconds."""

    frames: Sequence[Image.Image]
    durations: Sequence[int]


Drawn: TypeAlias = "Image.Image | Figure | Film"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture in a folder, as pictures.json tells it.

    Attributes:
        file: its name in the folder.
        title: for people.
        caption: how to read it.
        kind: images and films are shown as they are; a figure, dark on white, may be turned around on a dark page.
    """

    file: str
    title: str
    caption: str
    kind: Kind

    @property
    def name(self) -> str:
        """The picture's name: that of its file, without the ending."""
        return Path(self.file).stem


def write_drawn(folder: Path, name: str, drawn: Drawn, title: str, caption: str) -> Shown:
    """Write what a picture drew; the same pixels give the same bytes.

    Args:
        folder: where to.
        name: the picture's.
        drawn: what it drew.
        title: the picture's.
        caption: the picture's.

    Returns:
        What is to be known of the file.
    """
    about = {"title": title, "caption": caption}
    if isinstance(drawn, Film):
        write_film(drawn, folder / f"{name}.webp")
        return Shown(file=f"{name}.webp", kind="film", **about)
    if isinstance(drawn, Image.Image):
        write_png(folder / f"{name}.png", drawn)
        return Shown(file=f"{name}.png", kind="images", **about)
    write_figure(drawn, folder / f"{name}.png")
    return Shown(file=f"{name}.png", kind="figure", **about)


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure by the path's suffix: PNG, on white, or SVG, on nothing; the same figure gives the same bytes."""
    import matplotlib

    kind = path.suffix.removeprefix(".")
    paper, undated = {"svg": ("none", {"Date": None}), "png": ("white", {"Software": None})}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "genloom"}), atomic_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=DPI, facecolor=paper, metadata=undated)


def write_film(film: Film, path: Path) -> None:
    """Write an animated WebP. A GIF would take four times the bytes, and 256 colours would have to do."""
    first, *others = film.frames
    with atomic_file(path) as temporary:
        first.save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=others,
            duration=list(film.durations),
            loop=0,
            lossless=first.mode == "L",  # exact where it is also smaller
            quality=80,
        )


def write_list(folder: Path, shown: Sequence[Shown]) -> None:
    """Write pictures.json."""
    write_json(folder / LIST, [asdict(picture) for picture in shown])


def read_list(folder: Path) -> list[Shown]:
    """Return what pictures.json says, in order; nothing where no pictures were drawn.

    Args:
        folder: of a run's pictures.

    Returns:
        The pictures whose files are there.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / LIST
    if not path.is_file():
        return []
    try:
        found = [Shown(**known) for known in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}). Delete it and run `dvc repro`.") from error
    return [picture for picture in found if (folder / picture.file).is_file()]
