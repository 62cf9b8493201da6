"""Laws of the flows: all of them invert, their log-determinants are the Jacobians', their densities have mass one."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from small_flows import jacobian_logdet, moments, net, normal, shaken
from torch import Tensor, nn
from toy_data import gloo_rank, toy_batch

from pipeline import methods
from pipeline.core.batch import Batch, ImageSpec, to_uint8, to_unit_range
from pipeline.core.loop import fit
from pipeline.core.method import Nets
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import ArrayStore, Split
from pipeline.data.stream import batches
from pipeline.families.flow import Flow, dequantize, normal_log_density, to_images
from pipeline.inference.export import Sampler
from pipeline.inference.weights import Trained
from pipeline.nets.flow.bijections import ActNorm, Bijection, Center, Chain, InvertibleConv, Logit
from pipeline.nets.flow.conditioners import ConvActNorm, ConvConditioner, ResidualConditioner
from pipeline.nets.flow.couplings import Checkerboard, Coupling
from pipeline.nets.flow.elements import SigmoidAffine, Spline, TanhAffine
from pipeline.nets.flow.multiscale import MultiScale
from pipeline.training.trainer import sample

NAMES = ["glow", "nsf", "realnvp"]
SMALL = {"levels": 2, "steps": 2, "width": 8}
CPU = torch.device("cpu")


def whole(name: str, channels: int = 1, size: int = 8, **settings: object) -> tuple[Flow, Nets, Batch]:
    """A method's flow, small, initialized from a batch and shaken."""
    batch = toy_batch(8, channels=channels, size=size)
    own = {key: value for key, value in (SMALL | settings).items() if key in methods.find(name).__dataclass_fields__}
    method = methods.load(name, **own)
    assert isinstance(method, Flow)
    torch.manual_seed(0)
    nets = method.build(ImageSpec(channels=channels, size=size, classes=10))
    method.initialize(nets, batch, World())
    return method, shaken(nets, 0.05), batch  # type: ignore[return-value]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_flow_inverts(name: str, channels: int) -> None:
    method, nets, batch = whole(name, channels)
    v = dequantize(batch.images, batch.noise)
    before = v.clone()
    with torch.no_grad():
        latents, logdet = nets["flow"](v, batch.labels)
        assert latents.shape == (8, channels * 64) and logdet.shape == (8,)
        assert (nets["flow"].inverse(latents, batch.labels) - v).abs().max() < 1e-5  # type: ignore[operator]
        assert torch.equal(method.bits_per_dim(nets, batch), method.bits_per_dim(nets, batch))
        assert torch.equal(v, before)
        latents, _ = nets.double()["flow"](v.double(), batch.labels)
        assert (nets["flow"].inverse(latents, batch.labels) - v.double()).abs().max() < 1e-9  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_a_flows_log_determinant_is_its_jacobians(name: str) -> None:
    _, nets, batch = whole(name)
    net, v = nets["flow"].double(), dequantize(batch.images, batch.noise)[:2].double()
    torch.testing.assert_close(net(v)[1], jacobian_logdet(net, v), rtol=1e-8, atol=1e-8)


def test_an_nsf_without_scales_is_a_flow_too() -> None:
    _, nets, batch = whole("nsf", multi_scale=False)
    net, v = nets["flow"].double(), dequantize(batch.images, batch.noise)[:2].double()
    latents, logdet = net(v)
    assert (net.inverse(latents) - v).abs().max() < 1e-9  # type: ignore[operator]
    torch.testing.assert_close(logdet, jacobian_logdet(net, v), rtol=1e-8, atol=1e-8)


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="28 cannot be halved 3 times"):
        methods.load("glow", levels=3).build(ImageSpec(channels=1, size=28))


# What becomes of pixels.


def test_dequantization_fills_a_level_and_is_undone() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(4, 1, 1, 1)
    batch = toy_batch(4)
    v = dequantize(to_unit_range(levels, CPU), batch.noise)
    assert torch.equal((256 * v).floor(), levels.float()) and v.min() >= 0 and v.max() <= 1
    share = 256 * v - levels
    assert 0.45 < share.mean() < 0.55 and share.min() < 0.01 and share.max() > 0.99
    assert torch.equal(to_uint8(to_images(v)), levels)
    outside = to_images(torch.tensor([-3.0, 0.0, 1.0, 5.0, math.nan]))
    assert outside[:4].tolist() == [-1, -1, 1, 1] and outside[4].isnan()


