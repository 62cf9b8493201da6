"""Training whose optimizer state is sharded: through snapshots, checkpoints, stops, and changes of who trains.

That every method trains the same, sharded or not, is in tests/methods/test_methods.py.
"""

import copy
import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from toy_data import gloo_rank
from toy_job import job, trained_here, weights

from pipeline.core import sharding
from pipeline.core import world as core_world
from pipeline.core.world import World
from pipeline.families.penalties import gradient_penalty
from pipeline.training.trainer import Job, train

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
MAKERS: dict[str, Make] = {
    "adam": lambda parameters: Adam(parameters, lr=1e-3, fused=True),
    "adamw": lambda parameters: AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True),
    "sgd": lambda parameters: SGD(parameters, lr=1e-2, fused=True),
    "momentum": lambda parameters: SGD(parameters, lr=1e-2, momentum=0.9, weight_decay=1e-3, fused=True),
    "rmsprop": lambda parameters: RMSprop(parameters, lr=1e-3, momentum=0.5, foreach=True),
}


def test_one_process_has_nothing_to_shard(tmp_path: Path) -> None:
    whole, sharded = job(tmp_path), replace(job(tmp_path), store=str(tmp_path / "sharded"), shard=True)
    one, other = trained_here(whole), trained_here(sharded)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks have left their trainings, having made all comparisons of `_rank`."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, args=(2, str(folder)), nprocs=2)
    return folder


def test_a_sharded_training_stops_resumes_and_changes_hands(two_ranks: Path) -> None:
    """Two processes go through; two stop half-way, and two go on, or one that is not sharded, from their files; and
    two sharded ones from the file of one that is not."""
    through, resumed, whole = (weights(_job(two_ranks, name)) for name in ("through", "stopped", "whole"))
    assert all(torch.equal(through[key], resumed[key]) for key in through)
    assert all(torch.equal(through[key], whole[key]) for key in through)
    pictures = [sorted(_job(two_ranks, name).snapshots.iterdir()) for name in ("through", "stopped")]
    assert [path.name for path in pictures[0]] == ["000000000.png", "000000128.png", "000000256.png"]
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]]
    alone = trained_here(_job(two_ranks, "handed"))  # from where two sharded processes stopped
    assert _job(two_ranks, "handed").checkpoints.load(256, torch.device("cpu"))["worlds"] == [(0, 2), (128, 1)]
    for other in (alone, weights(_job(two_ranks, "taken"))):
        for key in through:
            torch.testing.assert_close(other[key], through[key], rtol=1e-3, atol=2e-6)


def _job(folder: Path, name: str) -> Job:
    made = job(folder, optimizer="sgd", lr=1e-2)
    return replace(made, store=str(folder / name), shard=True, run=replace(made.run, snapshot_every=128))


def _rank(rank: int, size: int, folder: str) -> None:
    core_world.BUCKET = 1000  # several buckets, small as the nets are
    path = Path(folder)
    if rank == 0:
        train(replace(_job(path, "taken"), shard=False), World(), lambda rows: None, _after(128))
    with gloo_rank(rank, size, path) as world:
        train(_job(path, "through"), world, lambda rows: None)
        train(replace(_job(path, "whole"), shard=False), world, lambda rows: None)
        train(_job(path, "stopped"), world, lambda rows: None, _after(128))
        train(_job(path, "stopped"), world, lambda rows: None)
        train(_job(path, "handed"), world, lambda rows: None, _after(128))
        train(_job(path, "taken"), world, lambda rows: None)
        for make in MAKERS.values():
            _steps_and_checkpoints_are_those_of_the_plain_optimizer(make, world)
        _a_checkpoint_leaves_nothing_behind(world)
        _more_ranks_than_parameters()
        _step_counters_are_where_fused_kernels_read_them()
        for penalty_first in (False, True):
            _every_gradient_is_that_of_one_process(world, penalty_first)


def _after(images: int, log_every: int = 64) -> Callable[[], bool]:
    """A request to stop at the log window that ends there."""
    windows = iter(range(log_every, 10**6, log_every))
    return lambda: next(windows) >= images


