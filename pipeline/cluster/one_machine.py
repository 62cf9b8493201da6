"""Settings of a Ray cluster of this machine alone.

On a machine whose cores all train, Ray's idle helper processes preempt training threads, and the other threads wait for
the preempted one at the end of every convolution. These settings make the helpers report less often; what is left of
their cost is in bench/README.md. A cluster that `ray start` began is left as it is.

Its files are in a folder of their own, not in /tmp/ray: there `ray start` leaves the address of the last cluster that
it began, which Ray Train's processes take for that of their own, though it may have ended long ago; then each training
waits 12 s at its end (Ray 2.60, findings/ray-train-asks-the-last-cluster.sh).
"""

import os
from pathlib import Path

import pipeline
from pipeline.files import private_folder

# Ray trains in a thread, and glibc gives a thread memory that it returns to the system at every iteration: one arena
# for all threads lets training.keep_freed_memory work there too.
WORKERS = {"MALLOC_ARENA_MAX": "1"}

# Set before Ray is imported, as it reads them then; what the user has set wins. Workers train at the priority that
# training without Ray has, not at 15; reports that nobody reads are rare.
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
    "RAY_prestart_worker_first_driver": "0",  # they would be of who starts the cluster and trains nothing
    # Ray's default for a cluster of its own, but not for who joins one: said to both, they agree.
    "RAY_AUTH_MODE": "token",
}


def environment() -> dict[str, str]:
    """Return the variables of a cluster of this machine alone; its processes have them from who starts it.

    So workers find this program's code. With a runtime environment for it a training would begin a second later.
    """
    code = [str(Path(pipeline.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return ENVIRONMENT | WORKERS | {"RAY_TMPDIR": str(private_folder()), "PYTHONPATH": os.pathsep.join(code)}
