"""Images side by side, pixel-true: tiny ones are enlarged by a whole factor, never smoothed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from pipeline.core.batch import to_uint8
from pipeline.files import atomic_file

CELL = 64  # pixels; smaller images are enlarged up to this
GAP = 2
PAPER = 255
LETTERS, MARGIN = 12, 6  # pixels: of a label's letters, and around it


def grid(images: Tensor, columns: int) -> Image.Image:
    """Draw images row by row.

    Args:
        images: uint8 (n, c, h, w), c 1 or 3.
        columns: images to a row.

    Returns:
        A picture in grayscale or RGB.

    Raises:
        ValueError: another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be uint8 (n, 1 or 3, h, w), got {images.dtype} {tuple(images.shape)}")
    factor = max(1, CELL // images.shape[-1])
    enlarged = images.cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    sheet = _sheet(enlarged, columns)
    return Image.fromarray(sheet[0].numpy() if images.shape[1] == 1 else sheet.permute(1, 2, 0).contiguous().numpy())


def _sheet(images: Tensor, columns: int) -> Tensor:
    """Lay out images (n, c, h, w) as torchvision's make_grid does, whose import costs as much as torch's own."""
    count, channels, height, width = images.shape
    if count == 1:
        return images[0]
    across = min(columns, count)
    down = -(-count // across)
    cells = images.new_full((down * across, channels, height + GAP, width + GAP), PAPER)
    cells[:count, :, GAP:, GAP:] = images
    table = cells.view(down, across, channels, height + GAP, width + GAP).permute(2, 0, 3, 1, 4)
    return pad(table.reshape(channels, down * (height + GAP), across * (width + GAP)), (0, GAP, 0, GAP), value=PAPER)


def panel(images: Tensor) -> Image.Image:
    """Draw images (rows, columns, c, h, w) in [-1, 1]."""
    return grid(to_uint8(images.flatten(0, 1)), images.shape[1])


def labelled(sheet: Image.Image, *, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> Image.Image:
    """Write what columns show above a grid, and what rows show to its left.

    Args:
        sheet: the grid.
        columns: one text for each of its columns, cut off where it is wider; none: no line above.
        rows: one text for each of its rows; none: no margin.

    Returns:
        The grid with its labels, in the same colours.
    """
    font = ImageFont.load_default(size=LETTERS)
    left = round(max(font.getlength(text) for text in rows)) + 2 * MARGIN if rows else 0
    top = LETTERS + 2 * MARGIN if columns else 0
    picture = Image.new(sheet.mode, (left + sheet.width, top + sheet.height), "white")
    picture.paste(sheet, (left, top))
    draw = ImageDraw.Draw(picture)
    for place, text in enumerate(columns):
        width = (sheet.width - GAP) / len(columns)
        while text and font.getlength(text) > width:
            text = text[:-1]
        draw.text((left + GAP / 2 + (place + 0.5) * width, top / 2), text, fill="black", font=font, anchor="mm")
    for place, text in enumerate(rows):
        height = (sheet.height - GAP) / len(rows)
        middle = top + GAP / 2 + (place + 0.5) * height
        draw.text((left - MARGIN, middle), text, fill="black", font=font, anchor="rm")
    return picture


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture atomically; the same picture gives the same bytes."""
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def class_columns(labels: Tensor, order: Tensor, *, rows: int, columns: int, classes: int) -> Tensor:
    """Choose images so that column j holds class j.

    Args:
        labels: (n,) of all images.
        order: (n,) int64, in which a class's images are taken.
        rows: of the picture.
        columns: of the picture; beyond the classes they begin again. Empty classes are passed over.
        classes: how many there are; with fewer than two, columns mean nothing and images are taken in that order.

    Returns:
        (rows * columns,) int64, row by row.
    """
    wanted = rows * columns
    if classes < 2:
        return order[torch.arange(wanted) % len(order)]
    by_class = [order[labels[order] == label] for label in range(classes)]
    filled = [members for members in by_class if len(members)]
    chosen = torch.empty(rows, columns, dtype=torch.int64)
    for column in range(columns):
        members, turn = filled[column % len(filled)], column // len(filled)
        chosen[:, column] = members[(turn * rows + torch.arange(rows)) % len(members)]
    return chosen.flatten()
