"""Arrays of NumPy's .npz archives, memory-mapped: what np.load reads whole, though it is asked to map it."""

import shutil
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.files import atomic_file, locked
from pipeline.ingest.archives import BROKEN

_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's member: the lengths of its name and extra field are the last


@dataclass(frozen=True)
class NpzArrays:
    """An .npz archive.

    Attributes:
        file: the archive.
        scratch: folder for arrays that are compressed in it.
        names: of the arrays.
    """

    file: Path
    scratch: Path
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Read the archive's directory; UserError if it is none."""
        try:
            with zipfile.ZipFile(self.file) as archive:
                inside = archive.namelist()
        except (*BROKEN, OSError) as error:
            raise UserError(f"no readable .npz archive ({error}). Replace it, and run `dvc repro`.") from error
        object.__setattr__(self, "names", frozenset(name[:-4] for name in inside if name.endswith(".npy")))

    def read(self, name: str) -> NDArray[Any]:
        """Return an array, memory-mapped; UserError if it is damaged or a pickle."""
        try:
            with zipfile.ZipFile(self.file) as archive:
                info = archive.getinfo(f"{name}.npy")
                if info.compress_type != zipfile.ZIP_STORED:
                    return np.load(self._unpacked(archive, info), mmap_mode="r", allow_pickle=False)
            with self.file.open("rb") as file:
                file.seek(info.header_offset)
                file.seek(sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))), 1)
                return _mapped(self.file, file)
        except (*BROKEN, OSError, ValueError, struct.error) as error:
            raise UserError(f"its array {name} can't be read ({error}). Replace it, and run `dvc repro`.") from error

    def _unpacked(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Path:
        seen = self.file.stat()
        target = self.scratch / f"{self.file.name}-{seen.st_size}-{seen.st_mtime_ns}-{info.filename}"
        with locked(
            Path(f"{target}.lock"), wait=None, announce=f"waiting for another process that unpacks {self.file}"
        ):
            if not target.exists():
                with archive.open(info) as packed, atomic_file(target) as temporary, temporary.open("wb") as plain:
                    shutil.copyfileobj(packed, plain, 2**20)
        return target


def _mapped(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """Memory-map the array that begins at a file's position."""
    version = npy.read_magic(file)
    shape, in_columns, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise ValueError("it is a pickle, which is never opened")
    if not np.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if in_columns else "C")
