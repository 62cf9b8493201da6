"""Pictures of a run as MLflow's pages show them: by key and step, under names that a repetition overwrites."""

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def unique_of(key: str, step: int) -> str:
    """Return what tells a picture of a run from its others."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{key} {step}"))


def stem_of(key: str, step: int, time: int) -> str:
    """Return a picture's file name without its ending, as MLflow's pages read it.

    Args:
        key: what it shows, such as "samples".
        step: images seen.
        time: ms since 1970.

    Returns:
        The name.
    """
    return f"{key.replace('/', '~')}+step+{step}+timestamp+{time}+{unique_of(key, step)}"


def log_picture(client: "MlflowClient", run_id: str, path: Path, stem: str) -> None:
    """Do what MlflowClient.log_image does, with a name of one's own.

    Args:
        client: of MLflow.
        run_id: of the run.
        path: of the picture, PNG.
        stem: as ``stem_of`` gives it.
    """
    from mlflow.tracking.multimedia import compress_image_size
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder, f"{stem}.png"), Path(folder, f"{stem}+compressed.webp")
        shutil.copyfile(path, full)
        with Image.open(full) as image:
            compress_image_size(image).save(small)
        for file in (full, small):
            client.log_artifact(run_id, str(file), "images")
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)
