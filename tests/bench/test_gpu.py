"""The scripts for a borrowed GPU, tried with tiny nets where nothing is installed but torch and numpy."""

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"
# What `pip install torch numpy` brings along.
INSTALLED = [
    "torch",
    "torchgen",
    "functorch",
    "numpy",
    "numpy.libs",
    "nvidia",
    "cuda",
    "triton",
    "typing_extensions.py",
    "sympy",
    "mpmath",
    "networkx",
    "jinja2",
    "markupsafe",
    "filelock",
    "fsspec",
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python finds these packages alone."""
    place = tmp_path_factory.mktemp("packages")
    for packages in map(Path, site.getsitepackages()):
        for name in INSTALLED:
            if (packages / name).exists():
                (place / name).symlink_to(packages / name)
        for about in packages.glob("torch-*.dist-info"):
            (place / about.name).symlink_to(about)
    return os.environ | {"PYTHONPATH": str(place)}


def run(bare: dict[str, str], script: str, *arguments: str) -> str:
    """-S: without this environment's own packages, as a new one would be."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import runpy, sys; sys.argv = {[script, *arguments]!r}; "
         f"runpy.run_path({str(BENCH / script)!r}, run_name='__main__')"],
        env=bare, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_rows_are_measured_and_one_that_fails_hinders_no_other(bare: dict[str, str], tmp_path: Path) -> None:
    names = ["dcgan", "biggan", "stylegan2 128", "data", "checkpoint"]
    said = run(bare, "gpu.py", "--tiny", "--to", str(tmp_path / "gpu.json"), "--methods", *names)
    assert "not needed: pydantic" in said, "it was tried with more than it may need"
    found = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert list(found) == names
    for name in names[:3]:
        rows = {row["variant"]: row for row in found[name]}
        for variant in ("plain fp32", "plain bf16", "ours fp32", "ours bf16"):
            assert rows[variant]["images_per_second"] > 0 and rows[variant]["flops_per_image"] > 1e4, (name, variant)
        assert "images_per_second" in rows["graphs bf16"] or rows["graphs bf16"]["not_run"]
    assert [row["images_per_second"] > 0 for row in found["data"]] == [True] * 3
    assert all(row["stopped_seconds"] > 0 and row["in_line_seconds"] > 0 for row in found["checkpoint"])
    assert len(found["checkpoint"]) == 3


@pytest.mark.slow
def test_both_train_on_arrays_and_leave_pictures_and_distances(bare: dict[str, str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", rng.integers(0, 10, 200))
    out = tmp_path / "out"
    run(bare, "gpu_train.py", "--data", str(tmp_path), "--tiny", "--minutes", "0.05", "--to", str(out))
    found = json.loads((out / "gpu_train.json").read_text())
    for name in ("sngan", "biggan"):
        assert found[name]["images"] >= 64 and found[name]["frechet_pixels"] > found["real"]["frechet_pixels"] > 0
        assert torch.load(out / f"{name}.pt", weights_only=True)
        assert (out / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_picture_is_what_was_given(tmp_path: Path) -> None:
    from PIL import Image

    sys.path.insert(0, str(BENCH))
    import bare as script

    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    script.write_png(tmp_path / "x.png", images, columns=3)
    with Image.open(tmp_path / "x.png") as opened:
        found = np.asarray(opened)
    assert found.shape == (10, 12, 3)
    assert (found[5:, 8:] == images[5]).all() and (found[:5, :4] == images[0]).all()
