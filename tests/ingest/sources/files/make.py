"""Make the small files beside this one with their formats' own libraries, which the project doesn't need.

pip install datasets==5.2.0 webdataset==1.0.2 lmdb==3.0.0
python tests/ingest/sources/files/make.py
"""

import io
import tempfile
from pathlib import Path

import lmdb
import numpy as np
import webdataset
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from PIL import Image as Pillow

HERE = Path(__file__).parent
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (120, 120, 0), (0, 120, 120)]


def picture(number):
    """An image of one colour, with a mark in its upper left corner."""
    image = Pillow.new("RGB", (7, 5), COLOURS[number])
    image.putpixel((0, 0), (255, 255, 255))
    return image


def png(number):
    """Its bytes as PNG."""
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog", "eel"]), "note": Value("string")})
gray16 = Pillow.fromarray(np.array([[0, 65535], [257 * 128, 257 * 7]], dtype=np.uint16))
rows = {"image": [picture(0), picture(1), picture(2), gray16], "label": [2, 0, -1, 1], "note": list("abcd")}
Dataset.from_dict(rows, features=features).to_parquet(HERE / "hf-train-00000-of-00001.parquet")

with tempfile.TemporaryDirectory() as folder:
    for number in range(2):
        (Path(folder) / "train" / f"class{number}").mkdir(parents=True)
        picture(number).save(Path(folder) / "train" / f"class{number}" / "a.png")
    load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=folder).to_parquet(
        HERE / "hf-without-bytes.parquet"
    )

with webdataset.TarWriter(str(HERE / "webdataset-train-000000.tar"), mtime=0) as shard:
    shard.write({"__key__": "a/0001", "png": picture(0), "cls": 2})
    shard.write({"__key__": "a/0002", "png": picture(1), "cls": 0, "json": {"label": 1, "mood": "glad"}})
    shard.write({"__key__": "a/0003", "png": picture(2), "json": {"label": 1, "mood": "sad"}})
    shard.write({"__key__": "a/img_0.5", "png": picture(3), "cls": 1})
    shard.write({"__key__": "a/img_0.7", "png": picture(4), "cls": 1})
    shard.write({"__key__": "a/0004", "cls": 1})

for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
    folder = HERE / f"bedroom_{split}_lmdb"
    with lmdb.open(str(folder), map_size=2**20) as database, database.begin(write=True) as transaction:
        for number in numbers:
            buffer = io.BytesIO()
            picture(number).save(buffer, "WEBP", lossless=True, exact=True)
            transaction.put(f"{number:040x}".encode(), buffer.getvalue())
    (folder / "lock.mdb").unlink()
