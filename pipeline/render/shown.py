"""A folder of a run's pictures, without torch, as whatever tracks runs asks too.

    <folder>/<name>.png | .webp
    <folder>/pictures.json       of each, in order: file, title, caption and kind

So whoever shows a picture can say what it is without knowing who drew it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError
from pipeline.files import write_json

LIST = "pictures.json"

Kind = Literal["images", "figure", "film"]


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
