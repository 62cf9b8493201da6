"""One picture per file; the file name is what params.yaml: render.pictures names."""

from pipeline import registry
from pipeline.render.picture import Picture


def names() -> list[str]:
    """List every picture: the files of this folder."""
    return registry.names(__name__)


def load(name: str) -> Picture:
    """Return the picture that the file of that name defines.

    Args:
        name: the file's name.

    Returns:
        Its ``PICTURE``.

    Raises:
        UserError: there is no such file.
    """
    picture: Picture = registry.load(__name__, name, "params.yaml: render.pictures").PICTURE
    return picture
