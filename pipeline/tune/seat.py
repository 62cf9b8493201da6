"""A process that takes one trial after another: what it keeps between them."""

import os
from collections.abc import Mapping
from typing import Any

from pipeline.tune.trial import Member, Task, Trial
from pipeline.tune.workers import Alone, Share, Together


class Seat:
    """Runs in a process that Ray starts; with it are the other processes of its trials.

    Args:
        task: what all trials have in common.
        share: of each of a trial's processes.
    """

    def __init__(self, task: Task, share: Share) -> None:
        import torch

        os.chdir(task.root)
        torch.set_num_threads(share.cpus)
        self.task, self.judges = task, dict[Any, Any]()
        stall = task.params.cluster.stall_seconds
        self.workers = Alone() if share.workers == 1 else Together(task.root, share, stall)

    def trial(self, values: Mapping[str, Any], member: Member | None = None) -> Trial:
        """Return a trial that is to be trained here."""
        return Trial(self.task, values, self.judges, member, self.workers)
