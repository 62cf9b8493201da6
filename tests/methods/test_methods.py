"""One contract for every file of pipeline/methods: they are found, not listed."""

import copy
import io
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.optim import ZeroRedundancyOptimizer
from toy_data import gloo_rank, second_domain, toy_batch, toy_split

from pipeline import methods
from pipeline.core import batch_norm
from pipeline.core import world as core_world
from pipeline.core.batch import Clock, ImageSpec
from pipeline.core.loop import descend, fit
from pipeline.core.method import Method
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.stream import batches
from pipeline.inference.weights import load_weights, save_weights
from pipeline.training.trainer import sample

NAMES = methods.names()
BATCH = 8
CLOCK = Clock(seen=0, total=1000)


def made(name: str, **settings: Any) -> Method:
    """The method, small."""
    own = {field.name for field in fields(methods.find(name))}
    small = {"width": 8, "latent": 6, "categories": 3, "continuous": 1, "blocks": 1, "pool": 4, "levels": 2, "steps": 1}
    small |= {"codes": 16, "embedding": 8, "grid": 4, "transformer_width": 16, "layers": 1, "heads": 2, "test_draws": 3}
    small |= {"sampling_steps": 2, "likelihood_steps": 2, "pair_steps": 2, "times": 2}
    return methods.load(name, **{key: value for key, value in (small | settings).items() if key in own})


def fresh(method: Method, channels: int = 1, seed: int = 0) -> State:
    return State.fresh(method, ImageSpec(channels=channels, size=16, classes=10), seed, torch.device("cpu"))


def trained(method: Method, state: State, turns: int, world: World | None = None, channels: int = 1) -> State:
    """Runs that many turns from where the state is."""
    world = world or World()
    split = toy_split(channels=channels)
    second = second_domain(method, split, channels=channels)
    stream = batches(split, seed=0, batch_size=BATCH, world=world, start=state.seen, **second)
    for logs in islice(fit(method, state, stream, world, seed=0, total=10**6, ema_half_life=20.0), turns):
        state.logs = logs  # type: ignore[attr-defined]
    return state


def flat(state: State) -> dict[str, torch.Tensor]:
    """Every tensor of a state, by name."""
    found = {f"nets.{k}": v for k, v in state.nets.state_dict().items()}
    found |= {f"ema.{k}": v for k, v in state.ema.state_dict().items()}
    for name, optimizer in state.optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            found |= {f"optimizers.{name}.{index}.{k}": v for k, v in slots.items() if torch.is_tensor(v)}
    # Adam's step does not show a gradient of twice the size; its norm does.
    found |= {k: v for k, v in getattr(state, "logs", {}).items() if k.endswith("gradient_norm")}
    return {key: value.clone() for key, value in found.items()}


