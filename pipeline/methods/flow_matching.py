"""Flow matching: Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow matching for generative modeling", ICLR 2023,
arXiv:2210.02747; the coupling by minibatch optimal transport of Tong et al., "Improving and generalizing flow-based
generative models with minibatch optimal transport", TMLR 2024, arXiv:2302.00482.

    path:      x_t = (1 - (1 - s) t) x_0 + t x_1,   x_0 ~ N(0, I), x_1 an image, t ~ U(0, 1)
    loss:      E |v(x_t, t, y) - (x_1 - (1 - s) x_0)|^2 / d,   y the label, or none for a share of the samples
    coupling:  independent, or within each batch the permutation of x_0 that makes sum |x_1 - x_0|^2 least

The permutation is that of the global batch, whatever the number of workers, and goes within each class, where the net
sees classes: else a class would have latents of its own, and sampling from N(0, I) would be wrong. So what is trained
on depends on the batch size, as in the paper, but not on how a batch is divided. The paper's CIFAR-10 model is a U-Net
of 36 million parameters at a batch of 256.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.config import Unit
from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import Logs, Nets, Phase
from pipeline.families.continuous_flow import ContinuousFlow, scaled, velocity_of
from pipeline.families.transport import coupled

Coupling = Literal["independent", "optimal"]


@dataclass(frozen=True, kw_only=True)
class FlowMatching(ContinuousFlow):
    """A velocity learnt by regression on straight paths from noise to images.

    Attributes:
        coupling: of noise and images: independent, or the optimal transport within a batch.
        sigma_min: s; around an image the path ends with this standard deviation.
    """

    coupling: Coupling = "independent"
    sigma_min: Unit = 0.0

    def build(self, spec: ImageSpec) -> Nets:
        return nn.ModuleDict({"velocity": self.net(spec)})

    def phases(self) -> tuple[Phase, ...]:
        return (self.phase("velocity", ("velocity",), self._loss),)

    def _loss(self, nets: Nets, batch: Batch, clock: Clock) -> tuple[Tensor, Logs]:
        net = velocity_of(nets)
        images, labels = scaled(batch.images, batch.noise), self.seen_labels(net, batch)
        noise = batch.noise.normal("latent", *images.shape[1:])
        if self.coupling == "optimal":
            noise = coupled(noise, images, batch.labels if net.classes else torch.zeros_like(batch.labels))
        times = batch.noise.uniform("time")
        target = images - (1 - self.sigma_min) * noise
        found = net(noise + times[:, None, None, None] * target, times, labels)
        return (found - target).square().mean(), {}
