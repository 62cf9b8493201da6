"""CycleGAN: two domains, the pool of images, the terms of its losses."""

import pytest
import torch
from torch import Tensor, nn
from toy_data import toy_batch, toy_split

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.data.dataset import Dataset, domains
from pipeline.nets.patch import ImagePool, PatchCritic

CLOCK = Clock(seen=0, total=100)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3), keepdim=True)


def known_nets(pool: int = 0) -> nn.ModuleDict:
    """G doubles, F halves, critics give the mean."""
    nets = {"a_to_b": Scaled(2.0), "b_to_a": Scaled(0.5), "critic_a": Mean(), "critic_b": Mean()}
    return nn.ModuleDict(nets | {f"pool_{name}": ImagePool(pool, 1, 4) for name in "ab"})


def constant(a: float, b: float, count: int = 3) -> Batch:
    shape = (count, 1, 4, 4)
    ids = torch.arange(count)
    return Batch(images=torch.full(shape, a), other=torch.full(shape, b), labels=ids * 0, noise=Noise(0, ids))


def test_the_terms_have_their_closed_forms() -> None:
    method = methods.load("cyclegan", cycle=10.0, identity=0.5)
    generators, critics = method.phases()
    a, b = 0.25, 0.5
    loss, terms = generators.loss(known_nets(), constant(a, b), CLOCK)
    expected = {
        "fooling_a": (2 * a - 1) ** 2,
        "fooling_b": (0.5 * b - 1) ** 2,
        "cycle_a": 0.0,
        "cycle_b": 0.0,
        "identity_a": 5 * abs(0.5 * a - a),
        "identity_b": 5 * abs(2 * b - b),
    }
    assert {key: float(value) for key, value in terms.items()} == pytest.approx(expected, abs=1e-6)
    assert float(loss) == pytest.approx(sum(expected.values()), abs=1e-6)
    _, terms = critics.loss(known_nets(), constant(a, b), CLOCK)
    expected = {"a": 0.5 * ((a - 1) ** 2 + (0.5 * b) ** 2), "b": 0.5 * ((b - 1) ** 2 + (2 * a) ** 2)}
    assert {key: float(value) for key, value in terms.items()} == pytest.approx(expected, abs=1e-6)


def test_the_pool_fills_then_shows_earlier_images_and_takes_the_new_ones_in_their_place() -> None:
    pool, world = ImagePool(6, 1, 1), World()
    shown: list[float] = []
    held: set[float] = set()
    for turn in range(40):
        made = torch.arange(4 * turn, 4 * turn + 4).float().view(4, 1, 1, 1)
        found = pool(made, Noise(0, torch.arange(4 * turn, 4 * turn + 4)))
        if turn < 2:
            assert torch.equal(found, made)
        for before, after in zip(made.flatten().tolist(), found.flatten().tolist(), strict=True):
            assert after == before or after in held
        pool.absorb(world)
        held = set(pool.images.flatten().tolist())
        shown += found.flatten().tolist()
    assert int(pool.filled) == 6
    old = sum(value < 4 * (number // 4) for number, value in enumerate(shown))
    assert 40 < old < 110  # about half of the 152 after the filling
    assert len(shown) - len(set(shown)) <= 6, "only those that filled the pool are shown a second time"


def test_a_pool_of_none_shows_what_it_gets() -> None:
    pool, batch = ImagePool(0, 1, 16), toy_batch()
    assert torch.equal(pool(batch.images, batch.noise), batch.images)
    pool.absorb(World())


@pytest.mark.parametrize(("steps", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_has_the_size_it_is_named_by(steps: int, field: int) -> None:
    critic = PatchCritic(channels=1, size=128, width=4, steps=steps, norm_name="none")
    images = torch.randn(1, 1, 128, 128, requires_grad=True)
    scores = critic(images)
    middle = scores.shape[-1] // 2
    (gradient,) = torch.autograd.grad(scores[0, 0, middle, middle], images)
    rows = gradient[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == field


def test_a_second_domain_is_said_to_be_missing() -> None:
    method = methods.load("cyclegan", width=4, blocks=0)
    nets = method.build(ImageSpec(channels=1, size=16))
    batch = constant(0.0, 0.0)
    with pytest.raises(ValueError, match="second domain"):
        method.phases()[0].loss(nets, Batch(images=batch.images, labels=batch.labels, noise=batch.noise), CLOCK)


def test_domains_are_two_classes_of_the_data() -> None:
    split = toy_split(40)
    spec = ImageSpec(channels=1, size=16, classes=10)
    info = {"classes": [f"c{k}" for k in range(10)], "digest": "d"}
    first, second = domains(Dataset(spec=spec, info=info, splits={"train": split}), ("c3", "c7"), {})
    assert second is not None
    for dataset, label in ((first, 3), (second, 7)):
        part = dataset.splits["train"]
        assert len(part) == 4 and set(part.labels.tolist()) == {label}
        rows = [k for k in range(40) if split.labels[k] == label]
        assert torch.equal(part.images([0, 3]), split.images([rows[0], rows[3]]))
