"""Generators and critics by name, for methods that leave the choice to a param."""

from typing import Any

from pipeline.nets import dcgan, mlp, resnet

PAIRS: dict[str, Any] = {"dcgan": dcgan, "mlp": mlp, "resnet": resnet}
"""Each module has a Generator, (n, z) -> (n, c, s, s), and a Critic, (n, c, s, s) -> (n, outputs)."""
