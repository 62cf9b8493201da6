"""Copies of a run's checkpoints and snapshots at a URL, for nodes that share no folder: any URL that fsspec opens.

If a URL is set it is authoritative: nodes resume from it and ignore local checkpoints it does not have. A checkpoint
there is complete or absent, as on disk: its manifest is written last and removed first.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterator
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
class RemoteStore:
    """The remote copy of one run's folder.

    While the storage does not answer, methods try again and block, for at most ``PATIENCE_SECONDS``; then they raise
    UserError, as they do at once if fsspec cannot open the URL. Not collective.

    Attributes:
        url: of the remote copy.
        folder: the run's folder on this node.
    """

    url: str
    folder: Path

    def send(self, name: str) -> None:
        """Upload a file or a checkpoint's folder; ``name`` is its path below the run's folder."""
        source = self.folder / name
        files = [source] if source.is_file() else sorted(source.iterdir(), key=lambda file: file.name == MANIFEST)
        for file in files:
            self._retry(partial(_put, source=file, name=str(file.relative_to(self.folder))))

    def existing(self) -> list[int]:
        """Return images seen at each complete remote checkpoint, in ascending order."""
        return self._retry(_checkpoints)

    def drop(self, outdated: Callable[[list[int]], set[int]]) -> None:
        """Remove those of the remote checkpoints (images seen) that ``outdated`` chooses."""
        self._retry(partial(_drop, outdated=outdated))

    def fetch_newest(self, is_whole: Callable[[int], bool], before: float = math.inf) -> int | None:
        """Download the newest remote checkpoint that is undamaged.

        Args:
            is_whole: tells whether this node's copy of a checkpoint (images seen) is undamaged.
            before: images seen; only older checkpoints are considered.

        Returns:
            Images seen at that checkpoint; None if there is none.
        """
        found = (seen for seen in reversed(self.existing()) if seen < before)
        return next((seen for seen in found if self.fetch(name_of(seen)) and is_whole(seen)), None)

    def fetch(self, name: str) -> bool:
        """Download a file or a checkpoint's folder; return False if there is none (any more)."""
        try:
            self._retry(partial(_get, name=name, target=self.folder / name))
        except FileNotFoundError:
            return False
        return True

    def _retry(self, action: Callable[[Any, str], T]) -> T:
        """Return ``action(filesystem, root)``; call it again while the storage does not answer."""
        begin, pause = time.monotonic(), 1.0
        while True:
            try:
                return action(*self._open())
            except (FileNotFoundError, UserError):
                raise
            except Exception as error:
                if not _is_transient(error):
                    raise
                if time.monotonic() - begin > PATIENCE_SECONDS:
                    raise UserError(
                        f"params.yaml: cluster.storage: {self.url} did not answer for {PATIENCE_SECONDS:.0f} s "
                        f"({error}). The last checkpoint there is kept: fix the storage and run `dvc repro` again."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _open(self) -> tuple[Any, str]:
        import fsspec

        try:
            filesystem, root = fsspec.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UserError(
                f"params.yaml: cluster.storage: cannot open {self.url} ({error}). Correct the address, or install the "
                "package that fsspec needs for it."
            ) from error
        return filesystem, root


def _is_transient(error: Exception) -> bool:
    """Return True if the storage may answer later.

    Every file system has errors of its own (botocore's, aiohttp's), which all count, and so do the operating system's.
    Python's other errors (TypeError, KeyError) are mistakes in a program, which no waiting repairs.
    """
    return isinstance(error, OSError) or type(error).__module__ != "builtins"


def probe(url: str, token: str) -> str:
    """Write a file at the URL and remove it, to see whether this node shares the storage with the driver.

    Args:
        url: of the storage.
        token: name of a file there that the driver has written (``token_at``).

    Returns:
        "shared" if this node sees the token and may write, else what is wrong, to be read as "it is ...".
    """
    import fsspec

    try:
        filesystem, root = fsspec.url_to_fs(url)
        own = f"{root}/{token}-{uuid.uuid4().hex[:8]}"
        filesystem.invalidate_cache()
        if not filesystem.exists(f"{root}/{token}"):
            return "not the one that the driver sees"
        filesystem.pipe_file(own, b"written")
        filesystem.rm_file(own)
    except Exception as error:  # every file system has errors of its own, and all are reported
        return f"not usable ({' '.join(str(error).split())[:200] or type(error).__name__})"
    return "shared"


@contextmanager
def token_at(url: str, token: str) -> Iterator[None]:
    """Keep a file for ``probe`` at the URL while the block runs.

    Args:
        url: of the storage.
        token: the file's name.

    Yields:
        Nothing.

    Raises:
        UserError: if the storage cannot be written to.
    """
    import fsspec

    try:
        filesystem, root = fsspec.url_to_fs(url)
        filesystem.makedirs(root, exist_ok=True)
        filesystem.pipe_file(f"{root}/{token}", b"seen")
    except Exception as error:
        raise UserError(
            f"params.yaml: cluster.storage: cannot write to {url} ({' '.join(str(error).split())[:300]}). Fix it, its "
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
    # A training that went on elsewhere may have left one of that name here.
    elif not _has_manifest(target, filesystem.cat_file(f"{source}/{MANIFEST}")):
        with atomic_folder(target) as folder:
            for path in filesystem.ls(source, detail=False):
                filesystem.get_file(path, str(folder / path.rsplit("/", 1)[1]))


def _has_manifest(checkpoint: Path, manifest: bytes) -> bool:
    file = checkpoint / MANIFEST
    return file.exists() and file.read_bytes() == manifest


def _checkpoints(filesystem: Any, root: str) -> list[int]:
    """Return images seen at the complete checkpoints, oldest first."""
    filesystem.invalidate_cache()
    return sorted(int(path.split("/")[-2]) for path in filesystem.glob(f"{root}/checkpoints/*/{MANIFEST}"))


def _drop(filesystem: Any, root: str, outdated: Callable[[list[int]], set[int]]) -> None:
    for seen in outdated(_checkpoints(filesystem, root)):
        filesystem.rm_file(f"{root}/{name_of(seen)}/{MANIFEST}")
        filesystem.rm(f"{root}/{name_of(seen)}", recursive=True)
