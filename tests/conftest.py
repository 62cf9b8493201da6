"""The real images, where they are at hand."""

from pathlib import Path

import pytest
from toy_data import ROOT

SHARED = ROOT.parent / "shared" / "data"


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
