"""A film of the snapshots: the same latents over training."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.render.drawn import Film
from pipeline.render.picture import Picture, Subject

MOST_FRAMES = 40
CAPTION = 22  # pixels of height
LAST_FRAMES_LONGER = 8


def film_of(snapshots: Sequence[Path], milliseconds_per_frame: int) -> Film:
    """Return the snapshots as a film, the last one shown longer.

    Args:
        snapshots: at least one <images seen>.png, in any order; of more than MOST_FRAMES some are chosen, evenly, the
            last one always.
        milliseconds_per_frame: its pace.

    Returns:
        The frames, each over a line that says how many images the training had seen.
    """
    chosen = _choose(sorted(snapshots, key=lambda file: int(file.stem)))
    frames = [_caption(file) for file in chosen]
    durations = [milliseconds_per_frame] * (len(frames) - 1) + [milliseconds_per_frame * LAST_FRAMES_LONGER]
    return Film(frames, durations)


def _choose(files: Sequence[Path]) -> list[Path]:
    if len(files) <= MOST_FRAMES:
        return list(files)
    step = (len(files) - 1) / (MOST_FRAMES - 1)
    return [files[round(index * step)] for index in range(MOST_FRAMES)]


def _caption(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        picture = opened.convert("L" if opened.mode == "L" else "RGB")
    frame = Image.new(picture.mode, (picture.width, picture.height + CAPTION), "white")
    frame.paste(picture)
    font = ImageFont.load_default(size=CAPTION * 0.6)
    text = f"{int(file.stem):,} images seen"
    ImageDraw.Draw(frame).text((4, picture.height + CAPTION // 2), text, fill="black", font=font, anchor="lm")
    return frame


def _draw(subject: Subject) -> Film:
    return film_of(subject.snapshots, subject.settings.milliseconds_per_frame)


PICTURE = Picture(
    title="Training, as a film",
    caption="The same latents from the first step to the last.",
    needs=frozenset({"snapshots"}),
    draw=_draw,
)
