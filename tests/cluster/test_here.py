"""What params.yaml gives a worker is what this process takes where it is the worker."""

import pytest
import torch

from pipeline.cluster import here
from pipeline.cluster.here import computing_here
from pipeline.config import Cluster
from pipeline.training.threads import computing_with


@pytest.mark.parametrize(("given", "threads"), [(None, 3), (1, 1), (2, 2), (8, 3)])
def test_threads_are_at_most_as_many_as_a_worker_has_cpus(given: int | None, threads: int) -> None:
    with computing_with(3):
        with computing_here(Cluster(cpus_per_worker=given)):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("given", "kind"), [(None, "cuda"), (1, "cuda"), (0.5, "cuda"), (0, "cpu")])
def test_no_gpu_is_none(monkeypatch: pytest.MonkeyPatch, given: float | None, kind: str) -> None:
    monkeypatch.setattr(here, "default_device", lambda: torch.device("cuda"))
    with computing_here(Cluster(gpus_per_worker=given)) as device:
        assert device.type == kind
