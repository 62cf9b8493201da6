"""A Ray cluster of this machine alone, pared down to what training needs.

Its dozen helpers do next to nothing, but on a machine all of whose cores train, each of their moments stops a
training thread, and the others wait for that one at the end of every convolution: what they take, training loses
once per core. Figures are in bench/README.md. A cluster that `ray start` began is left as it is.

The trainer's hooks are Ray's own and may change with a version: the pinned one is 2.60.
"""

from contextlib import suppress
from typing import Any

import psutil

# Set before Ray is imported, as it reads them then; what the user has set wins. Workers train at the priority that
# training without Ray has, not at 15; reports that nobody reads are seldom.
ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_metrics_report_interval_ms": "300000",
    "REPORTER_UPDATE_INTERVAL_MS": "300000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_core_worker_internal_heartbeat_ms": "10000",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    "RAY_kill_idle_workers_interval_ms": "10000",
    "RAY_raylet_check_gc_period_milliseconds": "10000",
    "RAY_local_fs_monitor_interval_ms": "5000",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody tells Ray of this machine's end
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# They add nodes to a cluster, show the workers' output to the driver, and serve the dashboard.
_IDLE_PROCESSES = ("autoscaler/_private/monitor.py", "_private/log_monitor.py", "dashboard/dashboard.py")
# They give room back after the driver's death, with which this cluster ends, and deal out Ray's own datasets.
_IDLE_CALLBACKS = ("PlacementGroupCleanerCallback", "DatasetsCallback")


def end_idle_processes() -> None:
    """Of the cluster that this process has just started."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(name in argument for argument in process.cmdline() for name in _IDLE_PROCESSES):
                process.kill()
                process.wait()


def trainer_class() -> type[Any]:
    """Ray's TorchTrainer without the actors that have nothing to do here."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class WithoutAutoscaler(FixedScalingPolicy):
        """A number of workers that nobody is asked to make room for."""

        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    class LeanTrainer(TorchTrainer):
        def _initialize_and_run_controller(self, *, callbacks: Any, scaling_policy: Any, **other: Any) -> Any:
            if type(scaling_policy) is FixedScalingPolicy:
                scaling_policy = WithoutAutoscaler(scaling_policy.scaling_config)
            busy = [callback for callback in callbacks if type(callback).__name__ not in _IDLE_CALLBACKS]
            run = super()._initialize_and_run_controller  # type: ignore[misc]  # Ray's hints are of version 1
            return run(callbacks=busy, scaling_policy=scaling_policy, **other)

    return LeanTrainer
