"""The files of an examination on a node: those of the driver's folders, or what the driver sends instead of them."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.cluster import nodes
from pipeline.config import PROGRAM
from pipeline.data.dataset import ImageStore, is_shard
from pipeline.errors import UserError
from pipeline.evaluate.chunks import Materials
from pipeline.evaluate.extractors import downloaded
from pipeline.files import sha256_of

_WEIGHTS, _DATA, _PREPARED, _PROGRAMS, _HUB = "weights.safetensors", "data", "extractors", "programs", "hub"


@dataclass(frozen=True)
class Sent:
    """What a node needs if it does not see the driver's folders.

    Attributes:
        files: by their paths below a folder of the node's own, each as a reference to its bytes.
        given: the path among them of the file that evaluate.weights names, if it names one.
        copy: the name of the folder of the data's copy, which a training may have left there.
        elsewhere: clients for the images, where there is no copy.
    """

    files: Mapping[str, Any]
    given: str | None
    copy: str
    elsewhere: Callable[[str], ImageStore]


@dataclass(frozen=True)
class Parcel:
    """An examination's files, as any node of the cluster can open them.

    Attributes:
        materials: with the driver's paths, absolute.
        hashes: sha256 by path, of files that tell the driver's folders from others at the same place.
        sent: for nodes that do not see them; None: all nodes do.
    """

    materials: Materials
    hashes: Mapping[Path, str]
    sent: Sent | None = None

    @classmethod
    def of(cls, materials: Materials) -> "Parcel":
        """Return the files for nodes that all see the driver's folders."""
        settings, weights = materials.settings, materials.weights
        own = {"path": str(Path(settings.path).absolute())}
        own |= {"weights": str(Path(settings.weights).absolute())} if settings.weights else {}
        materials = replace(
            materials,
            data=materials.data.absolute(),
            prepared=materials.prepared.absolute(),
            weights=weights.absolute() if weights else None,
            settings=replace(settings, **own),  # type: ignore[arg-type]  # each value is of its field's type
        )
        told_by = [materials.data / "spec.json", *([materials.weights] if materials.weights else [])]
        return cls(materials, {path: sha256_of(path) for path in told_by if path.is_file()})

    def sending(self, put: Callable[[bytes], Any], elsewhere: Callable[[str], ImageStore]) -> "Parcel":
        """Read all files but the images into Ray's object store.

        Args:
            put: stores bytes and returns a reference.
            elsewhere: clients for the images.

        Returns:
            The same for nodes of which some do not see the driver's folders.
        """
        materials, settings, found = self.materials, self.materials.settings, dict[str, Path]()
        found |= {f"{_DATA}/{path.name}": path for path in materials.data.iterdir() if not is_shard(path)}
        if materials.prepared.is_dir():
            found |= {f"{_PREPARED}/{path.name}": path for path in materials.prepared.iterdir()}
        for name in settings.extractors:
            if name.endswith(PROGRAM):
                found[f"{_PROGRAMS}/{name}"] = Path(settings.path, name)
            elif path := downloaded(name):
                found[f"{_HUB}/checkpoints/{path.name}"] = path
        given = f"given/{Path(settings.weights).name}" if settings.weights else None
        if given:
            found[given] = Path(str(settings.weights))
        if materials.weights:
            found[_WEIGHTS] = materials.weights
        sent = Sent(
            files={name: put(path.read_bytes()) for name, path in found.items() if path.is_file()},
            given=given,
            copy=nodes.copy_name(materials.data, streamed=False),
            elsewhere=elsewhere,
        )
        return replace(self, sent=sent)

    @contextmanager
    def opened(
        self, host: str, get: Callable[[Any], bytes]
    ) -> Iterator[tuple[Materials, Callable[[str], ImageStore] | None]]:
        """Make the files readable on this node, for the block.

        Args:
            host: the node's name, for messages.
            get: turns a reference into bytes.

        Yields:
            Paths on this node, and where the images are if not there.

        Raises:
            UserError: this node does not see the driver's folders, and nothing was sent.
        """
        if all(path.is_file() and sha256_of(path) == known for path, known in self.hashes.items()):
            yield self.materials, None
            return
        if self.sent is None:
            raise UserError(
                f"node {host} does not see {self.materials.data}, or sees another one there. Let all nodes see the "
                "project's folder, or name a URL (s3://...) in params.yaml: cluster.storage; then nodes are sent what "
                "they need."
            )
        import torch

        hub = torch.hub.get_dir()
        with tempfile.TemporaryDirectory(prefix="genloom-") as temporary:
            for name, reference in self.sent.files.items():
                path = Path(temporary, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(get(reference))
            if f"{_HUB}/" in "".join(self.sent.files):
                torch.hub.set_dir(Path(temporary, _HUB))
            try:
                yield self._below(Path(temporary), self.sent)
            finally:
                torch.hub.set_dir(hub)

    def _below(self, folder: Path, sent: Sent) -> tuple[Materials, Callable[[str], ImageStore] | None]:
        materials, copy = self.materials, nodes.cache() / sent.copy
        settings = replace(
            materials.settings,
            path=str(folder / _PROGRAMS),
            weights=str(folder / sent.given) if sent.given else None,
        )
        return replace(
            materials,
            data=copy if copy.exists() else folder / _DATA,
            prepared=folder / _PREPARED,
            settings=settings,
            weights=folder / _WEIGHTS if materials.weights else None,
        ), None if copy.exists() else sent.elsewhere
