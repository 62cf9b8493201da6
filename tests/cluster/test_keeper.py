"""One Ray cluster for all trainings of a `dvc repro`: joined by each, and gone with DVC, however that ends."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from stand_in_dvc import Dvc, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every stage is a process of its own"),
]
STAGE = """
import json, os
import typer
from pipeline.stages.entry import run_stage


def main(what: str = typer.Argument("")) -> None:
    from pipeline.cluster.connect import connect
    from pipeline.cluster.driver import rays_environment
    from pipeline.cluster.keeper import start_shared
    from pipeline.config import Cluster
    from pipeline.session import client

    if what == "ahead":
        with rays_environment(Cluster()):
            return start_shared(client.folder())
    with rays_environment(Cluster()), connect(Cluster(), shared=True) as resources:
        import ray

        raylet = ray.get(ray.remote(num_cpus=1)(lambda: os.getppid()).remote())
        address = ray.get_runtime_context().gcs_address
    print(json.dumps({"address": address, "raylet": raylet, "cpus": resources["CPU"], "server": os.getppid()}))


if __name__ == "__main__":
    run_stage(main)
"""


@pytest.fixture
def dvc(tmp_path: Path) -> Iterator[Dvc]:
    (tmp_path / "stage.py").write_text(STAGE)
    found = Dvc(tmp_path)
    yield found
    found.kill()


def rays() -> set[int]:
    """The processes of Ray clusters on this machine."""
    names = ("raylet", "gcs_server")
    return {process.pid for process in psutil.process_iter(["name"]) if process.info["name"] in names}


def test_trainings_share_a_cluster_that_goes_with_dvc(dvc: Dvc) -> None:
    before = rays()
    assert dvc.run() == 0
    first = dvc.told()
    assert dvc.run() == 0
    assert dvc.told() == first
    assert first["cpus"] == os.cpu_count()
    assert len(rays() - before) == 2
    dvc.kill()
    assert until(lambda: not rays() - before)


def test_a_training_joins_the_cluster_that_was_started_ahead(dvc: Dvc) -> None:
    before = rays()
    assert dvc.run("ahead") == 0
    assert dvc.run() == 0  # it does not start one of its own meanwhile
    assert len(rays() - before) == 2
    dvc.kill()
    assert until(lambda: not rays() - before)


@pytest.mark.parametrize("whose", ["server", "raylet"])
def test_a_killed_cluster_is_replaced_and_none_is_left_behind(dvc: Dvc, whose: str) -> None:
    before = rays()
    assert dvc.run() == 0
    first = dvc.told()
    os.kill(int(str(first[whose])), signal.SIGKILL)
    assert until(lambda: not rays() - before)
    assert dvc.run() == 0
    assert dvc.told()["raylet"] != first["raylet"]
    dvc.kill()
    assert until(lambda: not rays() - before)
