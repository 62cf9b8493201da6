"""The real images, where they are at hand; and which tests a process takes together where several run them."""

import os
from pathlib import Path

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # before torch is imported, which reads it then
    # A thread that waits for a core which another process has keeps that one waiting too.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
from toy_data import ROOT

SHARED = ROOT.parent / "shared" / "data"
TESTS = Path(__file__).parent
# Whoever takes one of these last would keep the others waiting.
LONGEST = ("stages", "methods/test_methods.py", "tracking/test_lineage.py", "docs/test_use_page.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, as they share what it sets up, and those of stages, which share a project."""

    def group(item: pytest.Item) -> str:
        path = item.path.relative_to(TESTS).as_posix()
        return "stages" if path.startswith("stages/") else path

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    if workers:
        items.sort(key=lambda item: LONGEST.index(group(item)) if group(item) in LONGEST else len(LONGEST))


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
