#!/usr/bin/env bash
# The pipeline on the Ray cluster that this machine is the head of: `dvc repro` with that cluster's settings.
#   GENLOOM_PARAMS     settings of params.yaml, e.g. "cluster.address=auto cluster.workers=4"; none is a stage's param
#   GENLOOM_WORKSPACE  a folder that all nodes see, cloned from this project if it is not there; default: this project
#   GENLOOM_ENV        a file of secrets to read (MLFLOW_TRACKING_URI=... and the like), where there is one
# Arguments go to `dvc exp run`, which is `dvc repro` with settings.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
workspace=${GENLOOM_WORKSPACE:-$project}
if [ "$workspace" != "$project" ]; then
    [ -d "$workspace/.git" ] || git clone --quiet "$project" "$workspace"
    # Refuses, and says why, rather than overwrite what was changed there.
    git -C "$workspace" pull --quiet --ff-only "$project" HEAD
fi
cd "$workspace"
if [ -r "${GENLOOM_ENV:-}" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$GENLOOM_ENV"
    set +a
fi
options=()
for param in ${GENLOOM_PARAMS:-}; do
    options+=(--set-param "$param")
done
exec dvc exp run "${options[@]}" "$@"
