"""A checkpoint is complete or absent; a damaged one is passed over, and it is said."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.storage.checkpoint import Budgets, Checkpoints


def saved(folder: Path, *seens: int, key: str = "key") -> Checkpoints:
    store = Checkpoints(folder, key)
    for seen in seens:
        store.save(
            seen, {"state": {"x": torch.full((3,), float(seen))}, "history": [{"seen": seen, "values": {}}]}, Budgets()
        )
    return store


def state_file(folder: Path, seen: int) -> Path:
    return folder / "checkpoints" / f"{seen:012d}" / "state.pt"


def test_the_newest_is_loaded_as_it_was_saved_and_two_are_kept(tmp_path: Path) -> None:
    store = saved(tmp_path, 100, 200, 1000)
    assert store.newest() == 1000
    assert torch.equal(store.load(1000, torch.device("cpu"))["state"]["x"], torch.full((3,), 1000.0))
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [200, 1000]


def test_none_where_nothing_was_saved(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, "key").newest() is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "gone", "no manifest", "half a manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = saved(tmp_path, 100, 200)
    file = state_file(tmp_path, 200)
    content = bytearray(file.read_bytes())
    manifest = file.with_name("manifest.json")
    if damage == "truncated":
        file.write_bytes(content[:-10])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "gone":
        file.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    assert store.newest() == 100
    assert "taking the checkpoint before it" in caplog.text


def test_another_runs_checkpoint_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 100, key="other")
    assert Checkpoints(tmp_path, "key").newest() is None
    assert "another run" in caplog.text


def test_a_crash_while_writing_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path, 100)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError, match="space"):
        saved(tmp_path, 200)
    monkeypatch.undo()
    assert store.newest() == 100
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"{100:012d}"]


@pytest.mark.parametrize(
    ("existing", "seen", "ends", "until", "gone"),
    [
        ([100, 200, 300], 300, [], 1000, [100]),
        ([100, 200, 300, 400], 400, [200], 1000, [100]),  # 200 is a result
        ([100, 200, 300, 400], 200, [], 1000, [300, 400]),  # refused, as training resumed before them
        ([100, 200, 300, 400], 200, [], 300, [300]),  # 400 is of a larger budget
        ([100, 200, 300, 400], 200, [400], 1000, [300, 400]),
        ([100], 100, [100], 100, []),
    ],
)
def test_what_is_kept(existing: list[int], seen: int, ends: list[int], until: int, gone: list[int]) -> None:
    """Two of this training, every end of a budget up to here, and whatever lies beyond its own end."""
    assert Budgets(until=until, ended=ends).outdated(existing, seen) == set(gone)
