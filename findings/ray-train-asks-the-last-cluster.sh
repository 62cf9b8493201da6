#!/usr/bin/env bash
# A training of Ray Train ends 11 s late where `ray start` once began another cluster on the machine.
#
# Software:  ray 2.60.0 (ray[default,train]), on Linux.
# Expected:  `ray.init(address="local")` is a cluster of its own: what `ray start` left on the machine, running or long
#            ended, is none of its business. TorchTrainer.fit() and DataParallelTrainer.fit() return when the workers'
#            function has.
# Happens:   fit() has an actor that watches the training's controller through the state API. It gives no address, so
#            the API takes the one in RAY_TMPDIR/ray/ray_current_cluster (by default /tmp/ray), which `ray start` writes
#            and only `ray stop` removes, and which is of another cluster. Where that one has ended, without `ray stop`
#            (a kill, a crash), each question waits for its time to run out; at the end of the training fit() waits
#            12 s for the actor and then goes on, with "Failed to stop PlacementGroupCleaner gracefully" in the
#            controller's log. Nobody sees why: the training itself is as fast as ever.
# Seen:      seconds from the end of the workers' function to the end of fit(), two trainings each:
#            no such file                    3.1 and  1.0
#            the file names an ended cluster 14.1 and 12.3
# Matters:   a search of 100 short trainings takes 20 minutes longer on a machine on which a cluster once crashed than
#            on another; and what the actor is for, the release of a dead controller's placement group, does not happen.
# Instead:   give a local cluster a folder of its own (RAY_TMPDIR, short: a socket lies in it), or remove
#            /tmp/ray/ray_current_cluster where no cluster of `ray start` runs.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"${PYTHON:-python3}" -m venv "$work/venv"
timeout --foreground 500 "$work/venv/bin/pip" install --quiet "ray[default,train]==2.60.0" ||
  { echo "cannot install the packages"; exit 2; }

cat > "$work/training.py" <<'PY'
"""Train twice with a function that does nothing; print how long fit() goes on after it, in seconds."""

import sys
import time
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

folder = Path(sys.argv[1])
ray.init(address="local", log_to_driver=False, configure_logging=False)


def work(config):
    Path(config["file"]).write_text(str(time.time()))


for number in range(2):
    trainer = DataParallelTrainer(
        work,
        train_loop_config={"file": str(folder / "ended")},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name=f"training{number}", storage_path=str(folder / "results")),
    )
    trainer.fit()
    print(round(time.time() - float((folder / "ended").read_text()), 1))
ray.shutdown()
PY

export RAY_USAGE_STATS_ENABLED=0
measure() {
  RAY_TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/r.XXXX")
  export RAY_TMPDIR
  mkdir -p "$RAY_TMPDIR/ray" "$work/$1"
  [ -z "$2" ] || printf '%s' "$2" > "$RAY_TMPDIR/ray/ray_current_cluster"
  (cd "$work/$1" && "$work/venv/bin/python" "$work/training.py" "$work/$1" 2> "$work/$1/log" | tail -1)
  rm -rf "$RAY_TMPDIR"
}

without=$(measure without "")
# A port of this machine on which nothing listens: what the file says after a cluster has crashed.
with=$(measure with "127.0.0.1:6399")
echo "no file: fit() ended $without s after the workers' function; a file of an ended cluster: $with s"
"$work/venv/bin/python" -c "import sys; sys.exit(0 if $with > 9 and $without < 6 else 1)" ||
  { echo "this has changed"; exit 1; }
