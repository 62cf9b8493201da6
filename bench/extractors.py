"""From images to features: Inception beside torch-fidelity's, EfficientNet-Lite0 beside the form it had before.

    OMP_NUM_THREADS=1 python bench/extractors.py [--images 64] [--rounds 6]
    OMP_NUM_THREADS=1 python bench/extractors.py --kept [--rounds 6]

--kept: EfficientNet-Lite0 in processes that keep the memory of freed tensors, as stages do, beside processes that do
not, in turn.

Random weights for Inception, whose published ones are a download: the same network. In one process and in turn; ratios
of processor seconds and of the wall clock, and by how much the features differ.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pipeline.evaluate.extractors import efficientnet_lite0, inception
from pipeline.training.memory import keep_freed_memory

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


class Unloaded(FeatureExtractorInceptionV3):
    def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """The constructor would load the published weights."""


def their_inception() -> nn.Module:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({}, Path(folder, "none.pth"))
        net = Unloaded("inception-v3-compat", ["2048", "logits_unbiased"], str(Path(folder, "none.pth")))
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return net


def lite_before() -> Network:
    """Batch normalization folded, but padded copies and activations of their own memory."""
    net = efficientnet_lite0.pretrained()
    for module in [net, *net._blocks]:
        names = {"_conv_stem": "_bn0", "_conv_head": "_bn1"} if module is net else {"_expand_conv": "_bn0"}
        names |= {} if module is net else {"_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
        for convolution, norm in names.items():
            if hasattr(module, convolution):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return efficientnet_lite0.Network(net).to(memory_format=torch.channels_last)


def compared(name: str, ours: Network, theirs: Network, images: Tensor, batch: int, rounds: int) -> None:
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    found: dict[str, Tensor] = {}
    for _ in range(rounds + 1):  # the first warms up
        for key, network in (("ours", ours), ("theirs", theirs)):
            start, cpu = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                found[key] = torch.cat([network(part)[0] for part in images.split(batch)])
            times[key].append((time.perf_counter() - start, time.process_time() - cpu))
    apart = float((found["ours"] - found["theirs"]).norm() / found["theirs"].norm())
    print(f"{name}: features apart by {apart:.1e}")
    for index, clock in enumerate(("seconds", "cpu")):
        each = [b[index] / a[index] for a, b in zip(times["ours"][1:], times["theirs"][1:], strict=True)]
        rates = [len(images) / statistics.median(row[index] for row in times[key][1:]) for key in times]
        median = statistics.median(each)
        print(
            f"   {clock}: {rates[0]:.0f} and {rates[1]:.0f} images/s, {median:.2f} ({min(each):.2f} to {max(each):.2f})"
        )


def features_rate(images: Tensor, batch: int) -> float:
    """Images per second of processor time."""
    extractor = efficientnet_lite0.load(None, torch.device("cpu"))
    extractor(images[:batch])
    cpu = time.process_time()
    for part in images.repeat(16, 1, 1, 1).split(batch):
        extractor(part)
    return 16 * len(images) / (time.process_time() - cpu)


def kept_or_not(rounds: int) -> None:
    found: dict[str, list[float]] = {"kept": [], "freed": []}
    for _ in range(rounds):
        for which, rates in found.items():
            command = [sys.executable, *sys.argv, "--only", which]
            rates.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    ratios = sorted(a / b for a, b in zip(*found.values(), strict=True))
    medians = " and ".join(f"{statistics.median(rates):.0f}" for rates in found.values())
    print(
        f"images per processor second {medians}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--only", choices=("kept", "freed"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kept and not options.only:
        return kept_or_not(options.rounds)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8, generator=draw)
    if options.only:
        if options.only == "kept":
            keep_freed_memory()
        return print(features_rate(images, options.batch))
    device = torch.device("cpu")
    ours = inception.Network(their_inception()).to(memory_format=torch.channels_last)
    plan = (images, options.batch, options.rounds)
    compared("inception, torch-fidelity", ours, their_inception(), *plan)
    lite = efficientnet_lite0.load(None, device).network
    compared("efficientnet_lite0, as before", lite, lite_before(), images.repeat(4, 1, 1, 1), *plan[1:])


if __name__ == "__main__":
    main()
