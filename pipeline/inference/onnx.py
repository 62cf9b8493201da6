"""A trained sampler as an ONNX file: a function of the random numbers that it draws, and of labels where they matter.

All randomness of ``Method.sample`` is the numbers that it asks its batch's noise for. Taken as inputs, they make of
every sampler a function without noise inside: of "latent" (n, z) alone for most methods. The file has its weights
inside, and takes a batch of any size. It is published only if onnxruntime gives what PyTorch gives.
"""

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pipeline.core.batch import Batch
from pipeline.core.noise import Noise
from pipeline.errors import UserError
from pipeline.files import atomic_file
from pipeline.inference.export import Exportable
from pipeline.inference.sample import labels_matter
from pipeline.inference.weights import Trained
from pipeline.nets.flow.bijections import Bijection, InvertibleConv
from pipeline.nets.transformer import Transformer

OPSET = 20
TOLERANCE = 1e-4  # of a pixel in [-1, 1]: a twelfth of a level of 8 bits
CHECKED = (1, 7)  # batch sizes
MOST_BYTES = 2**31 - 2**20  # protobuf's bound on a file, less what is no weight
IMAGES, LABELS = "images", "labels"

Kind = Literal["normal", "uniform", "integers"]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Random numbers that a sampler asks for, as an input of its ONNX file.

    Attributes:
        name: of the input.
        kind: normal: float32, N(0, 1); uniform: float32, U[0, 1); integers: int64 in [0, high).
        shape: of one sample's.
        high: of integers.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    high: int | None = None


@dataclass(frozen=True)
class _Recording(Noise):
    """Draws as Noise does, and remembers what was asked for and given, by the name of stream and draw."""

    draws: dict[str, tuple[Draw, Tensor]] = field(default_factory=dict)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Draw (n, *shape) in [0, 1)."""
        return self._noted(name, "uniform", shape, super().uniform(name, *shape))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Draw (n, *shape), standard normal."""
        return self._noted(name, "normal", shape, super().normal(name, *shape))

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Draw (n, *shape) in [0, high)."""
        return self._noted(name, "integers", shape, super().integers(name, high, *shape), high)

    def _noted(self, name: str, kind: Kind, shape: tuple[int, ...], numbers: Tensor, high: int | None = None) -> Tensor:
        key = _key(self, name)
        self.draws[key] = (Draw(name=key, kind=kind, shape=shape, high=high), numbers)
        return numbers


@dataclass(frozen=True)
class _Given(Noise):
    """Gives the numbers that it holds, by the name of stream and draw."""

    numbers: Mapping[str, Tensor] = field(default_factory=dict)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Return (n, *shape)."""
        return self.numbers[_key(self, name)]

    def normal(self, name: str, *shape: int) -> Tensor:
        """Return (n, *shape)."""
        return self.numbers[_key(self, name)]

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Return (n, *shape)."""
        return self.numbers[_key(self, name)]


class LatentSampler(Exportable):
    """forward: the draws in order, then labels (n,) int64 if they matter -> images (n, c, h, w) float32 in [-1, 1].

    Args:
        trained: the model, on the CPU; it stays as it is.

    Attributes:
        draws: what it takes.
        conditional: whether it takes labels too.
    """

    def __init__(self, trained: Trained) -> None:
        if trained.method.directions:
            raise UserError(
                f"{trained.name} translates images: it has no latents to sample from, so there is no sampler to export."
            )
        for net in trained.nets.modules():
            if isinstance(net, Transformer):
                raise UserError(f"{trained.name} draws its codes one after another, which ONNX has no form for.")
        exportable = replace(trained, nets=_exportable(trained.nets))
        super().__init__(exportable)
        self.conditional = labels_matter(trained)
        self.draws = [draw for draw, _ in self.drawn(1).values()]
        if not self.draws:
            raise UserError(f"{trained.name}: its samples depend on no random numbers, so there is nothing to export.")
        self.settle(exportable)

    def forward(self, *inputs: Tensor) -> Tensor:
        """One image per row of the inputs."""
        numbers = {draw.name: given for draw, given in zip(self.draws, inputs, strict=False)}
        labels = inputs[-1] if self.conditional else torch.zeros(inputs[0].shape[0], dtype=torch.int64)
        return self.method.sample(self.nets, self.like(labels, _Given(seed=0, ids=labels, numbers=numbers)))

    def examples(self, count: int) -> dict[str, Tensor]:
        numbers = {name: given for name, (_, given) in self.drawn(count).items()}
        return numbers | ({LABELS: self.labels(count)} if self.conditional else {})

    def drawn(self, count: int) -> dict[str, tuple[Draw, Tensor]]:
        """Draw the numbers of samples 0 to count - 1 of seed 0, by the name of the input."""
        noise = _Recording(seed=0, ids=torch.arange(count))
        with torch.inference_mode():
            self.method.sample(self.nets, self.like(self.labels(count), noise))
        return noise.draws

    def like(self, labels: Tensor, noise: Noise) -> Batch:
        """Return a batch to sample for; its images are blank."""
        shape = (labels.shape[0], self.spec.channels, self.spec.size, self.spec.size)
        return Batch(images=torch.zeros(shape), labels=labels, noise=noise)

    def labels(self, count: int) -> Tensor:
        """Return the classes in turn, (count,) int64."""
        return torch.arange(count) % max(self.spec.classes, 1)


def export_onnx(trained: Trained, path: Path) -> dict[str, Any]:
    """Write a model's sampler as one ONNX file, complete or absent, once onnxruntime agrees with PyTorch.

    Args:
        trained: the model, on the CPU.
        path: of the file.

    Returns:
        What the file's metadata says too: method, images seen, the images' shape, classes, and the inputs.

    Raises:
        UserError: the method has no latents, or its sampler cannot be exported, loses its batch size, or differs.
    """
    sampler = LatentSampler(trained)
    about = describe_onnx(trained, sampler)
    content = _program(trained, sampler, about)
    check_onnx(content, trained, sampler)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    return about


def describe_onnx(trained: Trained, sampler: LatentSampler) -> dict[str, Any]:
    """Return what a user of the file must know, as JSON holds it."""
    spec = trained.spec
    inputs = [asdict(draw) | {"shape": list(draw.shape)} for draw in sampler.draws]
    return {
        "method": trained.name,
        "seen": trained.seen,
        "images": [spec.channels, spec.size, spec.size],
        "classes": spec.classes if sampler.conditional else 0,
        "inputs": inputs,
    }


def check_onnx(content: bytes, trained: Trained, sampler: LatentSampler) -> float:
    """Compare an ONNX file with the method's own sampling at several batch sizes.

    Args:
        content: of the file.
        trained: the model.
        sampler: its inputs.

    Returns:
        The largest difference of a pixel in [-1, 1].

    Raises:
        UserError: the file takes one batch size alone, or a pixel differs by more than TOLERANCE.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    fixed = [
        given.shape[0] for given in (*session.get_inputs(), *session.get_outputs()) if isinstance(given.shape[0], int)
    ]
    if fixed:
        raise UserError(
            f"{trained.name}: the exporter fixed the batch at {fixed[0]}: somewhere its sampler takes the batch's size "
            "as a plain number, such as len(z) or a convolution's groups. Write z.shape[0], or another form of it."
        )
    worst = 0.0
    for count in CHECKED:
        examples = sampler.examples(count)
        like = sampler.like(sampler.labels(count), Noise(0, torch.arange(count)))
        with torch.inference_mode():
            expected = trained.method.sample(trained.nets, like)
        (found,) = session.run([IMAGES], {name: value.numpy() for name, value in examples.items()})
        difference = float((torch.from_numpy(found) - expected).abs().max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{trained.name}: exported, its images differ from PyTorch's by {difference:.2g} where {TOLERANCE:g} "
                f"is the most (batch size {count}), so nothing was written."
            )
        worst = max(worst, difference)
    return worst


