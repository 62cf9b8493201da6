"""A Ray cluster of several nodes on one machine: each in a network namespace of its own, with its own address.

Needs root and iproute2. What happens to a node here is what happens to a machine: all its processes are killed at
once, or its link is cut and nobody is told.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil
import yaml

NETWORK, BRIDGE, PREFIX, PORT = "10.77.0", "genloom0", "genloom-node", 6379
HOST = f"{NETWORK}.1"
RAY = str(Path(sys.executable).with_name("ray"))
# One token for all nodes and drivers: without it a head makes one for itself, and no node can join.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0", "RAY_worker_niceness": "0"}


def reason_not() -> str | None:
    """Why this machine cannot have them, or None."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return "network namespaces need root and iproute2"
    tried = subprocess.run(["ip", "netns", "add", f"{PREFIX}-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", f"{PREFIX}-probe"], capture_output=True)
    return f"no network namespaces here ({tried.stderr.strip()})" if tried.returncode else None


class Namespaces:
    """``with Namespaces(3) as nodes``: node 0 is the head, which trains nothing; the others have ``cpus`` CPUs each.

    private: a folder of which each of the others has an empty one of its own. HOST, in no node, reaches them all.
    """

    def __init__(
        self, count: int, cpus: int = 1, env: dict[str, str] | None = None, private: Path | None = None
    ) -> None:
        self.count, self.cpus, self.env = count, cpus, os.environ | QUIET | TOKEN | (env or {})
        self.private = private

    def __enter__(self) -> "Namespaces":
        self._remove()
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("link", "set", BRIDGE, "up")
        _ip("address", "add", f"{HOST}/24", "dev", BRIDGE)
        for node in range(self.count):
            name, outside = f"{PREFIX}{node}", f"glveth{node}"
            _ip("netns", "add", name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", outside, "master", BRIDGE, "up")
            _ip("-n", name, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", name, "link", "set", link, "up")
        for node in range(self.count):
            self.start(node)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def address(self, node: int) -> str:
        return f"{NETWORK}.{node + 2}"

    def start(self, node: int) -> None:
        """Ray on that node, as `ray start` starts it on a machine."""
        where = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        if node:
            where = [f"--address={self.address(0)}:{PORT}"]
        own = [
            f"--node-ip-address={self.address(node)}",
            f"--num-cpus={self.cpus if node else 0}",
            "--disable-usage-stats",
        ]
        hide = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(self.private)] if self.private and node else []
        for _ in range(3):  # on a busy machine the head needs longer than a node waits for it
            command = self.inside(node, *hide, RAY, "start", *where, *own)
            done = subprocess.run(command, env=self.env, capture_output=True)
            if done.returncode == 0:
                return
        raise RuntimeError(done.stderr.decode()[-2000:])

    def inside(self, node: int, *command: str) -> list[str]:
        """The command line that runs ``command`` on that node."""
        return ["ip", "netns", "exec", f"{PREFIX}{node}", *command]

    def processes(self, node: int, title: str = "") -> list[psutil.Process]:
        """Those on that node whose command line has ``title`` in it."""
        found = []
        pids = subprocess.run(["ip", "netns", "pids", f"{PREFIX}{node}"], capture_output=True, text=True).stdout.split()
        for pid in map(int, pids):
            try:
                process = psutil.Process(pid)
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                pass
        return found

    def kill(self, node: int, title: str = "") -> int:
        """SIGKILL to all of a node's processes, or to those with ``title``; how many there were."""
        doomed = self.processes(node, title)
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        return len(doomed)

    def link(self, node: int, state: str) -> None:
        """ "down" cuts the node off; "up" joins it again."""
        _ip("-n", f"{PREFIX}{node}", "link", "set", "eth0", state)

    def drain(self, node: int, seconds: int) -> None:
        """Tells Ray that the node will be taken away then, as a cloud's notice to a spot instance does."""
        ask = "import ray; ray.init('auto'); print(*(n['NodeManagerAddress'] + '=' + n['NodeID'] for n in ray.nodes()))"
        known = subprocess.run(
            self.inside(0, sys.executable, "-c", ask), env=self.env, check=True, capture_output=True, text=True
        )
        ids = dict(entry.split("=") for entry in known.stdout.split())
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        which = ["--node-id", ids[self.address(node)], "--deadline-remaining-seconds", str(seconds)]
        command = self.inside(0, RAY, "drain-node", "--address", f"{self.address(0)}:{PORT}", *which, *why)
        subprocess.run(command, env=self.env, check=True, capture_output=True)

    def throttle(self, node: int, rate: str | None) -> None:
        """What the node sends passes at ``rate`` ("4mbit") at most; None: as fast as it can again."""
        queue = ["replace", *f"dev eth0 root tbf rate {rate} burst 32k latency 400ms".split()]
        command = queue if rate else ["delete", "dev", "eth0", "root"]
        subprocess.run(self.inside(node, "tc", "qdisc", *command), check=True, capture_output=True)

    def _remove(self) -> None:
        for node in range(16):
            if Path(f"/run/netns/{PREFIX}{node}").exists():
                self.kill(node)
                subprocess.run(["ip", "netns", "delete", f"{PREFIX}{node}"], capture_output=True)
                subprocess.run(["ip", "link", "delete", f"glveth{node}"], capture_output=True)
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)
        time.sleep(0.5)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def project(folder: Path, runs: dict[str, dict[str, object]], cluster: dict[str, object], images: int = 1000) -> Path:
    """A project with this one's code, the given runs and the embedded digits, normalized at 16 pixels."""
    root = Path(__file__).parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir(exist_ok=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(root / name, folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["runs"] = {name: {"init_from": "scratch"} | run for name, run in runs.items()}
    params["data"]["size"] = 16
    params["cluster"] |= cluster
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def python(folder: Path, *arguments: str, inside: Sequence[str] = (), **options: object) -> "subprocess.Popen[str]":
    """``python <arguments>`` in the project, on the node whose prefix ``inside`` is."""
    env = os.environ | QUIET | TOKEN | {"PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([*inside, sys.executable, *arguments], cwd=folder, env=env, text=True, **options)  # type: ignore[call-overload,no-any-return]
