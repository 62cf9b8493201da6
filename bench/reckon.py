"""What 8, 64 and 512 GPUs would do, reckoned from sizes and published link speeds. Nothing here is a measurement.

    python bench/reckon.py

Per step of a phase, on each of N GPUs with a batch of its own (the global batch grows with N):

    compute   = floating-point operations of the phase / (peak x utilization)
    averaging = 2 (N - 1) / N x bytes of the phase's gradients / bandwidth + 2 (N - 1) x latency     (a ring)

One after the other: what averaging during the backward pass hides (World.averaging) is not in it. Within one machine
of 8 GPUs the link is NVLink, beyond it the network, whose bandwidth the 8 GPUs share.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import methods
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.noise import Noise

# NVIDIA's data sheet of the H100 SXM: bf16 without sparsity, NVLink 4 in one direction. 400 Gb/s InfiniBand NDR per
# GPU is DGX H100's; 100 Gb/s Ethernet per machine is what many have.
PEAK, UTILIZATION = (
    989e12,
    0.25,
)  # the share of the peak is assumed: convolutions of a GAN reach less than a transformer
NVLINK, LATENCY = 450e9, 5e-6
NETWORKS = {"InfiniBand NDR, 400 Gb/s per GPU": 50e9, "Ethernet, 100 Gb/s per machine": 12.5e9 / 8}
GPUS = (8, 64, 512)


@dataclass(frozen=True)
class Model:
    name: str
    method: str
    spec: ImageSpec
    per_gpu: int  # images
    settings: dict[str, Any]


MODELS = (
    Model("DCGAN, 64 px", "dcgan", ImageSpec(channels=3, size=64, classes=0), 128, {"width": 64, "latent": 100}),
    Model(
        "BigGAN, 128 px",
        "biggan",
        ImageSpec(channels=3, size=128, classes=1000),
        32,
        {"width": 96, "max_width": 1536, "latent": 120, "embedding": 128, "attention": 2},
    ),
    Model(
        "StyleGAN2, 1024 px",
        "stylegan2",
        ImageSpec(channels=3, size=1024, classes=0),
        4,
        {"width": 32, "max_width": 512, "latent": 512, "mapping_layers": 8},
    ),
)


def phases(model: Model) -> list[tuple[str, int, float, int, int]]:
    """(name, parameters that move, operations per image, steps per turn, bytes of one checkpoint) of each phase."""
    method, few = methods.load(model.method, **model.settings), 2
    nets = method.build(model.spec).train()
    total = sum(parameter.numel() for parameter in nets.parameters())
    batch = Batch(
        images=torch.zeros(few, model.spec.channels, model.spec.size, model.spec.size),
        labels=torch.zeros(few, dtype=torch.int64),
        noise=Noise(0, torch.arange(few)),
    )
    found = []
    for phase in method.phases():
        moving = [parameter for net in phase.trains for parameter in nets[net].parameters()]
        nets.requires_grad_(False)
        for parameter in moving:
            parameter.requires_grad_(True)
        counter = FlopCounterMode(display=False)
        with counter:
            # not the first turn, whose lazy penalties most turns do not have
            phase.loss(nets, batch.stream(phase.name), Clock(seen=64, total=10**6, iteration=1))[0].backward()
        nets.zero_grad()
        count = sum(parameter.numel() for parameter in moving)
        found.append((phase.name, count, counter.get_total_flops() / few, phase.repeats, 16 * total))
    return found


def averaging(size: int, gpus: int, network: float) -> float:
    """Seconds to average that many bytes."""
    bandwidth = NVLINK if gpus <= 8 else network
    return 2 * (gpus - 1) / gpus * size / bandwidth + 2 * (gpus - 1) * LATENCY


def main() -> None:
    for model in MODELS:
        parts = phases(model)
        print(f"\n{model.name}, {model.per_gpu} images per GPU, checkpoint {parts[0][4] / 2**30:.2f} GiB")
        for name, count, operations, repeats, _ in parts:
            print(
                f"  {name}: {count / 1e6:.1f} M parameters, {operations / 1e9:.1f} GFLOP per image, {repeats} per turn"
            )
        compute = sum(model.per_gpu * flops * repeats / (PEAK * UTILIZATION) for _, _, flops, repeats, _ in parts)
        for name, network in NETWORKS.items():
            row = []
            for gpus in GPUS:
                waiting = sum(repeats * averaging(4 * count, gpus, network) for _, count, _, repeats, _ in parts)
                images = gpus * model.per_gpu * max(repeats for *_, repeats, _ in parts) / (compute + waiting)
                row.append(f"{gpus} GPUs {images:,.0f} images/s ({compute / (compute + waiting):.0%} computing)")
            print(f"  {name}: {', '.join(row)}")


if __name__ == "__main__":
    main()