class Probit(Center):
    """v to the normal quantile: the flow whose density of v is uniform."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.special.ndtri(x)
        return y, -normal_log_density(y.flatten(1))

    def inverse(self, y: Tensor) -> Tensor:
        return torch.special.ndtr(y)


class Uniform(methods.find("glow")):  # type: ignore[misc]
    """A method whose model of an image is uniform."""

    def build(self, spec: ImageSpec) -> Nets:
        shape = spec.channels, spec.size, spec.size
        return nn.ModuleDict({"flow": MultiScale(shape, [Chain([Probit()])])})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_uniform_density_has_eight_bits(channels: int) -> None:
    method, batch = Uniform(), toy_batch(6, channels=channels)
    bits = method.bits_per_dim(method.build(ImageSpec(channels=channels, size=16)), batch)
    torch.testing.assert_close(bits, torch.full((6,), 8.0), rtol=0, atol=1e-5)


def test_logit_and_a_logistic_prior_have_eight_bits() -> None:
    """The other way to a uniform density: log p(v) = log logistic(y) + log |dy/dv|, alpha nearly 0."""
    v = dequantize(toy_batch(6).images, toy_batch(6).noise).double().clamp(1e-9, 1 - 1e-9)
    y, logdet = Logit(1e-12)(v)
    nats = (nn.functional.logsigmoid(y) + nn.functional.logsigmoid(-y)).flatten(1).sum(1) + logdet
    bits = -nats / (256 * math.log(2.0)) + 8
    torch.testing.assert_close(bits, torch.full((6,), 8.0).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("coupling", ["checkerboard", "spline", "glow"])
def test_the_density_of_two_pixels_integrates_to_one(coupling: str) -> None:
    torch.manual_seed(0)
    layers: list[Bijection]
    if coupling == "checkerboard":
        elements = [TanhAffine(1) for _ in range(2)]
        layers = [Checkerboard(net(1, 2), element, stays=k) for k, element in enumerate(elements)]
    elif coupling == "spline":
        layers = [Checkerboard(net(1, 14), Spline(5, 2.0), stays=k) for k in (0, 1)]
    else:
        coupled = Coupling(ConvConditioner(1, 2, width=8, actnorm=True), SigmoidAffine())
        layers = [ActNorm(2), InvertibleConv(2), coupled]
    shape = (2, 1, 1) if coupling == "glow" else (1, 1, 2)
    model = shaken(MultiScale(shape, [Chain(layers)]), 0.3).double()
    line = torch.linspace(-10, 10, 301, dtype=torch.float64)
    plane = torch.cartesian_prod(line, line).view(-1, *shape)
    with torch.no_grad():
        latents, logdet = model(plane)
    mass = (normal_log_density(latents) + logdet).exp().sum() * (line[1] - line[0]) ** 2
    assert abs(mass - 1) < 1e-3


def test_the_probabilities_of_all_images_sum_to_the_mass_inside() -> None:
    """Two pixels of 256 levels: an image's probability is its cell's density, here in its middle."""
    torch.manual_seed(0)
    spline = Checkerboard(net(1, 14), Spline(5, 2.0), stays=0)
    model = shaken(MultiScale((1, 1, 2), [Chain([Logit(0.05), spline])]), 0.3).double()
    centres = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    with torch.no_grad():
        latents, logdet = model(torch.cartesian_prod(centres, centres).view(-1, 1, 1, 2))
        inside = model.inverse(normal(200_000, 2).double())  # type: ignore[operator]
    total = float((normal_log_density(latents) + logdet - 2 * math.log(256.0)).exp().sum())
    share = float(((inside >= 0) & (inside <= 1)).flatten(1).all(1).double().mean())
    assert abs(total - share) < 0.005 and 0.5 < total < 1


@pytest.mark.parametrize("name", ["glow", "nsf"])
def test_actnorm_begins_with_zero_mean_and_unit_variance(name: str) -> None:
    method = methods.load(name, **SMALL)
    torch.manual_seed(0)
    nets, batch = method.build(ImageSpec(channels=3, size=8)), toy_batch(32, channels=3, size=8)
    method.initialize(nets, batch, World())
    seen: list[Tensor] = []
    for module in nets.modules():
        if isinstance(module, ActNorm):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        elif isinstance(module, ConvActNorm):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        method.bits_per_dim(nets, batch)
    assert len(seen) == (12 if name == "glow" else 4)
    for output in seen:
        mean, variance = moments(output)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
        torch.testing.assert_close(variance, torch.ones_like(mean), rtol=0, atol=1e-3)


def test_initialization_happens_once_so_that_loaded_weights_stay() -> None:
    method, nets, _ = whole("glow")
    saved = copy.deepcopy(nets.state_dict())
    torch.manual_seed(5)
    other = method.build(ImageSpec(channels=1, size=8, classes=10))
    other.load_state_dict(saved)
    method.initialize(other, toy_batch(4, size=8, seed=3), World())
    assert all(torch.equal(saved[key], value) for key, value in other.state_dict().items())


def test_actnorm_is_initialized_alike_on_all_ranks_and_in_one_process(tmp_path: Path) -> None:
    mp.spawn(_initialized_on, args=(2, str(tmp_path)), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = _initialized(World())
    for key, value in alone.items():
        assert torch.equal(one[key], two[key]), key
        torch.testing.assert_close(one[key], value, rtol=1e-4, atol=1e-4, msg=key)


def _initialized_on(rank: int, size: int, folder: str) -> None:
    with gloo_rank(rank, size, folder) as world:
        torch.save(_initialized(world), f"{folder}/{rank}.pt")


def _initialized(world: World) -> dict[str, Tensor]:
    method = methods.load("glow", **SMALL)
    torch.manual_seed(0)
    nets = method.build(ImageSpec(channels=1, size=8))
    share = 8 // world.size
    method.initialize(nets, toy_batch(share, size=8, first=share * world.rank), world)
    return nets.state_dict()


# What must not be lost.


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_dropped(name: str) -> None:
    method, nets, batch = whole(name)
    with torch.no_grad():
        next(iter(nets.parameters())).view(-1)[0] = math.nan
        assert method.bits_per_dim(nets, batch).mean().isnan()
        assert sample(method, nets, batch).isnan().any()
    broken = Batch(images=batch.images.clone(), labels=batch.labels, noise=batch.noise)
    broken.images[3, 0, 1, 1] = math.nan
    _, healthy, _ = whole(name)
    with torch.no_grad():
        bits = method.bits_per_dim(healthy, broken)
    assert bits[3].isnan() and bits[[0, 1, 2, 4, 5, 6, 7]].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_under_bf16_densities_stay_float32_and_near(name: str) -> None:
    method, nets, batch = whole(name)
    with torch.no_grad():
        exact = method.bits_per_dim(nets, batch)
        with torch.autocast("cpu", torch.bfloat16):
            near = method.bits_per_dim(nets, batch)
            assert nets["flow"](dequantize(batch.images, batch.noise), batch.labels)[0].dtype == torch.float32
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0, atol=0.1)
    assert not torch.equal(near, exact)


# Labels, temperature, publishing.


def test_a_prior_per_class_uses_the_label() -> None:
    method, nets, batch = whole("glow", class_conditional=True)
    other = Batch(images=batch.images, labels=(batch.labels + 1) % 10, noise=batch.noise)
    with torch.no_grad():
        assert (method.bits_per_dim(nets, batch) - method.bits_per_dim(nets, other)).abs().min() > 1e-4
        assert (method.sample(nets, batch) - method.sample(nets, other)).abs().max() > 1e-3
        latents, _ = method.latents_of(nets, batch)
        assert (method.images_of(nets, latents, batch.labels) - to_images(_v(batch))).abs().max() < 1e-4
    plain, free, _ = whole("glow")
    with torch.no_grad():
        assert torch.equal(plain.bits_per_dim(free, batch), plain.bits_per_dim(free, other))
    with pytest.raises(ValueError, match="no labels"):
        method.build(ImageSpec(channels=1, size=8))


def _v(batch: Batch) -> Tensor:
    return dequantize(batch.images, batch.noise)


def test_temperature_scales_the_latents() -> None:
    cold, nets, batch = whole("glow", temperature=0.0)
    with torch.no_grad():
        images = cold.sample(nets, batch)
        assert (images - images[:1]).abs().max() < 1e-5
        assert (whole("glow")[0].sample(nets, batch).std(0) > 0.01).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_sampler_exports_for_any_batch_size(name: str) -> None:
    method, nets, _ = whole(name)
    spec = ImageSpec(channels=1, size=8, classes=10)
    sampler = Sampler(Trained(method=method, nets=nets, spec=spec, seen=0, name=name, params={}))
    size = torch.export.Dim("n", min=2)
    example = (torch.arange(3), torch.zeros(3, dtype=torch.int64))
    program = torch.export.export(sampler, example, dynamic_shapes=({0: size}, {0: size})).module()
    seeds, labels = torch.arange(7), torch.arange(7)
    torch.testing.assert_close(program(seeds, labels), sampler(seeds, labels), rtol=0, atol=1e-5)


def test_a_glow_at_its_default_does_not_overflow_where_the_papers_does() -> None:
    """Weights that training could have found: under them, without a bound, no sample survives the inverse."""
    overflown = []
    for settings in ({"least_scale": 0.0}, {}):
        method, batch = methods.load("glow", levels=2, width=8, **settings), toy_batch(64, size=8)
        torch.manual_seed(0)
        nets = method.build(ImageSpec(channels=1, size=8))
        method.initialize(nets, batch, World())
        with torch.no_grad():
            images = method.sample(shaken(nets, 0.1), batch)  # type: ignore[arg-type]
        overflown.append(int((~images.isfinite()).flatten(1).any(1).sum()))
        assert "least_scale (now 0" in method.overflow_remedy()
    assert overflown[0] > 32 and overflown[1] == 0


def test_dropout_is_off_where_densities_are_told() -> None:
    method, nets, batch = whole("nsf", dropout=0.5)
    with torch.no_grad():
        assert torch.equal(method.bits_per_dim(nets, batch), method.bits_per_dim(nets, batch))
        one, two = (method.bits_per_dim(nets.train(), batch) for _ in range(2))
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *[(name, {"levels": 0}) for name in NAMES],
        *[(name, {"temperature": -1.0}) for name in NAMES],
        ("nsf", {"bins": 1}),
        ("nsf", {"net_norm": "actnorm"}),
        ("realnvp", {"alpha": 0.5}),
        ("glow", {"preprocessing": "log"}),
        ("realnvp", {"flow_norm": "layer"}),
        ("glow", {"steps": 0}),
        ("glow", {"least_scale": 1.0}),
    ],
)
def test_wrong_params_are_named(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        methods.load(name, **settings)


# Do they learn what is there? The truth is an entropy, which no model can beat.


@pytest.mark.slow
def test_a_ring_of_eight_gaussians_is_learnt_to_its_entropy() -> None:
    radius, deviation, modes = 2.0, 0.15, 8
    torch.manual_seed(0)
    layers: list[Bijection] = [ActNorm(2)]
    for _ in range(4):
        conditioner = ResidualConditioner(1, 23, width=32, blocks=1, norm_name="none", entry=1)
        layers += [InvertibleConv(2), Coupling(conditioner, Spline(8, 4.0))]
    model = MultiScale((2, 1, 1), [Chain(layers)])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)

    def draw(count: int) -> Tensor:
        angle = torch.randint(modes, (count,)) * (2 * math.pi / modes)
        return radius * torch.stack((angle.cos(), angle.sin()), 1) + deviation * torch.randn(count, 2)

    def nats(points: Tensor) -> Tensor:
        latents, logdet = model(points[:, :, None, None])
        return -(normal_log_density(latents) + logdet)

    for _ in range(1500):
        optimizer.zero_grad()
        nats(draw(256)).mean().backward()
        optimizer.step()
        schedule.step()
    entropy = math.log(modes) + 1 + math.log(2 * math.pi * deviation**2)  # the modes hardly overlap
    with torch.no_grad():
        told = float(nats(draw(20_000)).mean())
        points = model.inverse(torch.randn(4000, 2)).flatten(1)
    assert entropy - 0.03 < told < entropy + 0.1
    angle = torch.arange(modes) * (2 * math.pi / modes)
    distance, mode = torch.cdist(points, radius * torch.stack((angle.cos(), angle.sin()), 1)).min(1)
    share = torch.bincount(mode, minlength=modes) / len(points)
    assert (distance < 4 * deviation).float().mean() > 0.9 and share.min() > 0.08 and share.max() < 0.18


SCALE, CORRELATION = 12.0, 0.8


def tiny_images(count: int) -> Split:
    """4 x 4 pixels of one light each, dark or bright, and correlated noise around it, of known entropy."""
    rng = np.random.default_rng(0)
    common, own = rng.standard_normal((count, 1)), rng.standard_normal((count, 16))
    light = rng.choice([64.0, 192.0], (count, 1))
    pixels = light + SCALE * (math.sqrt(CORRELATION) * common + math.sqrt(1 - CORRELATION) * own)
    images = pixels.round().clip(0, 255).astype(np.uint8).reshape(count, 4, 4, 1)
    return Split(ArrayStore((images,)), np.zeros(count, dtype=np.int64))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tiny_images_are_learnt_to_their_entropy(name: str) -> None:
    determinant = (1 - CORRELATION) ** 15 * (1 + 15 * CORRELATION)
    gaussian = 0.5 * math.log2(2 * math.pi * math.e * SCALE**2) + math.log2(determinant) / 32
    entropy = gaussian + 1 / 16  # one bit for the light
    own = {"steps": 6} if "steps" in methods.find(name).__dataclass_fields__ else {}
    method = methods.load(name, levels=1, width=32, lr=2e-3, schedule="cosine", **own)
    state = State.fresh(method, ImageSpec(channels=1, size=4), 0, CPU)
    stream = batches(tiny_images(20_000), seed=0, batch_size=64, world=World())
    for _ in fit(method, state, stream, World(), seed=0, total=100_000, ema_half_life=2000.0):
        pass
    held = tiny_images(24_000).images(np.arange(20_000, 24_000))
    batch = Batch(images=to_unit_range(held, CPU), labels=torch.zeros(4000).long(), noise=Noise(1, torch.arange(4000)))
    with torch.no_grad():
        told = float(method.bits_per_dim(state.averaged().eval(), batch).mean())
    assert entropy - 0.03 < told < entropy + 0.12
