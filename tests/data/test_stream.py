"""Laws of the stream: every image once an epoch, another order each epoch, the same for any world and resume."""

from collections.abc import Callable
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toy_data import toy_split

from pipeline.core.world import World
from pipeline.data.augmentation import Augmentation
from pipeline.data.dataset import Split
from pipeline.data.stream import AHEAD, batches

COUNT, BATCH = 48, 12


def rows_of(world: World, steps: int, start: int = 0, seed: int = 0) -> list[list[int]]:
    """Which images came, by their content."""
    split = toy_split(COUNT)
    known = {split.images([row]).numpy().tobytes(): row for row in range(COUNT)}
    stream = islice(batches(split, seed=seed, batch_size=BATCH, world=world, start=start), steps)
    found = []
    for batch in stream:
        pixels = batch.images.add(1).mul(127.5).round().to(torch.uint8)
        found.append([known[image[None].contiguous().numpy().tobytes()] for image in pixels])
    return found


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order() -> None:
    steps = rows_of(World(), 8)
    first, second = list(chain(*steps[:4])), list(chain(*steps[4:]))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second and first != sorted(first)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_union_over_ranks_is_the_batch_of_one_process(size: int) -> None:
    whole = rows_of(World(), 6)
    ranks = [rows_of(World(rank=rank, size=size), 6) for rank in range(size)]
    assert [list(chain(*(rank[step] for rank in ranks))) for step in range(6)] == whole


def test_a_stream_that_starts_later_is_the_rest_of_the_stream() -> None:
    assert rows_of(World(), 4, start=BATCH * 3) == rows_of(World(), 7)[3:]


def test_a_batch_may_straddle_epochs() -> None:
    positions = rows_of(World(), 9, start=COUNT - 6)
    assert sorted(positions[0][:6] + list(chain(*rows_of(World(), 3))) + rows_of(World(), 4)[3][:6]) == list(
        range(COUNT)
    )


def test_the_seed_decides_the_order() -> None:
    assert rows_of(World(), 4, seed=1) != rows_of(World(), 4, seed=0) == rows_of(World(), 4, seed=0)


def test_noise_and_labels_follow_the_images() -> None:
    split = toy_split(COUNT)
    one = next(batches(split, seed=0, batch_size=BATCH, world=World()))
    halves = [next(batches(split, seed=0, batch_size=BATCH, world=World(rank=r, size=2))) for r in range(2)]
    assert torch.equal(one.noise.ids, torch.cat([half.noise.ids for half in halves]))
    assert torch.equal(one.labels, torch.cat([half.labels for half in halves]))
    torch.testing.assert_close(one.noise.normal("z", 3), torch.cat([half.noise.normal("z", 3) for half in halves]))


def test_images_are_exactly_in_range_and_channels_last() -> None:
    batch = next(batches(toy_split(COUNT, channels=3), seed=0, batch_size=BATCH, world=World()))
    assert batch.images.shape == (BATCH, 3, 16, 16) and batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.min() >= -1 and batch.images.max() <= 1


def test_an_unequal_share_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        next(batches(toy_split(COUNT), seed=0, batch_size=10, world=World(rank=0, size=4)))


def test_rows_cross_shards_in_the_order_asked_for() -> None:
    split = toy_split(COUNT)
    wanted = [40, 3, 16, 15, 47, 0]
    together = split.images(wanted)
    for position, row in enumerate(wanted):
        assert torch.equal(together[position], split.images([row])[0])
    assert np.array_equal(split.labels_of(wanted).numpy(), np.array(wanted) % 10)


def test_a_second_domain_is_shuffled_by_itself_and_joined_by_any_world() -> None:
    split, other = toy_split(COUNT), toy_split(20)
    whole = list(islice(batches(split, seed=0, batch_size=BATCH, world=World(), other=other), 5))
    shown = [batch.other for batch in whole]
    assert all(second is not None and second.shape == whole[0].images.shape for second in shown)
    for rank in range(2):
        world = World(rank=rank, size=2)
        part = next(batches(split, seed=0, batch_size=BATCH, world=world, other=other))
        assert shown[0] is not None and part.other is not None
        assert torch.equal(part.other, shown[0][6 * rank : 6 * rank + 6])
    first = torch.cat([second for second in shown if second is not None])[:20]
    assert len({image.numpy().tobytes() for image in first}) == 20  # each once an epoch


def test_augmentation_belongs_to_the_sample_not_to_the_batch() -> None:
    augment = Augmentation(flip=True, crop=2)
    whole = next(batches(toy_split(COUNT), seed=0, batch_size=12, world=World(), augment=augment))
    late = next(batches(toy_split(COUNT), seed=0, batch_size=6, world=World(), augment=augment, start=6))
    assert torch.equal(whole.images[6:], late.images)
    plain = next(batches(toy_split(COUNT), seed=0, batch_size=12, world=World()))
    assert not torch.equal(plain.images, whole.images)


def test_images_that_have_a_long_way_are_asked_for_before_they_are_needed() -> None:
    near, events = toy_split(COUNT), list[str]()

    class Far:
        def prefetch(self, rows: NDArray[np.int64]) -> Callable[[], NDArray[np.uint8]]:
            events.append("asked")
            wait = near.store.prefetch(rows)

            def arrive() -> NDArray[np.uint8]:
                events.append("needed")
                return wait()

            return arrive

    far = Split(Far(), near.labels)
    here, there = (batches(split, seed=0, batch_size=BATCH, world=World()) for split in (near, far))
    for expected, found in islice(zip(here, there, strict=True), 3 * COUNT // BATCH):
        assert torch.equal(expected.images, found.images) and torch.equal(expected.labels, found.labels)
    assert events.index("needed") == AHEAD + 1
    assert events[AHEAD + 1 :][::2] == ["needed"] * (3 * COUNT // BATCH)


def negative(images: torch.Tensor) -> torch.Tensor:
    return 255 - images


@pytest.mark.parametrize("augment", [Augmentation(), Augmentation(flip=True, crop=3)], ids=["plain", "augmented"])
def test_pairs_stay_together_in_any_world_and_after_a_resume(augment: Augmentation) -> None:
    split = toy_split(COUNT, channels=3)
    plan: dict[str, Any] = {"seed": 0, "other": split.seen_as(negative), "paired": True, "augment": augment}
    whole = list(islice(batches(split, batch_size=BATCH, world=World(), **plan), 9))
    alone = list(islice(batches(split, batch_size=BATCH, world=World(), seed=0, augment=augment), 9))
    for batch, without in zip(whole, alone, strict=True):
        assert batch.other is not None and torch.equal(batch.images, without.images), "the partner changes no image"
        torch.testing.assert_close(batch.other, -batch.images, rtol=0, atol=1e-6)
    for rank in range(2):
        parts = batches(split, batch_size=BATCH, world=World(rank=rank, size=2), start=3 * BATCH, **plan)
        for batch, part in zip(whole[3:], parts, strict=False):
            mine = slice(6 * rank, 6 * rank + 6)
            assert batch.other is not None and part.other is not None
            assert torch.equal(part.images, batch.images[mine]) and torch.equal(part.other, batch.other[mine])


def test_images_without_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="48 images and 20 partners are no pairs"):
        next(batches(toy_split(), seed=0, batch_size=BATCH, world=World(), other=toy_split(20), paired=True))
