"""Laws of the continuous flows: the likelihood in closed form, paths, guidance, couplings, straightening."""

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from small_flows import shaken
from torch import Tensor, nn
from toy_data import toy_batch
from toys import MODES, judge, ring

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.loop import descend, fit
from pipeline.core.method import Nets
from pipeline.core.noise import Noise
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.stream import batches
from pipeline.families.continuous_flow import ContinuousFlow, scaled, velocity_of
from pipeline.families.ode import Solver
from pipeline.inference.export import Encoder
from pipeline.inference.weights import Trained
from pipeline.nets.unet import UNet, default_levels, waves
from pipeline.training.trainer import sample

SPEC = ImageSpec(channels=1, size=8, classes=10)
SMALL: dict[str, Any] = {"width": 8, "levels": 2}
CLOCK = Clock(seen=0, total=1000)
CPU = torch.device("cpu")


def small(name: str = "flow_matching", **settings: Any) -> ContinuousFlow:
    method = methods.load(name, **{**SMALL, **settings})
    assert isinstance(method, ContinuousFlow)
    return method


def built(method: ContinuousFlow, amount: float = 0.05, spec: ImageSpec = SPEC) -> Nets:
    torch.manual_seed(0)
    return shaken(method.build(spec), amount)  # type: ignore[return-value]


class Gaussian(nn.Module):
    """The velocity between N(0, 1) and N(mean, deviation^2) of each pixel, along x_t = (1 - t) x_0 + t x_1."""

    def __init__(self, shape: tuple[int, int, int], mean: float, deviation: float) -> None:
        super().__init__()
        self.shape, self.classes, self.mean, self.deviation = shape, 0, mean, deviation

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        t, variance = times[:, None, None, None], self.deviation**2
        growth = (t * variance - (1 - t)) / ((1 - t) ** 2 + t**2 * variance)
        return self.mean + growth * (x - t * self.mean)


