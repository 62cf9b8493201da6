"""Gloo processes of this machine, of one thread each, that train together without Ray: for benchmarks of the loop."""

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.core import batch_norm
from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.loop import fit
from pipeline.core.method import Method
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World


def together(size: int, function: Callable[..., None], *arguments: Any) -> None:
    """``function(world, *arguments)`` in ``size`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_joined, args=(size, folder, function, arguments), nprocs=size)


def _joined(rank: int, size: int, folder: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    function(World.current(torch.device("cpu")), *arguments)
    dist.destroy_process_group()


def endless(
    method: Method, spec: ImageSpec, world: World, batch: int, shard: bool = False
) -> tuple[State, Iterator[object]]:
    """A state, and the turns that move it: one global ``batch`` of noise again and again."""
    state = State.fresh(method, spec, 0, world.device)
    batch_norm.synchronize(state.nets, world)
    if shard:
        state.shard(world)
    noise = Noise(0, torch.arange(batch // world.size) + world.rank * batch // world.size)
    images = noise.uniform("images", spec.channels, spec.size, spec.size) * 2 - 1
    one = Batch(images=images, labels=noise.ids % max(spec.classes, 1), noise=noise)
    return state, fit(method, state, repeat(one), world, seed=0, total=10**9, ema_half_life=1000)
