"""LSUN: up to 3 million photographs of a category, 256 pixels and more, RGB (Yu et al., arXiv:1506.03365).

data.path is a folder such as bedroom_train_lmdb, unpacked from the publisher's zip, or several of them, or the folder
that they are in. Each category is a class; a val beside a train is the test split. Needs the package lmdb.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from pipeline.errors import UserError
from pipeline.ingest.decode import decode
from pipeline.ingest.packed_images import Index, PackedImages, Reader
from pipeline.ingest.source import UnreadableError

_FOLDER = re.compile(r"(.+)_(train|val)(_lmdb)?")


@dataclass(frozen=True)
class Lsun(PackedImages):
    """Reads images from LMDB databases by their keys."""

    suffixes: ClassVar[tuple[str, ...]] = ("data.mdb",)

    def index(self, file: Path, labels: str, scratch: Path) -> Index:
        named = _FOLDER.fullmatch(file.parent.name)
        if named is None:
            raise UserError("lies in no folder such as bedroom_train_lmdb. Give it the name that the publisher did.")
        split, index = "train" if named[2] == "train" else "test", Index()
        with _database(file) as database, database.begin(buffers=True) as transaction:
            for key, image in transaction.cursor():
                name = bytes(key)
                place = (int.from_bytes(name, "big"), len(name))
                digest = hashlib.sha256(image).hexdigest()
                index.add(name.decode("ascii", "replace"), digest, "" if labels == "none" else named[1], place, split)
        return index

    def reader(self, file: Path, scratch: Path, stack: ExitStack) -> Reader:
        database = stack.enter_context(_database(file))

        def read(place: Sequence[int]) -> tuple[bytes, Callable[[], Image.Image]]:
            with database.begin() as transaction:
                content = transaction.get(place[0].to_bytes(place[1], "big"))
            if content is None:
                raise UnreadableError("not in its database")
            return content, partial(decode, content)

        return read


@contextmanager
def _database(file: Path) -> Iterator[Any]:
    try:
        import lmdb
    except ImportError as error:
        raise UserError("LSUN needs the package lmdb. Install it: pip install 'genloom[lsun]'.") from error
    try:
        opened = lmdb.open(str(file.parent), readonly=True, lock=False, readahead=False, max_spare_txns=64)
    except lmdb.Error as error:
        raise UserError(f"no readable LMDB database ({error}). Replace it, and run `dvc repro`.") from error
    with opened:
        yield opened


SOURCE = Lsun()