def test_methods_are_found() -> None:
    assert {"dcgan", "wgan_gp", "vae"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_phase_moves_exactly_the_nets_it_names(name: str) -> None:
    method = made(name)
    state = fresh(method)
    method.initialize(state.nets, toy_batch(), World())
    for phase in state.phases:
        before = copy.deepcopy(state.nets)
        descend(phase, state.nets, state.optimizers[phase.name], toy_batch(), CLOCK, World())
        for net, module in state.nets.items():
            moved = [
                not torch.equal(old, new)
                for old, new in zip(before[net].parameters(), module.parameters(), strict=True)
            ]
            assert any(moved) == (net in phase.trains), f"{phase.name} and {net}"


@pytest.mark.parametrize("name", NAMES)
def test_a_phases_backward_reaches_no_other_net(name: str) -> None:
    method = made(name)
    state = fresh(method)
    for phase in state.phases:
        for net, module in state.nets.items():
            module.requires_grad_(net in phase.trains)
        loss, _ = phase.loss(state.nets, toy_batch().stream(phase.name), CLOCK)
        loss.backward()
        for net, module in state.nets.items():
            reached = any(parameter.grad is not None for parameter in module.parameters())
            assert reached == (net in phase.trains), f"{phase.name} and {net}"
        state.nets.zero_grad(set_to_none=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_samples_on_one_and_three_channels(name: str, channels: int) -> None:
    method = made(name)
    state = trained(method, fresh(method, channels), 2, channels=channels)
    images = sample(method, state.averaged(), toy_batch(5, channels=channels))
    assert images.shape == (5, channels, 16, 16)
    assert images.min() >= -1 and images.max() <= 1 and images.std() > 0


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("name", NAMES)
def test_larger_images_train_and_are_sampled(name: str, size: int) -> None:
    method = made(name)
    state = State.fresh(method, ImageSpec(channels=3, size=size, classes=10), 0, torch.device("cpu"))
    batch = toy_batch(2, channels=3, size=size)
    method.initialize(state.nets, batch, World())
    for phase in state.phases:
        logs = descend(phase, state.nets, state.optimizers[phase.name], batch, CLOCK, World())
        assert all(value.isfinite() for value in logs.values()), logs
    assert sample(method, state.nets, batch).shape == (2, 3, size, size)


@pytest.mark.parametrize("name", NAMES)
def test_sampling_depends_on_the_seed_alone(name: str) -> None:
    method = made(name)
    nets = trained(method, fresh(method), 3).nets
    whole = sample(method, nets.train(), toy_batch(10))
    parts = torch.cat([sample(method, nets.eval(), toy_batch(n, first=k)) for n, k in ((3, 0), (6, 3), (1, 9))])
    scale = float(whole.std())  # barely trained nets sample faint images
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4 * scale)
    assert (whole - sample(method, nets, toy_batch(10, seed=1))).abs().mean() > 0.1 * scale


@pytest.mark.parametrize("name", NAMES)
def test_a_resume_is_bit_equal(name: str) -> None:
    method = made(name)
    through = flat(trained(method, fresh(method), 6))
    first = trained(method, fresh(method), 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    torch.rand(7)  # a fresh process has another generator state
    second = fresh(method, seed=99)
    second.load_state_dict(torch.load(file, weights_only=True))
    resumed = flat(trained(method, second, 3))
    assert through.keys() == resumed.keys()
    assert all(torch.equal(through[key], resumed[key]) for key in through)


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_are_bit_equal_and_other_seeds_differ(name: str) -> None:
    method = made(name)
    one, two = (flat(trained(method, fresh(method, seed=s), 2)) for s in (0, 0))
    other = flat(trained(method, fresh(method, seed=1), 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_weights_round_trip(name: str, tmp_path: Path) -> None:
    method = made(name)
    state = trained(method, fresh(method), 4)
    spec = ImageSpec(channels=1, size=16, classes=10)
    params = {field.name: getattr(method, field.name) for field in fields(method)}
    path = tmp_path / "weights.safetensors"
    save_weights(path, name=name, params=params, spec=spec, seen=state.seen, nets=state.nets, ema=state.ema)
    loaded = load_weights(path)
    assert (loaded.method, loaded.spec, loaded.seen) == (method, spec, 4 * BATCH * _draws(method))
    expected = sample(method, state.averaged(), toy_batch(4))
    published = dict(state.nets.state_dict()) | dict(state.ema.state_dict())
    assert all(torch.equal(published[key], value) for key, value in loaded.nets.state_dict().items())
    # the loaded weights lie otherwise in memory, so a convolution adds up in another order
    torch.testing.assert_close(sample(method, loaded.nets, toy_batch(4)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_average_is_the_net_at_half_life_zero_buffers_included(name: str) -> None:
    method = made(name)
    state = trained(method, fresh(method), 3)
    state.update_average(BATCH, half_life=0.0)
    for net in method.sampled:
        new, mean = state.nets[net].state_dict(), state.ema[net].state_dict()
        assert all(torch.equal(new[key], mean[key]) for key in new)


@pytest.mark.parametrize("name", NAMES)
def test_batch_norms_epsilon_is_small(name: str) -> None:
    for module in fresh(made(name)).nets.modules():
        assert getattr(module, "eps", 0.0) <= 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_what_they_say(name: str) -> None:
    method = made(name)
    state = trained(method, fresh(method), 2)
    nets, batch = state.averaged().eval(), toy_batch(16)
    with torch.inference_mode():
        for score in method.scores(nets, batch).values():
            assert score.shape == (16,) and score.isfinite().all()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have left what each method became, four turns later."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, args=(2, str(folder)), nprocs=2)
    return folder


def test_two_ranks_equal_one_process(two_ranks: Path) -> None:
    """A training does not depend on how many processes share it, batch norm and double backward included."""
    for name in NAMES:
        method = plain(name)
        alone = flat(trained(method, fresh(method), 4))
        ranks = [torch.load(two_ranks / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
        for key in alone:
            assert torch.equal(ranks[0][key], ranks[1][key]), f"{name}: the ranks differ in {key}"
            if not key.startswith("optimizers"):
                torch.testing.assert_close(ranks[0][key], alone[key], rtol=1e-3, atol=2e-6, msg=f"{name}: {key}")


def test_sharded_ranks_equal_ranks_that_hold_everything(two_ranks: Path) -> None:
    """To the bit, and some weight has moved by 1e-3 or more."""
    for name in NAMES:
        method = plain(name)
        whole = torch.load(two_ranks / f"{name}-0.pt", weights_only=True)
        sharded = flat(_left(two_ranks, method, "sharded"))
        assert whole.keys() == sharded.keys()
        for key in whole:
            assert whole[key].stride() == sharded[key].stride(), f"{name}: {key}"
            assert torch.equal(sharded[key], whole[key]), f"{name}: {key}"
        begun = {f"nets.{key}": value.detach() for key, value in fresh(method).nets.named_parameters()}
        assert max(float((whole[key] - value).abs().max()) for key, value in begun.items()) > 1e-3, name


def test_sharded_ranks_hold_all_moments_once(two_ranks: Path) -> None:
    """Together; and each of a net's tensors, the largest of which may be more than half, is on one rank."""
    for name in NAMES:
        whole = _moments(_left(two_ranks, made(name), "one"))
        held = [torch.load(two_ranks / f"{name}-held-{rank}.pt", weights_only=True) for rank in range(2)]
        assert sum(held) == sum(tensor.numel() for tensor in whole), name
        assert all(number > 0 for number in held), name


def test_checkpoints_of_sharded_and_whole_trainings_are_one(two_ranks: Path) -> None:
    """Saved sharded, loaded by one process, saved and loaded sharded: the same bits; and so is what follows."""
    for name in NAMES:
        for one, other in (("one", "again"), ("two", "resumed")):
            first, second = (flat(_left(two_ranks, made(name), part)) for part in (one, other))
            assert all(torch.equal(first[key], second[key]) for key in second), f"{name}: {other}"


def _left(folder: Path, method: Method, part: str) -> State:
    """A state that the sharded ranks have saved, in this process."""
    saved, logs = torch.load(folder / f"{method.__module__.rpartition('.')[2]}-{part}.pt", weights_only=True)
    state = _restored(method, saved)
    state.logs = logs  # type: ignore[attr-defined]
    return state


def _restored(method: Method, saved: dict[str, Any]) -> State:
    state = fresh(method, seed=99)
    state.load_state_dict(saved)
    return state


def plain(name: str) -> Method:
    """Moved by the gradient itself: Adam would blow up the rounding of gradients that are zero (before a norm)."""
    return made(name, optimizer="sgd", lr=1e-2, critic_lr=1e-2, clip_norm=1.0)


def _rank(rank: int, size: int, folder: str) -> None:
    core_world.BUCKET = 20_000  # so that small nets too fill several
    with gloo_rank(rank, size, folder) as world:
        for name in NAMES:
            method = plain(name)
            state = fresh(method)
            batch_norm.synchronize(state.nets, world)
            torch.save(flat(trained(method, state, 4, world)), f"{folder}/{name}-{rank}.pt")
            _sharded(name, world, f"{folder}/{name}")
            _batch_statistics_agree(method, world)


def _sharded(name: str, world: World, path: str) -> None:
    """The same training sharded; then under Adam, which has moments: what each rank holds; the checkpoint there and
    back through a process that is not sharded; and one more turn, with a resume and without."""
    _save(trained(plain(name), _begun(plain(name), world), 4, world), world, f"{path}-sharded.pt")
    method = made(name)
    state = trained(method, _begun(method, world), 1, world)
    held = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in _moments(state))
    torch.save(held, f"{path}-held-{world.rank}.pt")
    saved = _save(state, world, f"{path}-one.pt")
    resumed = _begun(method, world, seed=99)
    resumed.load_state_dict(_restored(method, saved).state_dict())
    _save(resumed, world, f"{path}-again.pt")
    _save(trained(method, state, 1, world), world, f"{path}-two.pt")
    _save(trained(method, resumed, 1, world), world, f"{path}-resumed.pt")


def _begun(method: Method, world: World, seed: int = 0) -> State:
    state = fresh(method, seed=seed)
    batch_norm.synchronize(state.nets, world)
    state.shard(world)
    return state


def _save(state: State, world: World, path: str) -> dict[str, Any]:
    """Writes and reads what a checkpoint has of the state, and the logs."""
    saved, logs = state.state_dict(), getattr(state, "logs", {})
    if world.rank == 0:
        torch.save((saved, dict(logs)), path)
    dist.barrier()
    loaded: dict[str, Any] = torch.load(path, weights_only=True)[0]
    return loaded


def _moments(state: State) -> list[torch.Tensor]:
    """What this process keeps of the optimizers' state, counts of steps left out."""
    optimizers = [o.optim if isinstance(o, ZeroRedundancyOptimizer) else o for o in state.optimizers.values()]
    slots = [slots for optimizer in optimizers for slots in optimizer.state.values()]
    return [value for slot in slots for name, value in slot.items() if name != "step"]


def _batch_statistics_agree(method: Method, world: World) -> None:
    """Unsynchronized, the ranks' buffers drift; State.synchronize makes them one, two critic forwards included."""
    state = trained(method, fresh(method), 2, world)
    state.synchronize(world)
    for key, value in flat(state).items():
        if value.is_floating_point():
            mean = value.clone()
            world.average([mean])
            assert torch.allclose(mean, value, rtol=0, atol=1e-6), key


def _draws(method: Method) -> int:
    return max(phase.repeats for phase in method.phases())
