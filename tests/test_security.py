"""What SECURITY.md says: nothing runs code that it reads, nothing leaves its folder, nothing listens to the world."""

import ast
import io
import os
import pickle
import stat
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import ROOT, origin

from pipeline import __main__ as command
from pipeline.files import sha256_of, write_json
from pipeline.ingest import archives
from pipeline.ingest.normalize import Normalization, normalize
from pipeline.ingest.shards import Work
from pipeline.ingest.sources import image_folder
from pipeline.storage.checkpoint import Checkpoints, name_of

PIPELINE = Path(__file__).parent.parent / "pipeline"


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.marker}",)


def test_a_checkpoint_that_would_run_code_is_refused_even_with_the_right_hash(tmp_path: Path) -> None:
    checkpoints, marker = Checkpoints(tmp_path, "key"), tmp_path / "marker"
    folder = tmp_path / name_of(5)
    folder.mkdir(parents=True)
    torch.save({"state": Evil(marker)}, folder / "state.pt")
    manifest = {"key": "key", "seen": 5, "files": {"state.pt": sha256_of(folder / "state.pt")}}
    write_json(folder / "manifest.json", manifest)
    assert checkpoints.newest() == 5
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.load(5, torch.device("cpu"))
    assert not marker.exists()
    torch.load(folder / "state.pt", weights_only=False)  # the file is as evil as this test believes
    assert marker.exists()


def test_no_module_unpickles_and_torch_loads_weights_only() -> None:
    """Of this package's code; torchvision unpickles CIFAR-10, after its md5 (ingest/test_sources.py)."""
    for path in PIPELINE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        dangerous = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & names
        assert not dangerous, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            text = ast.unparse(call)
            if text.startswith("torch.load("):
                assert "weights_only=True" in text, f"{path}: {text}"
            if ".load(" in text and text.startswith("np."):
                assert "allow_pickle=False" in text, f"{path}: {text}"
            assert not text.startswith(("eval(", "exec(", "os.system(", "yaml.load(")), f"{path}: {text}"


def png(value: int = 9) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


def into(folder: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A zip archive of those members and symbolic links."""
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, target)
    return path


def normalized(tmp_path: Path, archive: Path) -> Counter[str]:
    """Takes the images in; returns what was left out."""
    (tmp_path / "raw").mkdir()
    where = origin(tmp_path, path=archive)
    image_folder.SOURCE.download(where, tmp_path / "raw")
    with image_folder.SOURCE.open(tmp_path / "raw", where) as dataset:
        work = Work(folder=tmp_path / "work", identity="")
        normalize(
            dataset, tmp_path / "out" / "data", tmp_path / "out" / "images", Normalization(channels=1, size=8),
            source="x", test_fraction=0.5, most_bad=0.5, work=work,
        )  # fmt: skip
        return Counter(one.kind for one in dataset.left_out)


def test_a_member_that_points_outside_writes_nothing_there(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    members = {f"cats/{k}.png": png(k) for k in range(4)}
    archive = into(inner, members | {"../../cats/out.png": png(), "/cats/root.png": png()})
    before = {path for path in tmp_path.rglob("*") if inner not in path.parents and path != inner}
    normalized(inner, archive)
    assert {path for path in tmp_path.rglob("*") if inner not in path.parents and path != inner} == before
    assert not Path("/cats").exists()


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 200).save(tmp_path / "secret.png")
    members = {f"cats/{k}.png": png(k) for k in range(4)}
    left_out = normalized(tmp_path, into(tmp_path, members, {"cats/link.png": str(tmp_path / "secret.png")}))
    assert left_out == {"link in the archive": 1}
    images = [np.load(file, allow_pickle=False) for file in (tmp_path / "out" / "data").glob("*-images-*.npy")]
    assert max(int(array.max()) for array in images) < 200


def test_a_bomb_in_an_archive_is_left_out_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 2**20)
    archive = into(tmp_path, {f"cats/{k}.png": png(k) for k in range(4)} | {"cats/bomb.png": bytes(2**24)})
    assert archive.stat().st_size < 2**16
    assert normalized(tmp_path, archive) == {"too large": 1}


def test_the_pages_listen_on_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    started: list[list[str]] = []
    monkeypatch.setattr(command.os, "execv", lambda file, arguments: started.append(arguments))
    command.ui(port=5987)
    (arguments,) = started
    assert arguments[0] == sys.executable and arguments[arguments.index("--host") + 1] == "127.0.0.1"