def _program(trained: Trained, sampler: LatentSampler, about: Mapping[str, Any]) -> bytes:
    """Return the file's content."""
    size = sum(value.numel() * value.element_size() for value in sampler.state_dict().values())
    if size > MOST_BYTES:
        raise UserError(f"{trained.name}: {size / 2**30:.1f} GiB of weights do not fit into one ONNX file (2 GiB).")
    examples = sampler.examples(3)  # a batch of 1 would fix the size at 1
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                sampler,
                tuple(examples.values()),
                dynamo=True,
                dynamic_shapes=(tuple({0: batch} for _ in examples),),
                input_names=list(examples),
                output_names=[IMAGES],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"{trained.name}: PyTorch cannot export its sampler to ONNX: {_root(error)}") from error
    assert program is not None
    model = program.model_proto
    for body in (model.graph, *model.functions):
        _forget_sources(body)
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    return bytes(model.SerializeToString())


def _forget_sources(body: Any) -> None:
    """Remove where in Python each node came from: the paths of this machine, by which two copies of a project would
    export different files, and of a loop ten times the bytes of the weights."""
    for node in body.node:
        del node.metadata_props[:]
        for attribute in node.attribute:
            _forget_sources(attribute.g)


class _FixedConv(Bijection):
    """The inverse of an invertible convolution, whose weight is computed beforehand: ONNX has no triangular solve."""

    def __init__(self, convolution: InvertibleConv) -> None:
        super().__init__()
        unit = torch.eye(len(convolution.lower))[:, :, None, None]
        with torch.no_grad():
            self.register_buffer("weight", convolution.inverse(unit).transpose(0, 1).contiguous())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("only the inverse is exported")

    def inverse(self, y: Tensor) -> Tensor:
        return conv2d(y, self.get_buffer("weight"))


# By type of layer: what stands for it in the exported file.
_REPLACED: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {InvertibleConv: _FixedConv}


def _exportable(nets: nn.ModuleDict) -> nn.ModuleDict:
    """Return a copy of the nets with every layer that cannot be exported replaced by one that can."""
    copied = copy.deepcopy(nets)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            for kind, make in _REPLACED.items():
                if isinstance(child, kind):
                    setattr(parent, name, make(child))
    return copied


def _key(noise: Noise, name: str) -> str:
    return f"{noise.name}/{name}".strip("/")


def _root(error: BaseException) -> str:
    """Return the first line of what an error came from in the end."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
