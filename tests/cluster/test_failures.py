"""Faults that are really done to a cluster of network namespaces on this machine (namespaces.py, chaos.py). All slow.

pytest -m slow tests/cluster/test_failures.py        (as root)
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from chaos import RUN, Training, chaos
from namespaces import Namespaces, reason_not

NOT_HERE = reason_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(NOT_HERE is not None, reason=str(NOT_HERE)),
]


@pytest.fixture
def nodes() -> Iterator[Namespaces]:
    with Namespaces(3) as nodes:
        yield nodes


def published(training: Training) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((training.folder / f"out/runs/{RUN}/train.json").read_text())
    return content


def test_faults_at_random_moments_change_nothing(tmp_path: Path) -> None:
    tally = chaos(tmp_path, seed=1, faults=3, images=16_000, kinds=("node", "driver", "checkpoint"))
    assert tally["weights_bit_equal"] and tally["mlflow_points_equal"], tally


def test_nodes_that_come_and_go_change_the_number_of_workers(tmp_path: Path, nodes: Namespaces) -> None:
    nodes.kill(2)
    training = Training(tmp_path, nodes, images=300_000, workers=[1, 2])  # Ray looks for room once a minute
    training.until(lambda: [size for _, size in training.worlds] == [1], "one worker trains")
    nodes.start(2)
    training.until(lambda: [size for _, size in training.worlds] == [1, 2], "another one joins")
    nodes.kill(2)
    training.finish()
    assert [part["workers"] for part in published(training)["workers"]] == [1, 2, 1]
    assert published(training)["seen"] == 300_000


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_hangs_is_replaced(tmp_path: Path, nodes: Namespaces, workers: int) -> None:
    """Stopped, so that it neither answers nor dies: detected within stall_seconds and Ray's own rhythm."""
    training = Training(tmp_path, nodes, images=60_000, workers=workers, stall_seconds=30)
    training.until(lambda: training.seen >= 2000, "it trains")
    stopped = next(process for node in (1, 2) for process in nodes.processes(node, "ray::RayTrainWorker"))
    os.kill(stopped.pid, signal.SIGSTOP)
    before = training.seen
    assert training.until(lambda: training.seen > before + 800, "it trains again") < 150
    training.finish()


def test_a_slow_link_slows_training_and_stops_nothing(tmp_path: Path, nodes: Namespaces) -> None:
    training = Training(tmp_path, nodes, images=40_000, stall_seconds=60)
    training.until(lambda: training.seen >= 4000, "it trains")
    for node in (1, 2):
        nodes.throttle(node, "4mbit")
    begin = time.time()

    def slow() -> list[float]:  # the first window has a part of before
        return [speed for when, _, speed in training.windows() if begin + 4 < when]

    training.until(lambda: len(slow()) >= 3, "it trains on, slowly")
    found = slow()
    for node in (1, 2):
        nodes.throttle(node, None)
    training.finish()
    usual = median(speed for _, _, speed in training.windows())
    assert max(found) < 0.5 * usual, (found, usual)
    assert training.starts == 1 and "failed" not in Path(training.log.name).read_text()


def test_a_node_that_will_be_taken_away_leaves_a_checkpoint(tmp_path: Path, nodes: Namespaces) -> None:
    """Ray's own notice, which clouds' spot instances and autoscalers give: no checkpoint was due for long."""
    training = Training(tmp_path, nodes, images=40_000, run={"checkpoint_every": 1_000_000}, workers=[1, 2])
    training.until(lambda: training.seen >= 2000, "it trains")
    assert not training.worlds
    nodes.drain(2, seconds=40)
    assert training.until(lambda: bool(training.worlds), "a checkpoint is there") < 40
    time.sleep(20)
    nodes.kill(2)
    training.finish()
    first, second = published(training)["workers"]
    assert (first["workers"], second["workers"]) == (2, 1) and second["from"] >= 2000


def test_a_preemption_notice_or_ctrl_c_leaves_a_checkpoint_and_no_process(tmp_path: Path, nodes: Namespaces) -> None:
    training = Training(tmp_path, nodes, images=200_000)
    training.until(lambda: bool(training.worlds), "a checkpoint is there")
    training.driver.send_signal(signal.SIGTERM)
    assert training.driver.wait(60) == 1
    assert "stopped at a checkpoint" in Path(training.log.name).read_text()
    deadline = time.monotonic() + 30
    while nodes.processes(1, "ray::RayTrainWorker") or nodes.processes(2, "ray::RayTrainWorker"):
        assert time.monotonic() < deadline, "a worker goes on"
        time.sleep(0.5)
    assert not subprocess.run(["pgrep", "-f", f"{tmp_path}.*stages.train"], capture_output=True).stdout
