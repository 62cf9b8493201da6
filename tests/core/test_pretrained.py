"""Laws of nets that a method has from outside: losses see them, nothing moves or keeps them, no other net notices."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from toy_data import toy_split

from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.loop import fit
from pipeline.core.method import Method, Nets, Phase
from pipeline.core.state import State
from pipeline.core.transfer import compare
from pipeline.core.world import World
from pipeline.data.stream import batches
from pipeline.training.rehearsal import build_without_numbers, rehearse

SPEC = ImageSpec(channels=1, size=16, classes=10)


@dataclass(frozen=True, kw_only=True)
class Matching(Method):
    """Makes images whose features in a fixed net are those of the batch's."""

    sampled: ClassVar[tuple[str, ...]] = ("net",)

    weight: float = 1.0
    name: str = "fixed"

    def build(self, spec: ImageSpec) -> Nets:
        return nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))})

    def pretrained(self, spec: ImageSpec) -> Nets:
        if not self.weight:
            return nn.ModuleDict()
        torch.manual_seed(7)  # stands for weights that are the same whatever the run's seed
        return nn.ModuleDict(
            {self.name: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 3))}
        )

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase(name="match", trains=("net",), loss=self._loss, optimizer=lambda some: torch.optim.SGD(some, 0.1)),
        )

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return nets["net"](like.noise.normal("z", 1, 16, 16)).tanh()  # type: ignore[no-any-return]

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Mapping[str, Tensor]]:
        made = self.sample(nets, batch)
        loss = (made - batch.images).square().mean()
        if self.weight:
            fixed = nets[self.name]
            assert not fixed.training and not any(p.requires_grad for p in fixed.parameters())
            loss = loss + self.weight * (fixed(made) - fixed(batch.images)).square().mean()
        return loss, {}


def fresh(method: Method, seed: int = 0) -> State:
    return State.fresh(method, SPEC, seed, torch.device("cpu"))


def trained(method: Method, state: State, turns: int = 3) -> State:
    stream = batches(toy_split(), seed=0, batch_size=8, world=World(), start=state.seen)
    for _ in islice(fit(method, state, stream, World(), seed=0, total=10**6, ema_half_life=20.0), turns):
        pass
    return state


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_they_are_made_fixed_and_no_other_net_or_draw_notices() -> None:
    plain, drawn = fresh(Matching(weight=0.0)), torch.rand(3)
    state = fresh(Matching())
    assert torch.equal(torch.rand(3), drawn)
    assert same(state.nets.state_dict(), plain.nets.state_dict())
    assert not plain.pretrained and plain.together().keys() == plain.nets.keys()
    assert not any(module.training for module in state.pretrained.modules())
    assert not any(parameter.requires_grad for parameter in state.pretrained.parameters())
    assert all(net.training for net in state.nets.values())
    assert state.together()["fixed"] is state.pretrained["fixed"]
    weight = state.pretrained["fixed"][0].weight  # type: ignore[index]
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_training_moves_others_by_them_and_leaves_them_as_they_were() -> None:
    state, plain = fresh(Matching()), trained(Matching(weight=0.0), fresh(Matching(weight=0.0)))
    before = {key: value.clone() for key, value in state.pretrained.state_dict().items()}
    trained(Matching(), state)
    assert same(state.pretrained.state_dict(), before)  # running statistics too
    assert not any(module.training for module in state.pretrained.modules())
    assert all(parameter.grad is None for parameter in state.pretrained.parameters())
    assert not same(state.nets.state_dict(), plain.nets.state_dict())


def test_nothing_that_is_kept_has_them() -> None:
    state, plain = trained(Matching(), fresh(Matching())), fresh(Matching(weight=0.0))
    for part in ("nets", "ema"):
        assert state.state_dict()[part].keys() == plain.state_dict()[part].keys()
    assert state.state_dict().keys() == plain.state_dict().keys()
    assert state.averaged().keys() == plain.averaged().keys()
    account = compare(state.nets, plain.nets.state_dict())
    assert not account.missing and not account.unused


def test_a_resume_makes_them_anew_and_is_bit_equal() -> None:
    through, first = trained(Matching(), fresh(Matching()), 6), trained(Matching(), fresh(Matching()), 3)
    second = fresh(Matching(), seed=99)
    second.load_state_dict(first.state_dict())
    assert same(trained(Matching(), second, 3).nets.state_dict(), through.nets.state_dict())


def test_a_rehearsal_goes_through_them_without_numbers() -> None:
    nets = build_without_numbers(Matching(), SPEC)
    assert set(nets) == {"net"}
    before = torch.get_rng_state()
    rehearse(Matching(), nets, SPEC, samples=4, images=100)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_name_of_both_is_refused() -> None:
    state = fresh(Matching(name="net"))
    with pytest.raises(ValueError, match="called like one that trains: net"):
        state.together()
