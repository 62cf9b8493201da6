"""Images come to the device the same whichever way they take."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_data import toy_split

from pipeline.core.batch import ImageSpec
from pipeline.core.world import World
from pipeline.data import feed
from pipeline.data.dataset import ArrayStore, NewSplit, Split, ViewStore, open_dataset, write_dataset
from pipeline.data.feed import DeviceStore, Waiting, moved, on_device, size_of
from pipeline.data.stream import batches

CPU = torch.device("cpu")


def drawn(split: Split, other: Split | None = None, waiting: Waiting | None = None) -> torch.Tensor:
    stream = batches(split, seed=3, batch_size=8, world=World(0, 1), other=other, waiting=waiting)
    found = [next(stream) for _ in range(20)]
    return torch.stack([batch.images if other is None else torch.cat((batch.images, batch.other)) for batch in found])


def test_every_way_gives_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    split = toy_split(50, channels=3)
    whole = drawn(split, split)
    assert torch.equal(drawn(moved(split, CPU), moved(split, CPU)), whole)
    monkeypatch.setattr(feed, "READ_AHEAD", 1)
    assert torch.equal(drawn(split, split), whole), "read by a thread"


def test_a_class_alone_takes_only_its_own_images_along() -> None:
    split = toy_split(50).of_class(4)
    there = moved(split, CPU)
    assert isinstance(there.store, DeviceStore) and len(there.store.images) == len(split) == 5
    assert torch.equal(there.images(range(5)), split.images(range(5))) and torch.equal(drawn(there), drawn(split))


def test_only_what_fits_in_its_share_lies_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    split = toy_split(48)
    assert size_of(split) == 48 * 16 * 16
    asked: list[torch.device] = []
    monkeypatch.setattr(feed, "moved", lambda split, device: asked.append(device) or split)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 48 * 16 * 16, 10**9))
    gpu = torch.device("cuda", 0)
    assert on_device(split, CPU, 1.0) is split and not asked
    on_device(split, gpu, 0.24)
    assert not asked
    on_device(split, gpu, 0.26)
    assert asked == [gpu]
    on_device(Split(Elsewhere(), split.labels), gpu, 1.0)
    assert asked == [gpu], "images of another node stay there"


def test_a_view_is_computed_where_its_images_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    split = toy_split(48)
    seen = split.seen_as(lambda images: 255 - images)
    whole = drawn(seen, split)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 48 * 16 * 16, 10**9))
    monkeypatch.setattr(feed, "moved", lambda split, device: moved(split, CPU))
    there = on_device(seen, torch.device("cuda", 0), 0.5)
    assert isinstance(there.store, ViewStore) and isinstance(there.store.of, DeviceStore)
    assert torch.equal(drawn(there, split), whole) and size_of(seen) == size_of(split)
    monkeypatch.setattr(feed, "READ_AHEAD", 1)
    assert torch.equal(drawn(seen, split), whole), "read by a thread"


class Elsewhere:
    def prefetch(self, rows: np.ndarray) -> object:
        raise AssertionError("not asked")


def test_waiting_is_measured() -> None:
    waiting = Waiting(2.0)
    drawn(toy_split(48), waiting=waiting)
    assert 2.0 < waiting.seconds < 3.0


def test_a_thread_that_reads_ahead_ends_with_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(feed, "READ_AHEAD", 1)
    images = np.zeros((32, 8, 8, 1), dtype=np.uint8)
    spec = ImageSpec(channels=1, size=8, classes=1)
    train = NewSplit(labels=np.zeros(32, dtype=np.int64), blocks=[images])
    write_dataset(tmp_path / "d", source="x", spec=spec, classes=["x"], splits={"train": train})
    split = open_dataset(tmp_path / "d").splits["train"]
    assert isinstance(split.store, ArrayStore)
    before = threading.active_count()
    stream = batches(split, seed=0, batch_size=8, world=World(0, 1))
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
    assert threading.active_count() <= before
