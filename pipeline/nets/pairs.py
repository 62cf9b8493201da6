"""Generators and critics by name, for methods that leave the choice to a param."""

from typing import Any, Literal

from pipeline.nets import dcgan, mlp, resnet

NetName = Literal["dcgan", "mlp", "resnet"]

PAIRS: dict[NetName, Any] = {"dcgan": dcgan, "mlp": mlp, "resnet": resnet}
"""Modules by name: each has a Generator, (n, z) -> (n, c, s, s), and a Critic, (n, c, s, s) -> (n, outputs)."""
