"""What this machine's processor can do for a training, and what it cannot."""

from collections.abc import Collection

import torch

from pipeline.config import PARAMS, Cluster

INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # names of torch.cpu.get_capabilities


def slow_in_bf16(runs: Collection[str], cluster: Cluster) -> str | None:
    """Say that runs in bf16 will be slow here, if they will: without instructions for it oneDNN and torch compute it by
    others, in two to twelve times the time of float32 (bench/README.md).

    Args:
        runs: the names of those in bf16.
        cluster: where they train.

    Returns:
        One line; None where they are fast, and where it is not known: on a GPU, a cluster, or no x86 processor.
    """
    if not runs or cluster.address or torch.cuda.is_available():
        return None
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("architecture") != "x86_64" or any(capabilities.get(name) for name in INSTRUCTIONS):
        return None
    named = ", ".join(f"runs.{name}.precision" for name in runs)
    lacking = f"this machine's processor has no instructions for bf16 ({' or '.join(INSTRUCTIONS)})"
    remedy = "Set fp32, or train where there are some."
    return f"{PARAMS}: {named}: {lacking}, so it takes two to twelve times as long here as fp32. {remedy}"
