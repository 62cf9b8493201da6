"""Samples the machine's load into system.jsonl."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.tracking import journal
from pipeline.tracking.shipped import SYSTEM
from pipeline.tracking.target import reason

_logger = logging.getLogger(__name__)
_SAMPLE_SECONDS = 10.0


class SystemSampler(threading.Thread):
    """Appends the machine's load to system.jsonl, under the names that MLflow's page of system metrics shows."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._path = folder / SYSTEM
        self._stopped = threading.Event()
        self._monitors = _monitors()
        journal.repair(self._path)
        self._step = sum(1 for _ in journal.read(self._path))

    def run(self) -> None:
        seconds = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or _SAMPLE_SECONDS)
        while not self._stopped.wait(seconds):
            self._sample()

    def stop(self) -> None:
        """Takes a last sample, so that the shortest run has one."""
        self._stopped.set()
        self.join()
        self._sample()

    def _sample(self) -> None:
        try:
            values = {f"system/{name}": value for name, value in self._measured()}
            record = {"kind": "metrics", "time": time.time_ns() // 1_000_000, "step": self._step, "values": values}
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            self._step += 1
        except OSError as error:
            _logger.warning(reason(error))

    def _measured(self) -> Iterator[tuple[str, float]]:
        for monitor in self._monitors:
            monitor.collect_metrics()
            yield from monitor.aggregate_metrics().items()
            monitor.clear_metrics()


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    kinds: tuple[Any, ...] = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor)
    monitors = []
    for kind in kinds:
        with suppress(ImportError, RuntimeError):  # no pynvml, or no GPU
            monitors.append(kind())
    return monitors
