"""Images side by side, as torchvision lays them out, without importing it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.utils import make_grid
from toy_data import ROOT

from pipeline.render.grid import CELL, GAP, PAPER, grid


@pytest.mark.parametrize(("count", "columns"), [(1, 4), (3, 4), (4, 4), (7, 3), (5, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_is_torchvisions(count: int, columns: int, channels: int) -> None:
    images = torch.randint(0, 256, (count, channels, 16, 16), dtype=torch.uint8)
    large = images.repeat_interleave(CELL // 16, 2).repeat_interleave(CELL // 16, 3)
    expected = make_grid(large, nrow=columns, padding=GAP, pad_value=PAPER).permute(1, 2, 0).numpy()
    found = np.asarray(grid(images, columns).convert("RGB"))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_drawing_and_training_import_neither_torchvision_nor_the_compiler() -> None:
    code = "import sys, pipeline.render.samples, pipeline.training.trainer, pipeline.inference.directions\n"
    code += "print({'torchvision', 'torch._dynamo', 'torch.distributed.fsdp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
