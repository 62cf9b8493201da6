#!/usr/bin/env bash
# mlflow 3.17.2: after one failed request, system metrics of a run are gone for good.
#
# SystemMetricsMonitor samples CPU, memory and disk in a thread while a run goes on. One expects that a tracking server
# which is restarted leaves a gap, and that sampling goes on when it is back. Instead the thread ends at the first
# request that fails, with a warning in the log; the run goes on and can log metrics again, but has no system metrics any
# more. A second surprise: a monitor that is started again for the same run begins at step 0, over the points that are
# there, unless it is given resume_logging=True.
#
# Seen on 2026-11-28: points before the outage: some; in five seconds after it: none, although client.log_metric works.
# A second monitor without resume_logging: its first step is 0 again.
#
# Whom it hurts: long trainings on a shared server that is updated now and then. What helps: watch the monitor's thread
# and start another one, with resume_logging=True.
#
# Exits 0 if it is still so, 1 if it has changed. Talks to this machine alone once the packages are installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 psutil==7.2.2
cd "$folder"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_HTTP_REQUEST_MAX_RETRIES=0 MLFLOW_HTTP_REQUEST_TIMEOUT=5
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
timeout 300 "$folder/venv/bin/python" - <<'PYTHON'
import logging
import socket
import subprocess
import sys
import time
import urllib.request

from mlflow import MlflowClient
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logging.getLogger("mlflow").setLevel(logging.ERROR)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
uri, metric = f"http://127.0.0.1:{port}", "system/cpu_utilization_percentage"


def start():
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=1)
            return server
        except OSError:
            time.sleep(0.5)
    server.kill()
    sys.exit("the server did not start")


def stop(server):
    server.terminate()
    server.wait(30)


def steps():
    return sorted(point.step for point in client.get_metric_history(run_id, metric))


server = start()
client = MlflowClient(uri)
run_id = client.create_run("0").info.run_id
monitor = SystemMetricsMonitor(run_id, sampling_interval=0.5, tracking_uri=uri)
monitor.start()
time.sleep(4)
before = steps()
stop(server)
time.sleep(6)
server = start()
after = steps()
time.sleep(5)
client.log_metric(run_id, "loss", 1.0)
later = steps()
print(f"before the outage {len(before)} points, at its end {len(after)}, five seconds after it {len(later)};",
      "the run takes metrics:", client.get_run(run_id).data.metrics["loss"] == 1.0)
monitor.finish()
second = SystemMetricsMonitor(run_id, sampling_interval=0.5, tracking_uri=uri)
second.start()
time.sleep(3)
second.finish()
again = steps()
print(f"a second monitor without resume_logging: step 0 occurs {again.count(0)} times")
stop(server)
sys.exit(0 if before and len(later) == len(after) and again.count(0) > 1 else "changed: see the lines above")
PYTHON
