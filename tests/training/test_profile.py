"""The account of a training: operations counted in closed form, parts that add up, and the training is the same."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_job import job

from pipeline.core.world import World
from pipeline.data.dataset import open_dataset
from pipeline.training.course import fresh_state, iterations
from pipeline.training.profile import COLUMNS, IDLE, PARTS, REST, _Parts, _watched_loop, profile
from pipeline.training.threads import computing_with
from pipeline.training.work import Counting, Rates, busy_share, measured

CPU = torch.device("cpu")
RATES = Rates(flops=1e9, bandwidth=1e6)


def counted(action: object, *tensors: torch.Tensor) -> tuple[float, float, float]:
    with Counting(RATES) as counting:
        action(*tensors)  # type: ignore[operator]
    work = counting.work.get("")
    return (work.flops, work.bytes, work.floor) if work else (0.0, 0.0, 0.0)


def test_operations_are_counted_in_closed_form() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    moved = 4 * (15 + 35 + 21)
    assert counted(torch.mm, a, b) == (2 * 3 * 5 * 7, moved, moved / 1e6), "bound by the memory"
    assert counted(torch.mm, a.half(), b.half())[1] == moved / 2
    assert counted(lambda x: x.t()[1:], a) == (0.0, 0.0, 0.0), "a view moves nothing"
    assert counted(lambda x: x.add_(1.0), a)[1] == 2 * 4 * 15, "read and written"
    assert counted(lambda x, y: torch._foreach_add_([x, y], 1.0), a, b)[1] == 2 * 4 * 50


def test_gradients_of_gradients_are_counted() -> None:
    layer, x = nn.Linear(6, 4, bias=False), torch.ones(8, 6, requires_grad=True)
    product = 2 * 8 * 6 * 4

    def penalty() -> None:
        slope = torch.autograd.grad(layer(x).sum(), x, create_graph=True)[0]
        slope.square().sum().backward()

    assert counted(lambda: layer(x))[0] == product
    assert counted(lambda: layer(x).sum().backward())[0] == 3 * product
    assert counted(penalty)[0] == 3 * product  # forward, to the input, and from there to the weight


def test_an_operation_is_bound_by_the_slower_of_the_two() -> None:
    a = torch.ones(64, 64)
    with Counting(Rates(flops=1.0, bandwidth=1e12)) as counting:
        torch.mm(a, a)
    assert counting.work[""].floor == 2 * 64**3


def test_the_machine_is_measured() -> None:
    rates = measured(CPU, "fp32")
    assert 1e8 < rates.flops < 1e14 and 1e7 < rates.bandwidth < 1e13


@pytest.mark.parametrize(
    ("spans", "share"),
    [([], 0.0), ([(0, 5e5)], 0.5), ([(0, 5e5), (2e5, 4e5), (4e5, 6e5)], 0.6), ([(6e5, 7e5), (0, 1e5)], 0.2)],
)
def test_busy_is_what_spans_cover_together(spans: list[tuple[float, float]], share: float) -> None:
    assert busy_share(spans, 1.0) == pytest.approx(share, abs=1e-9)


def test_a_profiled_training_is_the_same(tmp_path: Path) -> None:
    work = job(tmp_path)
    dataset = open_dataset(Path(work.data))
    plain, watched = (fresh_state(work, dataset.spec, World()) for _ in range(2))
    expected = list(islice(iterations(work, plain, dataset, World()), 4))
    found = list(islice(_watched_loop(work, watched, dataset, _Parts(CPU), CPU), 4))
    assert found == expected
    for (name, a), b in zip(plain.nets.state_dict().items(), watched.nets.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_parts_add_up_and_a_trace_is_left(tmp_path: Path) -> None:
    work = job(tmp_path)
    found = profile(work, open_dataset(Path(work.data)), CPU, 3, tmp_path / "trace.json")
    assert set(found.parts) == {*PARTS, REST} and all(seconds > 0 for seconds in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.seconds)
    assert found.images == 16 and 0 < found.busy <= 1.05
    assert found.work["backward"].flops > found.work["forward"].flops > 0 == found.work["optimizer"].flops
    assert [row[0] for row in found.table] == [*PARTS, REST, IDLE, "iteration"]
    assert all(len(row) == len(COLUMNS) for row in found.table)
    names = [event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert names.count("backward") >= 3 * 2 and names.count("average") >= 3
    assert not (tmp_path / "store").exists(), "it left something of the run"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_profile_is_of_the_trainings_own_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    work, seen = job(tmp_path), list[int]()

    def noted(device: torch.device, precision: str) -> Rates:
        seen.append(torch.get_num_threads())
        return RATES

    monkeypatch.setattr("pipeline.training.profile.measured", noted)
    with computing_with(3 - threads):
        run = replace(work.run, threads=threads)
        profile(replace(work, run=run), open_dataset(Path(work.data)), CPU, 1)
        assert (seen, torch.get_num_threads()) == ([threads], 3 - threads)
