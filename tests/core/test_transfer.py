"""Beginning from other weights: what is loaded, what stays fixed, and that it is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_data import toy_batch

from pipeline import methods
from pipeline.config import Cluster, Run
from pipeline.core import transfer
from pipeline.core.batch import Clock, ImageSpec
from pipeline.core.loop import descend
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.inference.weights import load_tensors, save_weights
from pipeline.training.checks import check_data, check_nets
from pipeline.training.trainer import sample

CPU = torch.device("cpu")
SPEC = ImageSpec(channels=1, size=16, classes=10)


def fresh(seed: int = 0, width: int = 8, **start: Any) -> State:
    return State.fresh(methods.load("dcgan", width=width, latent=4), SPEC, seed, CPU, **start)


def test_every_tensor_of_an_equal_method_is_loaded_the_average_first(tmp_path: Path) -> None:
    first = fresh(seed=1)
    for parameter in first.ema.parameters():
        parameter.add_(1.0)
    path = tmp_path / "weights.safetensors"
    save_weights(path, name="dcgan", params={}, spec=SPEC, seen=0, nets=first.nets, ema=first.ema)
    second = fresh(seed=2, initial=load_tensors(path))
    for name, tensor in second.nets.state_dict().items():
        source = first.ema if name.startswith("generator") else first.nets
        assert torch.equal(tensor, source.state_dict()[name]), name
    for name, tensor in second.ema.state_dict().items():
        assert torch.equal(tensor, first.ema.state_dict()[name]), name


def test_the_account_names_what_was_not_loaded() -> None:
    wide, narrow = fresh(width=16).nets, fresh(width=8).nets.state_dict()
    narrow["generator.extra"] = torch.zeros(1)
    del narrow["critic.layers.0.weight"]
    account = transfer.compare(wide, narrow)
    assert account.missing == ("critic.layers.0.weight",) and account.unused == ("generator.extra",)
    assert "generator.project.weight" in account.reshaped
    total = len(wide.state_dict())
    assert len(account.loaded) + len(account.reshaped) + 1 == total
    assert f"of {total} tensors were loaded" in str(account) and "generator.extra" in str(account)


def test_a_frozen_pattern_stays_and_the_rest_of_the_net_moves() -> None:
    state = fresh(freeze=("critic.layers.0", "generator.layers.*.bias"))
    before = {name: value.clone() for name, value in state.nets.state_dict().items()}
    for phase in state.phases:
        clock = Clock(seen=0, total=10)
        descend(phase, state.nets, state.optimizers[phase.name], toy_batch(), clock, World())
    for name, parameter in state.nets.named_parameters():
        frozen = transfer.is_frozen(name, ("critic.layers.0", "generator.layers.*.bias"))
        assert torch.equal(parameter, before[name]) == frozen, name
    assert transfer.is_frozen("critic.layers.0.weight", ("critic.layers.0",))
    assert not transfer.is_frozen("critic.layers.01.weight", ("critic.layers.0",))


def test_batch_statistics_of_a_frozen_module_stay_too_even_after_a_snapshot() -> None:
    state = fresh(freeze=("critic.layers.3",))  # the critic's first batch norm
    frozen = state.nets["critic"].layers[3]
    assert isinstance(frozen, nn.BatchNorm2d)
    sample(methods.load("dcgan", width=8, latent=4), state.nets, toy_batch())
    mean = frozen.running_mean.clone()
    critic = state.phases[1]
    descend(critic, state.nets, state.optimizers[critic.name], toy_batch(), Clock(seen=0, total=10), World())
    assert torch.equal(frozen.running_mean, mean) and not frozen.training and state.nets["critic"].training


def test_a_frozen_name_that_is_none_and_a_phase_with_nothing_left_are_refused() -> None:
    with pytest.raises(ValueError, match=r"freeze: 'crtic' names no parameter; the nets are generator, critic"):
        fresh(freeze=("crtic",))
    with pytest.raises(ValueError, match="freeze: nothing is left to train in the phase 'critic'"):
        fresh(freeze=("critic",))


def dataset(*classes: str) -> Dataset:
    spec = ImageSpec(channels=1, size=16, classes=len(classes))
    return Dataset(spec=spec, info={"classes": list(classes)}, splits={})


@pytest.mark.parametrize(
    ("method", "settings", "classes", "message"),
    [
        ("cgan", {}, ("all",), r"runs.x.method: cgan needs labels, but data.source has 1 class"),
        (
            "cyclegan",
            {},
            ("horse", "deer"),
            r"runs.x.domains: name two classes .*for example \[horse, deer\]",
        ),
        ("dcgan", {"domains": ("horse", "deer")}, ("horse", "deer"), r"runs.x.domains: leave it out: dcgan has one"),
        ("cyclegan", {"domains": ("horse", "dear")}, ("horse", "deer"), r"no class 'dear' in the data. .*'deer'"),
    ],
)
def test_what_the_data_does_not_bring_is_said(
    method: str, settings: dict[str, Any], classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_data("runs.x.", Run(method=method, **settings), methods.load(method), dataset(*classes))


def test_a_method_that_starts_from_trained_nets_is_refused_without_them_and_with_others(tmp_path: Path) -> None:
    method, run = methods.load("vq_transformer"), Run(method="vq_transformer", init_from="runs/vqvae")
    with pytest.raises(UserError, match=r"needs trained weights of encoder, codebook, decoder.*name their run"):
        check_nets("runs.x.", run, method, dataset("a", "b"), None, Cluster())
    other = methods.load("vqvae", codes=16)
    state = State.fresh(other, dataset("a", "b").spec, 0, CPU)
    path = tmp_path / "weights.safetensors"
    save_weights(path, name="vqvae", params={}, spec=SPEC, seen=0, nets=state.nets, ema=state.ema)
    with pytest.raises(UserError, match=r"of another shape \(codebook.*Give both runs the same sizes"):
        check_nets("runs.x.", run, method, dataset("a", "b"), path, Cluster())


def test_weights_of_which_nothing_fits_are_refused_and_a_part_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, data = tmp_path / "weights.safetensors", dataset("a", "b")
    narrow = methods.load("dcgan", width=8)
    state = State.fresh(narrow, data.spec, 0, CPU)
    save_weights(path, name="dcgan", params={}, spec=data.spec, seen=0, nets=state.nets, ema=state.ema)
    run = Run(method="vae", init_from="runs/dcgan")
    with pytest.raises(UserError, match=r"runs\.x\.init_from: nothing of runs/dcgan fits.*begin from scratch"):
        check_nets("runs.x.", run, methods.load("vae", width=8), data, path, Cluster())
    with caplog.at_level("INFO"):
        check_nets("runs.x.", run, narrow, data, path, Cluster())
        check_nets("runs.x.", run, methods.load("dcgan", width=16), data, path, Cluster())
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
