"""Which pixels the critic's decision hangs on: the gradient of its output by the image (Simonyan, Vedaldi, Zisserman,
"Deep inside convolutional networks", arXiv:1312.6034, section 3)."""

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.render.grid import labelled, panel
from pipeline.render.picture import Picture, Subject

COLUMNS = 10


def saliency(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    """Return |d output / d pixel|, the largest over channels: (n, c, h, w), (n,) -> (n, 1, h, w)."""
    method, nets = subject.trained.method, subject.trained.nets
    found = []
    for some, of in zip(images.split(subject.at_a_time), labels.split(subject.at_a_time), strict=True):
        given = some.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(method.criticize(nets, given, of).sum(), given)
        found.append(gradient.abs().amax(1, keepdim=True))
    return torch.cat(found)


def _map(subject: Subject, images: Tensor, labels: Tensor) -> Tensor:
    """Return the saliency as images like these in [-1, 1]: white at each one's largest."""
    found = saliency(subject, images, labels)
    largest = found.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
    return (2 * found / largest - 1).expand_as(images)


def _draw(subject: Subject) -> Image:
    real, labels = subject.shown(COLUMNS, subject.target)
    samples, asked = subject.samples(COLUMNS)
    rows = [real, _map(subject, real, labels), samples, _map(subject, samples, asked)]
    return labelled(panel(torch.stack(rows)), rows=["test image", "saliency", "sample", "saliency"])


PICTURE = Picture(
    title="What the critic looks at",
    caption=(
        "Below each image, how strongly the critic's output depends on each pixel: black not at all, white the most "
        "in this image. Strokes and edges are a critic that sees shapes; even noise or the border is one that sees "
        "artefacts."
    ),
    needs=frozenset({"critic"}),
    draw=_draw,
)
