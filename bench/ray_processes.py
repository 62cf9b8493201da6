"""CPU time of Ray's processes while a DCGAN trains with one Ray worker: in percent of one core, whatever else runs.

python bench/ray_processes.py [--seconds 45]
"""

import argparse
import multiprocessing
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from turns import WARM_ROWS, Training, _rows, toy_data

HELPERS = (
    "RayTrainWorker", "TrainController", "SynchronizationActor", "StopRequest", "PlacementGroupCleaner",
    "DatasetManager", "AutoscalingCoordinator", "log_monitor.py", "monitor.py", "dashboard.py", "DashboardAgent",
    "RuntimeEnvAgent", "gcs_server", "raylet",
)  # fmt: skip


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "training")
        folder.mkdir()
        toy_data(folder / "data", 32)
        child = multiprocessing.get_context("spawn").Process(target=Training(workers=1).run, args=(folder,))
        child.start()
        while len(_rows(folder)) < WARM_ROWS:
            time.sleep(0.5)
        root = psutil.Process(child.pid)
        processes = [root, *root.children(recursive=True)]
        before = {process: cpu_seconds(process) for process in processes}
        time.sleep(seconds)
        shares: Counter[str] = Counter()
        for process in processes:
            with suppress(psutil.NoSuchProcess, FileNotFoundError):
                name = "driver" if process == root else name_of(process)
                shares[name] += 100 * (cpu_seconds(process) - before[process]) / seconds
        for process in reversed([root, *root.children(recursive=True)]):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    for name, share in shares.most_common():
        print(f"{name:24} {share:6.2f} %")
    helpers = shares.total() - shares["RayTrainWorker"]
    print(f"{'without the worker':24} {helpers:6.2f} % in {len(processes) - 1} processes")


def cpu_seconds(process: psutil.Process) -> float:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def name_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((helper for helper in HELPERS if helper in line), line[:24])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=45)
    main(**vars(parser.parse_args()))
