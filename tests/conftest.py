"""The real images, where they are at hand; and which tests a process takes together where several run them."""

import os
from pathlib import Path
from typing import Any

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # before torch is imported, which reads it then
    # A thread that waits for a core which another process has keeps that one waiting too.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
from toy_data import ROOT

SHARED = ROOT.parent / "shared" / "data"
# Whoever takes one of these last would keep the others waiting.
LONGEST = ("tests/stages", "tests/methods/test_methods.py", "tests/tracking/test_lineage.py")


def shared_by(nodeid: str) -> str:
    """What tests run in one process: those of a file, as they share what it sets up, and those of stages, which share a
    project."""
    path = nodeid.split("::")[0]
    return "tests/stages" if path.startswith("tests/stages/") else path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if workers:
        places = {item: shared_by(item.nodeid) for item in items}
        items.sort(key=lambda item: LONGEST.index(places[item]) if places[item] in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal tests out by what they share.

    --dist loadgroup would not: xdist 3.8 writes its groups into node ids, which pytest 9.2 computes.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return shared_by(nodeid)

    return Sharing(config, log)


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The four gzipped IDX files of MNIST."""
    return _present(SHARED / "mnist")


@pytest.fixture(scope="session")
def cifar_zip() -> Path:
    """CIFAR-10 as JPEGs in class folders."""
    return _present(SHARED / "cifar10-images.zip")


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real images are not at hand ({path.name} in ../shared/data)")
    return path