class Dense(nn.Module):
    """dx/dt = A x: x_1 = exp(A) x_0, log p(x_1) = log N(exp(-A) x_1) - tr A."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape, self.classes, d = shape, 0, math.prod(shape)
        self.matrix = torch.randn(d, d, generator=torch.Generator().manual_seed(0)) / d**0.5

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T).view_as(x)


# The likelihood.


@pytest.mark.parametrize(
    ("solver", "steps", "atol"),
    # By as many steps as a run takes if nothing is said, too: no solver of samples may make a density too good.
    [(solver, 20, 0.02) for solver in get_args(Solver)]
    + [("midpoint", 60, 1e-3), ("rk4", 60, 1e-4), ("dopri5", 1, 1e-3)],
)
@pytest.mark.parametrize("deviation", [0.01, 0.05, 0.6])
def test_bits_per_dimension_of_a_gaussian_in_closed_form(
    solver: str, steps: int, atol: float, deviation: float
) -> None:
    """The divergence of this field is the same whatever the probe, so nothing is left to chance."""
    method, batch = small(solver=solver, likelihood_steps=steps), toy_batch(5, channels=3, size=8)
    batch = replace(batch, images=0.2 + 2 * deviation * batch.images)
    nets = nn.ModuleDict({"velocity": Gaussian((3, 8, 8), 0.2, deviation)})
    x = scaled(batch.images, batch.noise).flatten(1)
    nats = (0.5 * ((x - 0.2) / deviation).square() + math.log(deviation) + 0.5 * math.log(2 * math.pi)).mean(1)
    bits = (nats - math.log(2)) / math.log(2) + 8  # x = 2 v - 1, and v has 256 levels
    with torch.inference_mode():
        found = method.scores(nets, batch)["bits_per_dim"]
    torch.testing.assert_close(found, bits, rtol=0, atol=atol)


def test_bits_per_dimension_of_any_linear_field_on_average_over_probes() -> None:
    method = small(solver="rk4", likelihood_steps=16)
    net, count = Dense((1, 4, 4)), 4000
    noise, one = Noise(3, torch.arange(count)), toy_batch(1, size=4)
    batch = Batch(
        images=one.images.expand(count, -1, -1, -1), labels=torch.zeros(count, dtype=torch.int64), noise=noise
    )
    with torch.inference_mode():
        latents, found = method.latents_of(nn.ModuleDict({"velocity": net}), batch)
    before = scaled(batch.images, noise).flatten(1) @ torch.linalg.matrix_exp(-net.matrix).T
    torch.testing.assert_close(latents, before, rtol=0, atol=1e-4)
    exact = -0.5 * (before.square() + math.log(2 * math.pi)).sum(1) - net.matrix.trace() + 16 * math.log(2)
    error = found - exact  # a probe's own, of mean zero
    assert 0.1 < error.std() < 10
    assert abs(float(error.mean())) < 5 * float(error.std()) / math.sqrt(count)


def test_the_exported_encoder_knows_the_likelihood_too() -> None:
    method = small(solver="midpoint", likelihood_steps=8)
    nets = built(method)
    encoder = Encoder(Trained(method=method, nets=nets, spec=SPEC, seen=0, name="flow_matching", params={}))
    images, labels = toy_batch(5, size=8).images, torch.arange(5)
    example = (images[:3], labels[:3])
    dynamic = [{0: torch.export.Dim.AUTO}] * 2
    with torch.no_grad():
        expected = encoder(images, labels)
        found = torch.export.export(encoder, example, dynamic_shapes=dynamic).module()(images, labels)
    torch.testing.assert_close(found["latents"], expected["latents"], rtol=0, atol=1e-3)
    bits = (found["log_likelihood"] - expected["log_likelihood"]) / (64 * math.log(2))
    assert bits.abs().max() < 2e-3 and not torch.equal(*(of["log_likelihood"] for of in (found, expected)))


# Sampling.


def test_more_steps_come_nearer_to_the_adaptive_solver() -> None:
    like = toy_batch(6, size=8)
    nets = built(small())
    with torch.inference_mode():
        exact = small(solver="dopri5", tolerance=1e-7).sample(nets, like)
        errors = [(small(sampling_steps=n).sample(nets, like) - exact).abs().mean() for n in (32, 128)]
    assert 0 < errors[1] < 1e-4 and 8 < errors[0] / errors[1] < 100  # of second order: 16, if the steps are small


def test_guidance_goes_from_all_classes_over_the_own_one_and_beyond() -> None:
    method = small()
    net = velocity_of(built(method))
    labels, x, time = torch.arange(6), toy_batch(6, size=8).images, torch.tensor(0.4)
    none = torch.full_like(labels, 10)
    with torch.no_grad():
        of = {w: method.guided(net, labels, w)(x, time) for w in (0.0, 1.0, 2.5)}
        alone, free = net(x, time.expand(6), labels), net(x, time.expand(6), none)
    torch.testing.assert_close(of[0.0], free)
    torch.testing.assert_close(of[1.0], alone)
    torch.testing.assert_close(of[2.5], free + 2.5 * (alone - free), rtol=0, atol=1e-5)
    assert (alone - free).abs().max() > 1e-3
    with torch.inference_mode():
        samples = [sample(small(guidance=w), nn.ModuleDict({"velocity": net}), toy_batch(6, size=8)) for w in (1, 2.5)]
    assert (samples[0] - samples[1]).abs().max() > 1e-3


def test_the_model_itself_has_no_guidance_and_any_number_of_sampling_steps() -> None:
    batch, nets = toy_batch(4, size=8), built(small())
    with torch.inference_mode():
        plain, guided = (small(guidance=w, sampling_steps=n) for w, n in ((1.0, 10), (3.0, 2)))
        assert torch.equal(plain.scores(nets, batch)["bits_per_dim"], guided.scores(nets, batch)["bits_per_dim"])
        latents = plain.encode(nets, batch)
        assert torch.equal(plain.decode(nets, latents, batch.labels), guided.decode(nets, latents, batch.labels))


def test_without_classes_labels_and_guidance_do_nothing() -> None:
    method, batch = small(guidance=3.0, class_conditional=False), toy_batch(4, size=8)
    nets = built(method)
    other = replace(batch, labels=batch.labels + 1)
    with torch.inference_mode():
        assert torch.equal(method.sample(nets, batch), method.sample(nets, other))
        assert torch.equal(method.sample(nets, batch), small(class_conditional=False).sample(nets, batch))
    spec = replace(SPEC, classes=0)
    assert velocity_of(small().build(spec)).classes == 0


# Training.


class Recorder(nn.Module):
    """Answers with zeros and remembers what it was asked."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.shape, self.classes = (1, 8, 8), classes

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        self.x, self.times, self.labels = x, times, labels
        return torch.zeros_like(x)


def asked(method: ContinuousFlow, batch: Batch) -> tuple[Recorder, Tensor]:
    net = Recorder()
    (phase,) = method.phases()
    return net, phase.loss(nn.ModuleDict({"velocity": net}), batch, CLOCK)[0]


