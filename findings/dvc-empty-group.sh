#!/usr/bin/env bash
# dvc 3.67.1: naming a group of stages that has become empty reproduces the whole pipeline, by force if asked so.
#
# A `foreach` stage makes one stage for each entry of a mapping, and the group's name stands for all of them:
# `dvc repro -f tuned` redoes the stages of the group `tuned`. When the mapping in params.yaml is empty, one expects that
# nothing happens, or an error. Instead DVC takes the empty group for no target at all, and `dvc repro` without a target
# reproduces everything; with -f, every stage of the pipeline is run again, and the exit status is 0.
#
# Seen on 2026-11-28: "Running stage 'train'", whose deps had not changed; no stage of the group; exit 0.
#
# Whom it hurts: who keeps optional runs in a mapping of their own and deletes the last one. A script that redoes that
# group then redoes days of other training. What helps: never let the mapping be empty, or name stages as GROUP@ENTRY.
#
# Exits 0 if it is still so, 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1
export PATH="$folder/venv/bin:$PATH"
mkdir "$folder/project" && cd "$folder/project"
git init --quiet .
dvc init --quiet
dvc config core.analytics false
printf 'runs: {}\n' > params.yaml
printf '%s\n' 'stages:' '  train:' '    cmd: date +%%s%%N > weights' '    outs: [weights]' \
    '    deps: [params.yaml]' '  tuned:' '    foreach: ${runs}' '    do:' '      cmd: echo ${key} > ${key}' \
    '      outs: ["${key}"]' | sed 's/%%/%/g' > dvc.yaml
dvc repro --quiet train
before=$(cat weights)
sleep 1
output=$(dvc repro -f tuned 2>&1) || { echo "changed: dvc repro of the empty group fails: $output"; exit 1; }
echo "$output" | grep "Running stage" || true
if [ "$(cat weights)" != "$before" ]; then
    echo "dvc $(dvc --version): 'dvc repro -f tuned', an empty group, ran the stage 'train' again"
else
    echo "changed: 'dvc repro -f' of an empty group leaves other stages alone"
    exit 1
fi
