"""Training with a share of the state per process: through snapshots, checkpoints, stops, and changes of who trains.

That every method trains alike, sharded or not, is in test_methods.py. Gloo can do all that sharding asks of it
(all_gather_into_tensor, reduce_scatter_tensor), but reduces and scatters by an all-reduce whose rest it drops: what
NCCL saves in traffic there is not seen here.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.multiprocessing as mp
from conftest import gloo_rank
from torch import nn
from toy_job import job, trained_here, weights

from pipeline.core import shard
from pipeline.core.shard import Shards
from pipeline.core.world import World
from pipeline.training.job import Job
from pipeline.training.trainer import train


def test_one_process_has_nothing_to_share(tmp_path: Path) -> None:
    whole, sharded = job(tmp_path), replace(job(tmp_path), store=str(tmp_path / "sharded"), shard=True)
    one, other = trained_here(whole), trained_here(sharded)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_sharded_training_stops_resumes_and_changes_hands(tmp_path: Path) -> None:
    """Two processes go through; two stop half-way, and two go on, or one that is not sharded, from their files; and
    two sharded ones from the file of one that is not."""
    mp.spawn(_rank, args=(2, str(tmp_path)), nprocs=2)
    through, resumed = (weights(_job(tmp_path, name)) for name in ("through", "stopped"))
    assert all(torch.equal(through[key], resumed[key]) for key in through)
    pictures = [sorted(_job(tmp_path, name).snapshots.iterdir()) for name in ("through", "stopped")]
    assert [path.name for path in pictures[0]] == ["000000000.png", "000000128.png", "000000256.png"]
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]]
    alone = trained_here(_job(tmp_path, "handed"))  # from where two sharded processes stopped
    assert _job(tmp_path, "handed").checkpoints.load(256, torch.device("cpu"))["worlds"] == [(0, 2), (128, 1)]
    for other in (alone, weights(_job(tmp_path, "taken"))):
        for key in through:
            torch.testing.assert_close(other[key], through[key], rtol=1e-3, atol=2e-6)


def _job(folder: Path, name: str) -> Job:
    made = job(folder, optimizer="sgd", lr=1e-2)
    return replace(made, store=str(folder / name), shard=True, run=replace(made.run, snapshot_every=128))


def _rank(rank: int, size: int, folder: str) -> None:
    shard.BUCKET = 1000
    path = Path(folder)
    if rank == 0:
        train(replace(_job(path, "taken"), shard=False), World(), lambda rows: None, _after(128))
    with gloo_rank(rank, size, path) as world:
        train(_job(path, "through"), world, lambda rows: None)
        train(_job(path, "stopped"), world, lambda rows: None, _after(128))
        train(_job(path, "stopped"), world, lambda rows: None)
        train(_job(path, "handed"), world, lambda rows: None, _after(128))
        train(_job(path, "taken"), world, lambda rows: None)
        _layouts(world)


def _after(images: int, log_every: int = 64) -> Callable[[], bool]:
    """A request to stop at the log window that ends there."""
    windows = iter(range(log_every, 10**6, log_every))
    return lambda: next(windows) >= images


def _layouts(world: World) -> None:
    """Of any size and order in memory, a parameter comes back as it was, with what was done to it while whole."""
    net = nn.Module()
    for number, tensor in enumerate(
        (torch.randn(()), torch.randn(1), torch.randn(3, 5).t(), torch.randn(7, 3, 2, 2), torch.randn(40, 60))
    ):
        value = tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        net.register_parameter(
            str(number), nn.Parameter(value * 0 + number + torch.arange(value.numel()).view_as(value))
        )
    before = [(p.detach().clone(), p.stride()) for p in net.parameters()]
    shards = Shards(net.parameters(), world)
    assert [len(p) for p in net.parameters()] == [-(-value.numel() // 2) for value, _ in before]
    with shards.whole([net]), torch.no_grad():
        for p, (value, stride) in zip(net.parameters(), before, strict=True):
            assert torch.equal(p, value) and p.stride() == stride
            p.mul_(2)
    with shards.whole([net]):
        assert all(torch.equal(p, 2 * value) for p, (value, _) in zip(net.parameters(), before, strict=True))
        sum((p * p).sum() * (world.rank + 1) for p in net.parameters()).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]  # 2 p, times 1 and 2: on average 3 p = 6 value
    expected = torch.linalg.vector_norm(torch.cat([6 * value.flatten() for value, _ in before]))
    torch.testing.assert_close(shards.norm(gradients), expected)