def test_the_path_is_straight_from_noise_to_the_image() -> None:
    batch = toy_batch(512, size=8)
    image = scaled(batch.images, batch.noise)
    for sigma in (0.0, 0.3):
        net, loss = asked(small(sigma_min=sigma), batch)
        t = net.times[:, None, None, None]
        noise = (net.x - t * image) / (1 - (1 - sigma) * t)
        kept = net.times < 0.9  # elsewhere little of the noise is left to see
        assert abs(float(noise[kept].mean())) < 0.02 and abs(float(noise[kept].std()) - 1) < 0.02
        expected = (image - (1 - sigma) * noise)[kept].square().mean()
        torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)
    assert abs(float(net.times.mean()) - 0.5) < 0.05 and net.times.min() < 0.02 and net.times.max() > 0.98


def test_the_loss_of_the_true_velocity_is_the_variance_that_is_left() -> None:
    """Of independent N(0, 1) and N(m, s^2): E Var(x_1 - x_0 | x_t) = s^2 / ((1 - t)^2 + t^2 s^2), averaged over t."""
    s, count = 0.5, 4096
    values = 0.1 + s * Noise(5, torch.arange(count)).normal("images", 1, 8, 8)
    batch = Batch(images=values, labels=torch.zeros(count, dtype=torch.int64), noise=Noise(0, torch.arange(count)))
    (phase,) = small(class_conditional=False).phases()
    net = Gaussian((1, 8, 8), 0.1, s)
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    left = float((s**2 / ((1 - t) ** 2 + t**2 * s**2)).mean())
    found = float(phase.loss(nn.ModuleDict({"velocity": net}), batch, CLOCK)[0])
    assert abs(found / left - 1) < 0.02
    net.deviation = 0.7
    assert float(phase.loss(nn.ModuleDict({"velocity": net}), batch, CLOCK)[0]) > 1.02 * found


def test_labels_are_dropped_at_their_share() -> None:
    batch = toy_batch(2000, size=8)
    for share in (0.0, 0.2):
        net, _ = asked(small(drop_labels=share), batch)
        dropped = net.labels == 10
        assert abs(float(dropped.float().mean()) - share) <= (0.03 if share else 0)
        assert torch.equal(net.labels[~dropped], batch.labels[~dropped])


def test_the_optimal_coupling_shortens_the_paths() -> None:
    batch = toy_batch(256, size=8)
    independent, optimal = (asked(small(coupling=name), batch)[1] for name in ("independent", "optimal"))
    same = asked(small(coupling="optimal", class_conditional=False), batch)[1]
    assert independent < 5 and optimal < 0.97 * independent, "the loss of a zero velocity is the mean squared length"
    assert same.isfinite()


# Reflow.


def test_reflow_starts_from_the_teacher_and_leaves_it() -> None:
    method = small("reflow", pair_steps=3)
    state = State.fresh(method, SPEC, 0, CPU)
    shaken(state.nets["velocity"], 0.05)
    teacher = {key: value.clone() for key, value in state.nets["velocity"].state_dict().items()}
    method.initialize(state.nets, toy_batch(4, size=8), World())
    logs = descend(state.phases[0], state.nets, state.optimizers["velocity"], toy_batch(8, size=8), CLOCK, World())
    assert logs["velocity/loss"] > 0
    assert all(torch.equal(value, state.nets["teacher"].state_dict()[key]) for key, value in teacher.items())
    assert any(not torch.equal(value, state.nets["velocity"].state_dict()[key]) for key, value in teacher.items())
    assert "teacher" not in state.ema


def test_reflow_learns_the_teachers_own_pairs() -> None:
    """With as many steps, the ends of its lines are the teacher's samples of the same noise."""
    method, batch = small("reflow", sampling_steps=10, pair_steps=10, drop_labels=0.0), toy_batch(6, size=8)
    nets = nn.ModuleDict({"teacher": velocity_of(built(method)), "velocity": Recorder()})
    method.phases()[0].loss(nets, batch, CLOCK)
    net: Any = nets["velocity"]
    noise = batch.noise.normal("latent", 1, 8, 8).repeat_interleave(4, 0)
    ends = noise + (net.x - noise) / net.times[:, None, None, None]
    seen = net.times > 0.1
    with torch.no_grad():
        samples = small().images_of(nn.ModuleDict({"velocity": nets["teacher"]}), noise.flatten(1), net.labels)
    shown = ((256 * (0.5 + 0.5 * ends) - 0.5) / 127.5 - 1).clamp(-1, 1)
    torch.testing.assert_close(shown[seen], samples[seen], rtol=0, atol=1e-3)
    assert len(net.times.unique()) == 24


