"""A run's checkpoints and snapshots kept at a URL too, for nodes that share no folder: any that fsspec takes.

What is there is complete or absent, as on disk: a checkpoint's manifest is written last and removed first. What is
there counts, whatever else a node may hold: all nodes see it.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.files import atomic_file, atomic_folder
from pipeline.storage.checkpoint import MANIFEST, name_of

PATIENCE_SECONDS = 240.0  # less than the other ranks wait for a collective operation
T = TypeVar("T")


@dataclass(frozen=True)
class Mirror:
    """url: of the run's folder there; folder: the run's folder on this node."""

    url: str
    folder: Path

    def send(self, name: str) -> None:
        """Copies checkpoint ``name`` or a file (path below the folder) there; retried while the storage is away."""
        source = self.folder / name
        files = [source] if source.is_file() else sorted(source.iterdir(), key=lambda file: file.name == MANIFEST)
        for file in files:
            self._patiently(partial(_put, source=file, name=str(file.relative_to(self.folder))))

    def drop_others(self, kept: Iterable[int]) -> None:
        """Leaves there no checkpoints but these (images seen)."""
        self._patiently(partial(_drop, kept=set(kept)))

    def fetch_newest(self, is_whole: Callable[[int], bool], before: float = math.inf) -> int | None:
        """Brings the newest checkpoint there that is whole (images seen -> bool) to this node, and names it."""
        found = (seen for seen in reversed(self._patiently(_checkpoints)) if seen < before)
        return next((seen for seen in found if self.fetch(name_of(seen)) and is_whole(seen)), None)

    def fetch(self, name: str) -> bool:
        """Brings a file, or a checkpoint's folder; False where it is not there (any more)."""
        try:
            self._patiently(partial(_get, name=name, target=self.folder / name))
        except FileNotFoundError:
            return False
        return True

    def _patiently(self, action: Callable[[Any, str], T]) -> T:
        """``action(filesystem, root)``, again and again while the storage does not answer; UserError in the end."""
        import fsspec

        begin, pause = time.monotonic(), 1.0
        while True:
            try:
                filesystem, root = fsspec.url_to_fs(self.url)
                return action(filesystem, root)
            except FileNotFoundError:
                raise
            except Exception as error:
                # Every file system has its own errors; what is wrong for good is wrong after five minutes too.
                if time.monotonic() - begin > PATIENCE_SECONDS:
                    raise UserError(
                        f"params.yaml: cluster.storage: {self.url} did not answer for {PATIENCE_SECONDS:.0f} s "
                        f"({error}). The last checkpoint there is kept: mend the storage and run `dvc repro` again."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def probe(url: str, token: str) -> str:
    """ "shared" where the file ``token`` that another node wrote is seen here and one can be written; else what is
    wrong, for "it is ..."."""
    import fsspec

    try:
        filesystem, root = fsspec.url_to_fs(url)
        own = f"{root}/{token}-{uuid.uuid4().hex[:8]}"
        filesystem.invalidate_cache()
        if not filesystem.exists(f"{root}/{token}"):
            return "not the one that the driver sees"
        filesystem.pipe_file(own, b"written")
        filesystem.rm_file(own)
    except Exception as error:  # every file system has its own
        return f"not usable ({' '.join(str(error).split())[:200] or type(error).__name__})"
    return "shared"


@contextmanager
def token_at(url: str, token: str) -> Iterator[None]:
    """While the block runs, a file for ``probe`` is there."""
    import fsspec

    try:
        filesystem, root = fsspec.url_to_fs(url)
        filesystem.makedirs(root, exist_ok=True)
        filesystem.pipe_file(f"{root}/{token}", b"seen")
    except Exception as error:
        raise UserError(
            f"params.yaml: cluster.storage: cannot write to {url} ({' '.join(str(error).split())[:300]}). Mend it, its "
            "address or its credentials, which belong in the environment; or name a folder that all nodes see."
        ) from error
    try:
        yield
    finally:
        with suppress(Exception):  # a few bytes that stay are no obstacle
            filesystem.rm_file(f"{root}/{token}")


def _put(filesystem: Any, root: str, source: Path, name: str) -> None:
    target = f"{root}/{name}"
    filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
    filesystem.put_file(str(source), target)


def _get(filesystem: Any, root: str, name: str, target: Path) -> None:
    source = f"{root}/{name}"
    if target.is_file():
        return
    filesystem.invalidate_cache()
    if not filesystem.isdir(source):
        with atomic_file(target) as temporary:
            filesystem.get_file(source, str(temporary))
    # One of that name may be left here by a training that went on elsewhere.
    elif not _is_that(target, filesystem.cat_file(f"{source}/{MANIFEST}")):
        with atomic_folder(target) as folder:
            for path in filesystem.ls(source, detail=False):
                filesystem.get_file(path, str(folder / path.rsplit("/", 1)[1]))


def _is_that(checkpoint: Path, manifest: bytes) -> bool:
    file = checkpoint / MANIFEST
    return file.exists() and file.read_bytes() == manifest


def _checkpoints(filesystem: Any, root: str) -> list[int]:
    """Images seen at the complete ones, oldest first."""
    filesystem.invalidate_cache()
    return sorted(int(path.split("/")[-2]) for path in filesystem.glob(f"{root}/checkpoints/*/{MANIFEST}"))


def _drop(filesystem: Any, root: str, kept: set[int]) -> None:
    for seen in set(_checkpoints(filesystem, root)) - kept:
        filesystem.rm_file(f"{root}/{name_of(seen)}/{MANIFEST}")
        filesystem.rm(f"{root}/{name_of(seen)}", recursive=True)
