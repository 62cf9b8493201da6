"""Faults at random moments of one training, and what is left of it in the end.

    python tests/chaos.py --seed 0 --faults 6 [--kinds worker,controller,node,driver,link,checkpoint]

A cluster of three nodes (tests/namespaces.py), of which the last two train; the digits, a small DCGAN. The same
training runs undisturbed and disturbed. A disturbed one must end with bit-equal weights, and MLflow must have every
point once. Prints a line per fault and, last, a JSON object of the tally.
"""

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from namespaces import Namespaces, project, python, reason_not

from pipeline.tracking.journal import NAME, read

RUN = "dcgan"
SETTINGS = {"method": "dcgan", "seed": 0, "batch_size": 16, "width": 16, "latent": 16}
CADENCE = {"log_every": 400, "snapshot_every": 4000, "checkpoint_every": 800}
KINDS = ("worker", "controller", "node", "driver", "link", "checkpoint")
PATIENCE = 300.0
ERRORS = 10  # that a driver may end with by itself, as a fault made it; more are no fault's


class Training:
    """One project, trained by `python -m pipeline.stages.train` on node 0, started again whenever it was killed."""

    def __init__(
        self, folder: Path, nodes: Namespaces, images: int, run: dict[str, object] | None = None, **own: object
    ) -> None:
        """run: of the run's params; own: of the section cluster."""
        settings = SETTINGS | CADENCE | {"images": images} | (run or {})
        cluster = {
            "workers": 2,
            "stall_seconds": 60,
            "address": f"{nodes.address(0)}:6379",
            "cpus_per_worker": 1,
            "max_failures": 100,
        }
        self.folder, self.nodes = project(folder, {RUN: settings}, cluster | own), nodes
        for stage in ("code", "download", "normalize"):
            if python(self.folder, "-m", f"pipeline.stages.{stage}", stderr=subprocess.DEVNULL).wait():
                raise RuntimeError(f"stage {stage} failed")
        self.starts = self.errors = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.log = (self.folder / f"log-{self.starts}").open("w")
        inside = self.nodes.inside(0)
        self.driver = python(
            self.folder, "-m", "pipeline.stages.train", RUN, inside=inside, stdout=self.log, stderr=subprocess.STDOUT
        )

    @property
    def seen(self) -> int:
        """Images seen at the newest row of the journal."""
        return max((step for _, step, _ in self.windows()), default=0)

    def windows(self) -> list[tuple[float, int, float]]:
        """(when it was over, in seconds; images seen; images/s) of each log window in the journal."""
        rows = [row for file in self.folder.glob(f".genloom/runs/*/{NAME}") for row, _ in read(file)]
        timed = [row for row in rows if row["kind"] == "metrics" and row["once"]]
        windows = [row for row in timed if "images_per_second" in row["values"]]  # the others are looks at the training
        return [(row["time"] / 1000, row["step"], row["values"]["images_per_second"]) for row in windows]

    @property
    def worlds(self) -> list[tuple[int, int]]:
        """(images seen, workers from there on), from the newest checkpoint."""
        newest = max(self.folder.glob(".genloom/trainings/*/checkpoints/*/state.pt"), default=None)
        try:
            return torch.load(newest, weights_only=True)["worlds"] if newest else []
        except (OSError, RuntimeError):  # a newer one has just replaced it
            return []

    def until(self, enough: Callable[[], bool], what: str) -> float:
        """Seconds until ``enough()``; a driver that was killed starts again, as a person would."""
        begin = time.monotonic()
        while not enough():
            if time.monotonic() - begin > PATIENCE:
                raise TimeoutError(f"{what}: not within {PATIENCE:.0f} s; see {self.log.name}")
            code = self.driver.poll()
            if code == 0 and not enough():
                raise RuntimeError(f"{what}: training ended before")
            if code not in (None, 0):
                if code > 0:
                    self.errors += 1
                    print(f"  the driver said: {Path(self.log.name).read_text().strip().splitlines()[-1]}", flush=True)
                if self.errors > ERRORS:
                    raise RuntimeError(f"{what}: the driver ended by itself {self.errors} times; see {self.log.name}")
                self.start()
            time.sleep(0.2)
        return time.monotonic() - begin

    def finish(self) -> float:
        return self.until(lambda: self.driver.poll() == 0, "the end")

    def weights(self) -> bytes:
        return (self.folder / f"out/runs/{RUN}/weights.safetensors").read_bytes()


