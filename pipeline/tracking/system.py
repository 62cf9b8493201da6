"""The load of the machine that trains, sampled by MLflow's own monitor in the shipper's process.

What MLflow's page of system metrics shows: CPU, memory, disk, network, GPU. The samples go to MLflow only, not into the
journal: those of an outage are lost, and `genloom sync` does not send them.
"""

import threading
from typing import Any

from pipeline.tracking.target import Target


class SystemMetrics:
    """MLflow's monitor of this machine for one run; MLflow's sampling interval (10 s) is in MLflow's own variable."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._monitor: Any = None  # MLflow's monitor has no types
        self._threads: set[threading.Thread] = set()

    def keep_running(self, run_id: str) -> None:
        """Start the monitor if it is not at work; raise whatever MLflow raises if it does not answer.

        The monitor's thread ends for good when MLflow does not answer one request, and when the run is not RUNNING.
        """
        if any(thread.is_alive() for thread in self._threads):
            return
        from mlflow import MlflowClient

        if MlflowClient(self._target.uri).get_run(run_id).info.status != "RUNNING":
            return
        self._monitor = self._create_monitor(run_id)
        before = set(threading.enumerate())
        self._monitor.start()
        self._threads = set(threading.enumerate()) - before

    def finish(self, run_id: str) -> None:
        """Stop the monitor and send a last sample, so that a run shorter than the interval has one, too."""
        if self._monitor is None:
            self._monitor = self._create_monitor(run_id)
        self._monitor.finish()
        self._monitor.collect_metrics()
        self._monitor.publish_metrics(self._monitor.aggregate_metrics())
        self._monitor.mlflow_logger.flush()

    def _create_monitor(self, run_id: str) -> Any:
        from mlflow.system_metrics import system_metrics_monitor

        create: Any = system_metrics_monitor.SystemMetricsMonitor
        # resume_logging: steps go on where an earlier process of the run ended, instead of at 0
        return create(run_id, resume_logging=True, tracking_uri=self._target.uri)
