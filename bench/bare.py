"""What the scripts for a borrowed GPU share: they need torch and numpy, and get by without the rest of the project's
packages; random data, CIFAR-10 in the forms in which it lies about, and PNG files.
"""

import importlib.util
import io
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

NEEDED = ("torch", "numpy")
OLDEST_TORCH = (2, 11)
# Packages that modules of pipeline/ import and these scripts never use: they check params, or read and write files.
SPARED = ("pydantic", "yaml", "safetensors", "PIL", "typer", "rich", "filelock", "pyarrow", "aiohttp", "yarl")


class _Anything(type):
    """The class of classes that have every attribute, and are their own parametrized forms."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (Exception,), {"__init__": lambda self, *args, **kwargs: None})

    def __getitem__(cls, item: Any) -> Any:
        return cls


class _Absent(ModuleType):
    """Stands for a package that is not installed: all that is asked of it can be imported and called, to no effect."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_Anything("Absent", (), {}), name)


class _Finder:
    """Finds the submodules of absent packages."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if isinstance(sys.modules.get(name.split(".")[0]), _Absent):
            return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to do."""


def prepare() -> list[str]:
    """Make pipeline/ importable; end with a message if what is needed is missing. Return what is spared."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"error: {', '.join(missing)}: not installed. This script needs torch >= 2.11 and numpy alone.")
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        sys.exit(f"error: torch {torch.__version__} is too old: this needs 2.11 or newer.")
    absent = [name for name in SPARED if importlib.util.find_spec(name) is None]
    for name in absent:
        sys.modules[name] = _Absent(name)
    sys.meta_path.append(_Finder())  # type: ignore[arg-type]
    return absent


def method(name: str, **settings: Any) -> Any:
    """A method of pipeline/methods; its params are checked if pydantic is there."""
    from pipeline import methods

    if isinstance(sys.modules.get("pydantic"), _Absent):
        return methods.find(name)(**settings)
    return methods.load(name, **settings)


def random_split(count: int, size: int) -> Any:
    """Images of noise in ten classes, memory-mapped in a temporary file as training's are."""
    import tempfile

    import numpy as np

    from pipeline.data.dataset import ArrayStore, Split

    rng = np.random.default_rng(0)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
        file.flush()
        mapped = np.load(file.name, mmap_mode="r")  # stays mapped without its name
    return Split(ArrayStore((mapped,)), rng.integers(0, 10, count))


def cifar10(place: Path) -> tuple[Any, Any]:
    """CIFAR-10's training images (n, 32, 32, 3) uint8 and labels, from a folder or a zip of one of these:

    images.npy and labels.npy; data_batch_1 ... data_batch_5 (the Python version, unpacked or a .tar.gz); or class
    folders of images under train/, which needs Pillow.
    """
    import numpy as np

    if place.is_dir() and (place / "images.npy").exists():
        return np.load(place / "images.npy"), np.load(place / "labels.npy").astype(np.int64)
    batches = list(_pickled(place))
    if batches:
        images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        return images.transpose(0, 2, 3, 1).copy(), np.concatenate([batch[b"labels"] for batch in batches])
    return _folders(place)


def _pickled(place: Path) -> Iterator[dict[bytes, Any]]:
    import tarfile

    if place.is_dir():
        for file in sorted(place.rglob("data_batch_[1-5]")):
            yield pickle.loads(file.read_bytes(), encoding="bytes")
    elif tarfile.is_tarfile(place):
        with tarfile.open(place) as archive:
            for member in sorted(archive.getnames()):
                if Path(member).name.startswith("data_batch_"):
                    opened = archive.extractfile(member)
                    assert opened is not None
                    yield pickle.loads(opened.read(), encoding="bytes")


def _folders(place: Path) -> tuple[Any, Any]:
    import numpy as np

    if importlib.util.find_spec("PIL") is None:
        sys.exit(f"error: {place}: neither images.npy nor data_batch_1 is there; folders of images need Pillow.")
    from PIL import Image

    if place.is_dir():
        files = {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*.*g"))}
    else:
        with zipfile.ZipFile(place) as archive:
            files = {name: archive.read(name) for name in sorted(archive.namelist()) if name[-4:] in (".png", ".jpg")}
    train = {name: content for name, content in files.items() if "train" in Path(name).parts} or files
    classes = sorted({Path(name).parent.name for name in train})
    if not train:
        sys.exit(f"error: {place}: no images. Name a folder with images.npy and labels.npy, data_batch_1, or train/.")
    images = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in train.values()]
    return np.stack(images), np.array([classes.index(Path(name).parent.name) for name in train])


def write_png(path: Path, images: Any, columns: int) -> None:
    """Images (n, h, w, 3) uint8 as one picture."""
    import numpy as np

    rows = [np.concatenate(list(images[begin : begin + columns]), axis=1) for begin in range(0, len(images), columns)]
    picture = np.concatenate([row for row in rows if row.shape == rows[0].shape])
    height, width, _ = picture.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1).tobytes()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
