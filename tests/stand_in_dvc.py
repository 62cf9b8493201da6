"""A stand-in for DVC that starts stages as it does: with `sh -c` and DVC_STAGE, one after the other."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.files import private_folder

ROOT = Path(__file__).parents[1]


class Dvc:
    """The process that starts them; its stages are of the module ``stage`` in the project."""

    def __init__(self, project: Path, start_new_session: bool = False) -> None:
        program = (
            "import json, subprocess, sys\n"
            "for line in sys.stdin:\n"
            "    process = subprocess.Popen(['/bin/sh', '-c', json.loads(line) + '; exit $?'])\n"
            "    print(process.pid, process.wait(), flush=True)\n"
        )
        environment = os.environ | {"DVC_STAGE": "a", "PYTHONPATH": f"{project}:{ROOT}", "OF_THE_STAGE": "yes"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=-1,
            stdout=-1,
            cwd=project,
            env=environment,
            text=True,
            start_new_session=start_new_session,
        )
        self.project = project

    def begin(self, *arguments: str, before: str = "", after: str = "> told 2> said < /dev/null") -> None:
        assert self.process.stdin
        command = f"{before} {sys.executable} -m stage {' '.join(arguments)} {after}"
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline().split()[1])

    def run(self, *arguments: str, **more: str) -> int:
        self.begin(*arguments, **more)
        return self.end()

    def told(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.project / "told").read_text())
        return found

    def folders(self) -> list[Path]:
        return list(private_folder().glob(f"{self.process.pid}-*"))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def lives(pid: int) -> bool:
    """Whether it runs; one that has ended and for which nobody has waited does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def waiting_pid(dvc: Dvc) -> int:
    """The number of the fork that says so and waits."""
    assert until(lambda: (dvc.project / "told").exists() and (dvc.project / "told").read_text().endswith("\n"))
    return int((dvc.project / "told").read_text())