def test_straightness_of_known_paths() -> None:
    """A velocity that never changes is straight; along a turning one the chord and the velocity differ."""

    class Turning(Recorder):
        def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
            return torch.full_like(x, 2.0) if self.still else (2 * math.pi * times[:, None, None, None]).cos() + 0 * x

    net = Turning()
    nets, latents, labels = nn.ModuleDict({"velocity": net}), torch.zeros(3, 64), torch.zeros(3, dtype=torch.int64)
    net.still = True  # type: ignore[assignment]
    method = small(sampling_steps=50)
    torch.testing.assert_close(method.straightness(nets, latents, labels), torch.zeros(3), rtol=0, atol=1e-9)
    net.still = False  # type: ignore[assignment]
    torch.testing.assert_close(method.straightness(nets, latents, labels), torch.full((3,), 0.5), rtol=0.03, atol=0)


def learnt(method: ContinuousFlow, images: int, initial: dict[str, Tensor] | None = None) -> State:
    state = State.fresh(method, ImageSpec(channels=1, size=8, classes=MODES), 0, CPU, initial=initial)
    stream = batches(ring(4096, size=8), seed=0, batch_size=64, world=World())
    for _ in fit(method, state, stream, World(), seed=0, total=images, ema_half_life=1000.0):
        pass
    return state


def found(method: ContinuousFlow, state: State) -> tuple[Any, float]:
    ids = torch.arange(512)
    like = Batch(images=torch.zeros(512, 1, 8, 8), labels=ids % MODES, noise=Noise(7, ids))
    nets = state.averaged().eval()
    with torch.no_grad():
        bent = method.straightness(nets, like.noise.normal("latent", 64), like.labels).mean()
        return judge(sample(method, nets, like), like.labels), float(bent)


RING: dict[str, Any] = {"width": 16, "max_width": 32, "lr": 2e-3, "schedule": "cosine"}


@pytest.mark.slow
def test_it_finds_the_mode_of_each_class() -> None:
    method = small(**RING)
    of_classes, _ = found(method, learnt(method, 60_000))
    print("flow_matching of classes", of_classes)
    assert 0.8 < of_classes.quality <= 1.0 and of_classes.modes == MODES and 0.9 < of_classes.agreement <= 1.0


@pytest.mark.slow
def test_reflow_and_the_optimal_coupling_make_one_step_enough() -> None:
    """Without classes one step of the plain model ends between the modes, at the mean of all images.

    Measured: qualities 0.85, 0.87 and 0.81, deviations 0.055, 0.012 and 0.006, of one step 0, 0.62 and 0.65.
    """
    method = small(**RING, class_conditional=False)
    coupled, reflow = replace(method, coupling="optimal"), small("reflow", **RING, class_conditional=False)  # type: ignore[call-arg]
    plain = learnt(method, 60_000)
    states = {
        "plain": (method, plain),
        "coupled": (coupled, learnt(coupled, 60_000)),
        "reflow": (reflow, learnt(reflow, 20_000, dict(plain.averaged().state_dict()))),
    }
    bent, one = dict[str, float](), dict[str, float]()
    for name, (of, state) in states.items():
        many, bent[name] = found(of, state)
        one[name] = found(replace(of, solver="euler", sampling_steps=1), state)[0].quality
        print(name, many, bent[name], one[name])
        assert 0.7 < many.quality <= 1.0 and many.modes == MODES and 0.4 < many.balance <= 1.0
    assert 0 < bent["coupled"] < 0.7 * bent["plain"] and 0 < bent["reflow"] < 0.6 * bent["plain"]
    assert one["plain"] < 0.3 and all(one["plain"] + 0.3 < one[name] <= 1.0 for name in ("coupled", "reflow"))


# The net.


def test_levels_of_a_unet_follow_the_size() -> None:
    assert [default_levels(size) for size in (4, 8, 12, 16, 28, 30, 33, 64)] == [1, 2, 2, 3, 3, 2, 1, 3]


def test_times_near_each_other_are_told_apart_and_none_is_taken_for_another() -> None:
    times = torch.linspace(0, 1, 129)
    apart = torch.cdist(waves(times), waves(times)) + 10 * torch.eye(129)
    assert apart.min() > 0.5
    near = (waves(torch.tensor([0.5])) - waves(torch.tensor([0.5005]))).norm()
    assert 0 < near < 0.5


def test_a_unet_sees_time_and_class_and_each_sample_alone() -> None:
    net = velocity_of(built(small()))
    assert isinstance(net, UNet)
    x, times, labels = toy_batch(4, size=8).images, torch.tensor([0.1, 0.4, 0.7, 1.0]), torch.arange(4)
    with torch.no_grad():
        whole = net(x, times, labels)
        torch.testing.assert_close(net(x[2:3], times[2:3], labels[2:3]), whole[2:3], rtol=0, atol=1e-5)
        assert (net(x, times.flip(0), labels) - whole).abs().max() > 1e-3
        assert (net(x, times, labels + 1) - whole).abs().max() > 1e-3