class Critic(nn.Module):
    """Weights in channels-last memory, a scalar, and a parameter that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(7, 6, 3, padding=1)
        self.three, self.scale = nn.ConvTranspose2d(6, 5, 4, 2, 1), nn.Parameter(torch.tensor(0.7))
        self.unused = nn.Parameter(torch.ones(33))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        hidden = nn.functional.softplus(self.two(nn.functional.softplus(self.one(images))))
        return self.scale * self.three(hidden).square().mean((1, 2, 3))[:, None]


def _critic() -> Critic:
    torch.manual_seed(0)
    return Critic()


def _images(rank: int, seed: int = 0, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(100 * seed + rank))


def _step(critic: Critic, optimizer: Optimizer, world: World, number: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * (1 + number)
        if "betas" in group:
            group["betas"] = (0.5 + 0.01 * number, 0.99)
    optimizer.zero_grad(set_to_none=True)
    with world.averaging(critic.parameters()):
        critic(_images(world.rank, number)).mean().backward()
    optimizer.step()


def _steps_and_checkpoints_are_those_of_the_plain_optimizer(make: Make, world: World) -> None:
    """Bit-equal weights, memory layout, and state, after settings that change at each step; from a sharded optimizer
    to a plain one, and back."""
    critics = [_critic() for _ in range(4)]
    plain, sharded = make(critics[0].parameters()), sharding.shard(make, critics[1].parameters())
    for number in range(3):
        _step(critics[0], plain, world, number)
        _step(critics[1], sharded, world, number)
    found = [sharding.gather_state(sharded)]
    assert world.rank == 0 or found == [{}]
    dist.broadcast_object_list(found, src=0)
    assert _same(found[0], plain.state_dict())
    into_plain, into_sharded = make(critics[2].parameters()), sharding.shard(make, critics[3].parameters())
    for critic, optimizer in zip(critics[2:], (into_plain, into_sharded), strict=True):
        critic.load_state_dict(critics[0].state_dict())
        saved = copy.deepcopy(found[0])
        sharding.load_state(optimizer, saved)
        assert _same(saved, found[0]), "loading has changed what it was given"
    for number in range(3, 6):
        for critic, optimizer in zip(critics, (plain, sharded, into_plain, into_sharded), strict=True):
            _step(critic, optimizer, world, number)
    for critic in critics[1:]:
        assert _same(dict(critic.named_parameters()), dict(critics[0].named_parameters()))
    if plain.state:
        kept, whole = _elements(sharded.optim), _elements(plain)
        assert _elements(sharded) == 0
        assert 0.3 * whole < kept < 0.7 * whole


def _same(one: Any, other: Any) -> bool:
    """Equal to the bit, in the order of keys and of elements in memory."""
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.stride() == other.stride() and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _elements(optimizer: Optimizer) -> int:
    return sum(v.numel() for slots in optimizer.state.values() for v in slots.values() if isinstance(v, Tensor))


def _held() -> int:
    """Bytes of all tensors of this process, each memory counted once."""
    gc.collect()
    storages = {
        thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
        for thing in gc.get_objects()
        if type(thing) in (Tensor, nn.Parameter)
    }
    return sum(storages.values())


def _a_checkpoint_leaves_nothing_behind(world: World) -> None:
    critic = _critic()
    optimizer = sharding.shard(MAKERS["adam"], critic.parameters())
    _step(critic, optimizer, world, 0)
    before = _held()
    state = sharding.gather_state(optimizer)
    during = _held()
    assert during > before if world.rank == 0 else during == before
    del state
    assert _held() == before


def _more_ranks_than_parameters() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = sharding.shard(MAKERS["adam"], [parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 1.0 - 1e-3))
    state = sharding.gather_state(optimizer)
    assert dist.get_rank() != 0 or list(state["state"]) == [0]


def _step_counters_are_where_fused_kernels_read_them() -> None:
    """On a GPU; fake tensors have its rules of placement, and no memory."""
    groups = MAKERS["adam"]([nn.Parameter(torch.ones(3)) for _ in range(2)]).state_dict()["param_groups"]
    with FakeTensorMode():
        pair = [nn.Parameter(torch.empty(3, device="cuda")) for _ in range(2)]
        optimizer = sharding.shard(MAKERS["adam"], pair)
        saved = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
        sharding.load_state(optimizer, {"state": {0: dict(saved), 1: dict(saved)}, "param_groups": groups})
        (slots,) = optimizer.optim.state.values()
        assert {name: value.device.type for name, value in slots.items()} == dict.fromkeys(saved, "cuda")


def _every_gradient_is_that_of_one_process(world: World, penalty_first: bool) -> None:
    """Scores and a penalty's double backward in one loss, in both orders: the ranks' averaged gradients are those of
    the concatenated batch, and a step with sharded state is the plain one."""

    def loss(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
        terms = [
            lambda: nn.functional.softplus(critic(fake) - critic(real)).mean(),
            lambda: gradient_penalty(critic, real, fake, torch.full((len(real), 1, 1, 1), 0.3)),
        ]
        one, other = (terms[number]() for number in ((1, 0) if penalty_first else (0, 1)))
        return one + other

    alone, critic = _critic(), _critic()
    loss(alone, *(torch.cat([_images(rank, seed) for rank in range(world.size)]) for seed in (1, 2))).backward()
    with world.averaging(critic.parameters()):
        loss(critic, _images(world.rank, 1), _images(world.rank, 2)).backward()
    pairs = list(zip(critic.named_parameters(), alone.parameters(), strict=True))
    for (name, parameter), whole in pairs:
        assert (parameter.grad is None) == (whole.grad is None) == (name == "unused"), name
        if parameter.grad is not None:
            assert parameter.grad.abs().max() > 1e-4, name
            torch.testing.assert_close(parameter.grad, whole.grad, rtol=1e-4, atol=1e-7, msg=name)
    plain = copy.deepcopy(critic)
    for (_, parameter), copied in zip(critic.named_parameters(), plain.parameters(), strict=True):
        copied.grad = None if parameter.grad is None else parameter.grad.clone()
    sharding.shard(MAKERS["adam"], critic.parameters()).step()
    MAKERS["adam"](plain.parameters()).step()
    assert _same(dict(critic.named_parameters()), dict(plain.named_parameters()))
