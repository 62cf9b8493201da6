#!/usr/bin/env bash
# Dataset.to_parquet() of a folder of images writes the images' paths on this machine, and no image.
#
# Software:  datasets 5.2.0, pillow.
# Expected:  a Parquet file made of a dataset of images has the images in it, as the ones on the hub do, or the call says
#            that it has not.
# Happens:   of a dataset that load_dataset("imagefolder", ...) made, the column is struct<bytes, path> with bytes null
#            and path absolute. The call succeeds, and reading the file back on the same machine works too, because the
#            images are then read from their old place. Of images that were in memory, the bytes are in the file.
# Seen:      from a folder   bytes null in 2 of 2 rows, path /.../cats/a.png; read back here: works
#            the folder removed: FileNotFoundError at the first image
#            from memory     bytes null in 0 of 2 rows
#            embedded        bytes null in 0 of 2 rows
# Matters:   whoever converts a folder to one file to move it to another machine moves a list of paths. That is noticed
#            there, often after the originals have been deleted.
# Instead:   cast the column to Image(decode=False) and put the bytes in with map, as below ("embedded"). Before deleting
#            anything look at the file: pyarrow.parquet.read_table(file).column("image").combine_chunks().field("bytes")
#            must have a null_count of 0.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"${PYTHON:-python3}" -m venv "$work/venv"
timeout --foreground 900 "$work/venv/bin/pip" install --quiet datasets==5.2.0 pillow ||
  { echo "cannot install the packages"; exit 2; }

cat > "$work/probe.py" <<'PY'
"""Write a folder of images, and images in memory, with to_parquet, and look for the images in the files."""

import shutil
import sys
from pathlib import Path

import pyarrow.parquet
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as Pillow

work = Path(sys.argv[1])
for name in ("cats", "dogs"):
    (work / "images" / name).mkdir(parents=True)
    Pillow.new("RGB", (4, 4), "red").save(work / "images" / name / "a.png")
cache = str(work / "cache")
found = load_dataset("imagefolder", data_dir=str(work / "images"), split="train", cache_dir=cache)
found.to_parquet(work / "folder.parquet")
features = Features({"image": Image()})
Dataset.from_dict({"image": [Pillow.new("RGB", (4, 4), "red")] * 2}, features=features).to_parquet(
    work / "memory.parquet"
)
bare = found.cast_column("image", Image(decode=False))
embedded = bare.map(lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}})
embedded.to_parquet(work / "embedded.parquet")


def nulls(file):
    """Return in how many rows the image's bytes are null."""
    return pyarrow.parquet.read_table(file).column("image").combine_chunks().field("bytes").null_count


def first(number):
    """Return what reading the file back gives: a size, or the name of the error."""
    try:
        read = load_dataset("parquet", data_files=str(work / "folder.parquet"), split="train", cache_dir=f"{cache}{number}")
        return read[0]["image"].size
    except Exception as error:
        return type(error).__name__


seen = {name: nulls(work / f"{name}.parquet") for name in ("folder", "memory", "embedded")} | {"here": first(1)}
shutil.rmtree(work / "images")
seen["elsewhere"] = first(2)
print(seen)
if seen != {"folder": 2, "memory": 0, "embedded": 0, "here": (4, 4), "elsewhere": "FileNotFoundError"}:
    sys.exit("CHANGED: to_parquet no longer behaves as described")
print("As described: the file has the paths of the images, and no image.")
PY
code=0
HOME="$work" HF_HOME="$work/hf" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 \
  timeout --foreground 300 "$work/venv/bin/python" "$work/probe.py" "$work" || code=$?
if ((code == 124)); then echo "CHANGED: the probe did not end within 300 seconds"; fi
exit $((code == 0 ? 0 : 1))
