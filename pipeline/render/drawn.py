"""What a picture may be: images side by side, a figure or a film; and how it becomes a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image

from pipeline.files import atomic_file
from pipeline.render.grid import write_png
from pipeline.render.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120


@dataclass(frozen=True)
class Film:
    """Frames of one size, and how long each is shown, in milliseconds."""

    frames: Sequence[Image.Image]
    durations: Sequence[int]


Drawn: TypeAlias = "Image.Image | Figure | Film"


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
