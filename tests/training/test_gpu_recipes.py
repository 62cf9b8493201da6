"""The recipes that want a GPU: an iteration of every run, of two images, on a CPU."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from toy_data import toy_split

from pipeline.config import read_params, read_run
from pipeline.core.loop import fit
from pipeline.core.state import State
from pipeline.core.world import World
from pipeline.data.stream import batches
from pipeline.methods import configure
from pipeline.training.checks import spec_of
from pipeline.training.course import settings_of

ROOT = Path(__file__).parents[2]
CLASSES = 101  # of Food-101


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sngan", "biggan", "r3gan", "flow_matching"])
@pytest.mark.parametrize("size", [64, 128])
def test_an_iteration_of_two_images(size: int, name: str) -> None:
    recipe = ROOT / "recipes" / f"gpu{size}.yaml"
    params = read_params(recipe)
    run, own = read_run(params, name, recipe)
    method, spec = configure(run, own, f"runs.{name}.", recipe), spec_of(params.data, CLASSES)
    assert (spec.size, spec.channels, run.precision) == (size, 3, "bf16")
    state = State.fresh(method, spec, run.seed, torch.device("cpu"))
    before = {key: value.clone() for key, value in state.nets.state_dict().items()}
    stream = batches(toy_split(6, channels=3, size=size), seed=0, batch_size=2, world=World())
    settings = settings_of(run)
    plan = {"seed": 0, "total": run.images, "ema_half_life": run.ema_half_life, "settings": settings}
    (logs,) = islice(fit(method, state, stream, World(), **plan), 1)
    assert logs and all(value.isfinite() for value in logs.values()), logs
    after = state.nets.state_dict()
    for net in method.sampled:
        assert any(key.startswith(net) and not torch.equal(before[key], value) for key, value in after.items()), net
