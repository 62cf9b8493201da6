"""One iteration of a run without numbers: its nets on torch's meta device, where only shapes are computed.

What a training would say after the data are there (a size that the nets cannot have, a batch too small for a norm) is
known from params.yaml alone, in a fraction of a second, whatever the nets' size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pipeline.core.batch import Batch, Clock, ImageSpec
from pipeline.core.method import TWO_DOMAINS, Method, Nets
from pipeline.core.noise import Noise
from pipeline.core.state import joined, pretrained_nets
from pipeline.core.transfer import trainable_parameters

META = torch.device("meta")


def build_without_numbers(method: Method, spec: ImageSpec, freeze: Sequence[str] = ()) -> Nets:
    """Build a method's nets with shapes alone.

    Args:
        method: whose nets.
        spec: of the data.
        freeze: patterns of the run, which are checked.

    Returns:
        The nets, on the meta device.

    Raises:
        ValueError: the method cannot have nets of that shape, or ``freeze`` names nothing.
    """
    with META:
        nets = method.build(spec)
    trainable_parameters(nets, method.phases(), freeze)
    return nets


def rehearse(method: Method, nets: Nets, spec: ImageSpec, *, samples: int, images: int, ends: bool = True) -> None:
    """Go through every phase once at the beginning and, if the budget decides what happens, at its end.

    Args:
        method: whose training.
        nets: as ``build_without_numbers`` gives them.
        spec: of the data.
        samples: of the batch over which a batch norm averages.
        images: the budget.
        ends: whether to look at its end too.

    Raises:
        ValueError: the batch or the images are too small for a norm of the nets.
    """
    times = (0, images) if ends and method.uses_budget() else (0,)
    together = joined(nets.train(), pretrained_nets(method, spec, META))
    with _norms_that_say_what_they_need(nets), META:
        for seen in times:
            clock = Clock(seen=seen, total=images if method.uses_budget() else None)
            batch = _batch(method, spec, samples)
            method.set_progress(nets, clock)
            for phase in method.phases():
                loss, _ = phase.loss(together, batch.stream(phase.name), clock)
                loss.backward()
    nets.zero_grad(set_to_none=True)


def _batch(method: Method, spec: ImageSpec, samples: int) -> Batch:
    images = torch.empty(samples, spec.channels, spec.size, spec.size)
    labels, ids = torch.empty(samples, dtype=torch.int64), torch.empty(samples, dtype=torch.int64)
    other = images if method.needs & TWO_DOMAINS else None
    return Batch(images=images, labels=labels, noise=Noise(0, ids), other=other)


@contextmanager
def _norms_that_say_what_they_need(nets: Nets) -> Iterator[None]:
    """Within the block a norm that gets one value to average says so, with the setting that helps."""
    hooks = [
        module.register_forward_pre_hook(_refuse_one_value)
        for module in nets.modules()
        if isinstance(module, _BatchNorm | _InstanceNorm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_one_value(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
    shape = arguments[0].shape
    if not module.training:
        return
    if isinstance(module, _BatchNorm) and shape.numel() == shape[1]:
        raise ValueError(
            "batch_size: batch norm needs two images or more where its maps are a single pixel, and each process has "
            "one; take a larger batch_size, or a norm such as layer instead of batch"
        )
    if isinstance(module, _InstanceNorm) and shape[2:].numel() == 1:
        raise ValueError(
            "data.size: instance norm needs maps of more than one pixel; take larger images, or a norm such as layer "
            "instead of instance"
        )
