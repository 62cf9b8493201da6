"""A film of the snapshots: the same latents over training, as an animated WebP.

A GIF would take four times the bytes, and 256 colours would have to do.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.files import atomic_file

MOST_FRAMES = 40
CAPTION = 22  # pixels of height
LAST_FRAMES_LONGER = 8


def write_film(snapshots: Sequence[Path], path: Path, milliseconds_per_frame: int) -> None:
    """Write an animated WebP of the snapshots, the last one shown longer.

    Args:
        snapshots: at least one <images seen>.png, in any order; of more than MOST_FRAMES some are chosen, evenly, the
            last one always.
        path: the film.
        milliseconds_per_frame: its pace.
    """
    chosen = _choose(sorted(snapshots, key=lambda file: int(file.stem)))
    frames = [_caption(file) for file in chosen]
    durations = [milliseconds_per_frame] * (len(frames) - 1) + [milliseconds_per_frame * LAST_FRAMES_LONGER]
    with atomic_file(path) as temporary:
        frames[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            lossless=frames[0].mode == "L",  # exact where it is also smaller
            quality=80,
        )


def _choose(files: Sequence[Path]) -> list[Path]:
    if len(files) <= MOST_FRAMES:
        return list(files)
    step = (len(files) - 1) / (MOST_FRAMES - 1)
    return [files[round(index * step)] for index in range(MOST_FRAMES)]


def _caption(file: Path) -> Image.Image:
    """Return the snapshot over a line that says how many images the training had seen."""
    with Image.open(file) as opened:
        picture = opened.convert("L" if opened.mode == "L" else "RGB")
    frame = Image.new(picture.mode, (picture.width, picture.height + CAPTION), "white")
    frame.paste(picture)
    font = ImageFont.load_default(size=CAPTION * 0.6)
    text = f"{int(file.stem):,} images seen"
    ImageDraw.Draw(frame).text((4, picture.height + CAPTION // 2), text, fill="black", font=font, anchor="lm")
    return frame
