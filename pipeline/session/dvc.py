"""The process of DVC that runs this stage, and the folder of what its stages share."""

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import private_folder

SWITCH = "GENLOOM_SESSION"  # in the environment, "off": every stage is a process of its own
_SAME_STAGES = {"-k", "--keep-going", "-q", "--quiet", "-v", "--verbose"}  # options of `dvc repro`
_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process, told from a later one of the same number by when it began.

    Attributes:
        pid: its number.
        began: in the kernel's clock ticks since it started.
    """

    pid: int
    began: int

    def lives(self) -> bool:
        """Return whether it has not ended."""
        return _stat(self.pid)[1:] == (self.began,)


def find_dvc() -> Process | None:
    """Return the process of DVC of which this one is a stage; None: it was started by hand, or not on Linux."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open") or "DVC_STAGE" not in os.environ:
        return None
    try:
        pid = os.getppid()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if Path(os.fsdecode(command[0])).name.lstrip("-") in _SHELLS and b"-c" in command:
            pid = _stat(pid)[0]
        return Process(pid=pid, began=_stat(pid)[1])
    except (OSError, ValueError, IndexError):
        return None


def folder_of(dvc: Process) -> Path:
    """Make the folder of what the stages of one DVC share, which this user alone can read.

    Args:
        dvc: the process.

    Returns:
        The folder; stages of another interpreter or environment have another.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    told = sorted((name, value) for name, value in os.environ.items() if not name.startswith("DVC_"))
    about = hashlib.sha256(repr((sys.executable, sys.flags, told)).encode()).hexdigest()[:12]
    folder = private_folder() / f"{dvc.pid}-{dvc.began}-{about}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def repro_of_everything(folder: Path) -> bool:
    """Tell whether the DVC whose stages share a folder was asked for all stages that have changed, and nothing else.

    Args:
        folder: of `folder_of`.

    Returns:
        True for a `dvc repro` without targets and without options that change which stages run.
    """
    try:
        words = Path(f"/proc/{folder.name.partition('-')[0]}/cmdline").read_bytes().decode().split("\0")[:-1]
        return set(words[words.index("repro") + 1 :]) <= _SAME_STAGES and words[words.index("repro") - 1] != "exp"
    except (OSError, ValueError):
        return False


def forget_ended() -> None:
    """Remove the folders of DVCs that have ended, where what they shared was killed before it could do so itself."""
    for folder in private_folder().glob("*-*-*"):
        pid, began = folder.name.split("-")[:2]
        if pid.isdigit() and began.isdigit() and not Process(pid=int(pid), began=int(began)).lives():
            shutil.rmtree(folder, ignore_errors=True)


def _stat(pid: int) -> tuple[int, int]:
    """Return a process's parent and when it began; (0, 0) if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[1]), int(fields[19])