def points(folder: Path) -> dict[str, list[int]]:
    """Steps by metric, in MLflow's database, as often as they are there."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        rows = database.execute("select key, step from metrics where key like '%/loss' order by key, step").fetchall()
    found: dict[str, list[int]] = {}
    for key, step in rows:
        found.setdefault(key, []).append(step)
    return found


def fault(kind: str, training: Training, nodes: Namespaces, chance: random.Random) -> str:
    """Does it; says what was done."""
    node = chance.choice((1, 2))
    if kind == "worker":
        return f"{nodes.kill(node, 'ray::RayTrainWorker')} worker(s) of node {node} killed"
    if kind == "controller":
        return f"{nodes.kill(0, 'ray::TrainController')} controller(s) killed"
    if kind == "driver":
        for process in [*psutil.Process(training.driver.pid).children(recursive=True), training.driver]:
            process.send_signal(signal.SIGKILL)
        training.driver.wait()
        return "the driver killed"
    if kind == "node":
        count = nodes.kill(node)
        time.sleep(chance.uniform(0, 5))
        nodes.start(node)
        return f"node {node} killed ({count} processes), then started anew"
    if kind == "link":
        nodes.link(node, "down")
        away = chance.uniform(20, 40)
        time.sleep(away)
        nodes.link(node, "up")
        nodes.kill(node)  # Ray gave the node up; the machine starts again
        nodes.start(node)
        return f"node {node} cut off for {away:.0f} s"
    newest = max(training.folder.glob(".genloom/trainings/*/checkpoints/*/state.pt"), default=None)
    if newest is None:
        return "no checkpoint to damage yet"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    return f"a bit of {newest.parent.name} flipped; {nodes.kill(node, 'ray::RayTrainWorker')} worker(s) killed"


def chaos(folder: Path, seed: int, faults: int, images: int, kinds: tuple[str, ...] = KINDS) -> dict[str, object]:
    """The tally."""
    chance = random.Random(seed)
    with Namespaces(3, env={"RAY_health_check_failure_threshold": "3"}) as nodes:
        calm = Training(folder / "calm", nodes, images)
        calm_seconds = calm.finish()
        wild = Training(folder / "wild", nodes, images)
        recoveries: list[dict[str, object]] = []
        begin = time.monotonic()
        for number in range(faults):
            kind = kinds[number % len(kinds)] if number < len(kinds) else chance.choice(kinds)
            goal = int(images * (number + chance.uniform(0.2, 0.9)) / (faults + 1))
            wild.until(lambda goal=goal: wild.seen >= goal, f"{goal} images")  # type: ignore[misc]
            before = wild.seen
            done = fault(kind, wild, nodes, chance)
            again = wild.until(lambda before=before: wild.seen > before, f"recovery from {kind}")  # type: ignore[misc]
            recoveries.append({"kind": kind, "at": before, "seconds": round(again, 1)})
            print(f"{before:7,} images: {done}; training again after {again:.0f} s", flush=True)
        wild.finish()
        return {
            "seed": seed,
            "faults": recoveries,
            "starts_of_the_driver": wild.starts,
            "undisturbed_seconds": round(calm_seconds, 1),
            "disturbed_seconds": round(time.monotonic() - begin, 1),
            "weights_bit_equal": calm.weights() == wild.weights(),
            "mlflow_points_equal": points(calm.folder) == points(wild.folder),
            "points": sum(map(len, points(wild.folder).values())),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=len(KINDS))
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if why := reason_not():
        sys.exit(f"error: {why}")
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="genloom-chaos-"))
    tally = chaos(folder, chosen.seed, chosen.faults, chosen.images, tuple(chosen.kinds.split(",")))
    print(json.dumps(tally, indent=2))
    sys.exit(not (tally["weights_bit_equal"] and tally["mlflow_points_equal"]))


if __name__ == "__main__":
    main()
