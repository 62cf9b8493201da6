"""100,000 images: memory does not grow with their pixels, and work that was killed goes on to the same bytes."""

import json
import signal
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_data import ROOT

FEW, MANY, SIZE = 10_000, 100_000, 64
STAGES = """
import json, re, sys
from pathlib import Path
from pipeline.ingest.listing import write_listing
from pipeline.ingest.normalize import Normalization, normalize
from pipeline.ingest.originals import list_files
from pipeline.ingest.shards import Work
from pipeline.ingest.source import Origin
from pipeline.ingest.sources.image_folder import SOURCE

images, work, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
origin = Origin(paths=(images,), folder=work, listing=work / "listing.csv", downloads=work / "downloads")
if not (work / "raw").exists():
    write_listing(work / "listing.csv", list_files(origin.paths, work, work / "hashes.sqlite"))
    (work / "raw").mkdir(parents=True)
    SOURCE.download(origin, work / "raw")
with SOURCE.open(work / "raw", origin) as raw:
    info = normalize(
        raw, work / "data", work / "images", Normalization(channels=3, size=size), source="image_folder",
        test_fraction=0.1, work=Work(folder=work / "shards", identity=""),
    )
# ru_maxrss begins at what the process that started this one had.
peak = int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024
count = sum(split["count"] for split in info["splits"].values())
print(json.dumps({"count": count, "digest": info["digest"], "peak": peak}))
"""


def archive(path: Path, count: int) -> Path:
    """A zip of small images, all different, in ten class folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as opened:
        for number, image in enumerate(pixels):
            file = BytesIO()
            Image.fromarray(image).save(file, "PNG", compress_level=0)
            opened.writestr(f"{number % 10}/{number:06}.png", file.getvalue())
    return path


def begun(images: Path, work: Path) -> "subprocess.Popen[str]":
    """The stages list, download and normalize in a process of their own."""
    command = [sys.executable, "-c", STAGES, str(images), str(work), str(SIZE)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def told(process: "subprocess.Popen[str]") -> dict[str, float]:
    said = process.communicate(timeout=1200)[0]
    assert process.returncode == 0
    return json.loads(said)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_bounded_and_killed_work_goes_on(tmp_path: Path) -> None:
    few = told(begun(archive(tmp_path / "few.zip", FEW), tmp_path / "few"))
    images = archive(tmp_path / "many.zip", MANY)
    whole = told(begun(images, tmp_path / "whole"))
    assert (few["count"], whole["count"]) == (FEW, MANY)
    grown, pixels = whole["peak"] - few["peak"], (MANY - FEW) * SIZE * SIZE * 3 / 2**20
    assert whole["peak"] < 1024
    assert grown < 0.3 * pixels, f"{grown:.0f} MiB more for {pixels:.0f} MiB of pixels"

    killed, shards = begun(images, tmp_path / "killed"), tmp_path / "killed" / "shards"
    while len(list(shards.glob("*.json"))) < 20:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "data").exists()
    before = {file: file.stat().st_mtime_ns for file in shards.glob("*.json")}
    assert told(begun(images, tmp_path / "killed"))["digest"] == whole["digest"]
    assert {file: file.stat().st_mtime_ns for file in before} == before, "what was made is not made again"
    after = {path.name: path.read_bytes() for path in sorted((tmp_path / "killed" / "data").iterdir())}
    assert len(after) > 40
    for path in (tmp_path / "whole" / "data").iterdir():
        assert after.pop(path.name) == path.read_bytes()
    assert not after
    made = sum(path.stat().st_size for path in (tmp_path / "whole" / "data").iterdir())
    files = [path.stat() for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert made <= sum({file.st_ino: file.st_size for file in files}.values()) <= 1.1 * made
