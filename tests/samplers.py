"""What tests of sampling and evaluation share: a method that copies, fresh nets taken as trained, random features."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Method, Nets
from pipeline.evaluate.feature_set import FeatureSet
from pipeline.inference.weights import Trained


def random_features(count: int, dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator)
    return torch.randn(count, dimensions, generator=generator) @ mixing + seed


@dataclass(frozen=True, kw_only=True)
class Copying(Method):
    """'Generates' the batch's own images, times a factor: what a translating method may do."""

    sampled: ClassVar[tuple[str, ...]] = ("scale",)
    factor: float = 1.0

    def build(self, spec: ImageSpec) -> Nets:
        return nn.ModuleDict({"scale": nn.Linear(1, 1)})

    def phases(self) -> tuple[()]:
        return ()

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        return like.images * self.factor

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {"mean_pixel": batch.images.flatten(1).mean(1)}


@dataclass(frozen=True, kw_only=True)
class Overflowing(Copying):
    """Even gray images of random brightness, of which a share is not finite."""

    share: float = 0.0

    def sample(self, nets: Nets, like: Batch) -> Tensor:
        brightness = 2 * like.noise.uniform("brightness", 1, 1, 1) - 1
        spoilt = like.noise.uniform("overflow", 1, 1, 1) < self.share
        return torch.where(spoilt, torch.nan, brightness).expand_as(like.images).clone()

    def overflow_remedy(self) -> str:
        return "Turn the knob."


@dataclass(frozen=True, kw_only=True)
class Unscored(Copying):
    """Its scores are not finite."""

    def scores(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        return {name: values * torch.inf for name, values in super().scores(nets, batch).items()}


def trained(method: Method, spec: ImageSpec) -> Trained:
    torch.manual_seed(0)
    nets = method.build(spec)
    for parameter in nets.parameters():
        if parameter.ndim == 4:  # fresh nets draw an all but even gray, of which nothing could be told apart
            parameter.data.mul_(8)
    return Trained(method=method, nets=nets.eval(), spec=spec, seen=1000, name="toy", params={})


def measured(features: Tensor, *, distinct: int | None = None, **known: Any) -> FeatureSet:
    """A feature set of these features, with empty logits and labels unless they are named."""
    blank = {
        "logits": torch.empty(len(features), 0),
        "labels": torch.zeros(len(features), dtype=torch.int64),
        "seed": 0,
    }
    return FeatureSet(features=features, distinct=len(features) if distinct is None else distinct, **blank | known)
