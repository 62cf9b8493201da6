#!/usr/bin/env bash
# `dvc repro GROUP` runs the whole pipeline when the foreach group GROUP is empty.
#
# Software:  dvc 3.67.1.
# Expected:  a foreach group over an empty mapping has no stages, so `dvc repro GROUP` has nothing to do: it says so
#            or fails, as it fails for the name of a stage that does not exist.
# Happens:   the empty selection is taken for "no selection": every stage of dvc.yaml is reproduced, related to the
#            group or not, and the exit code is 0. With -f every one of them is executed again by force.
# Seen:      extra: {a: 1}  dvc repro -f report   exit 0, executed: report@a
#            extra: {}      dvc repro -f report   exit 0, executed: train
#            extra: {}      dvc repro report      exit 0, executed: train (its dependency had changed)
#            extra: []      dvc repro -f report   exit 0, executed: train
#            extra: []      dvc repro -f -s report   exit 0, executed: nothing
#            extra: []      dvc repro nosuch      exit 255, executed: nothing
# Matters:   the group is often filled from params.yaml (ablations, extra evaluations). Whoever empties it and runs
#            a script that says `dvc repro -f report` retrains every model of the repository, which can cost days of
#            GPU time and replaces outputs that had nothing to do with the group. A CI job sees only success.
# Instead:   ask first: `dvc stage list --name-only | grep -q '^GROUP@'`, and call `dvc repro GROUP` only when that
#            finds a stage; or name the instances (`dvc repro GROUP@a`), which fails when there is no such instance;
#            or add --single-item (-s), which does nothing for an empty group.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"${PYTHON:-python3}" -m venv "$work/venv"
timeout --foreground 900 "$work/venv/bin/pip" install --quiet dvc==3.67.1 ||
  { echo "cannot install the packages"; exit 2; }

# DVC keeps to the temporary folder, sends no statistics and looks for no update.
export HOME="$work/home" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$work/site"
export DVC_GLOBAL_CONFIG_DIR="$work/config" DVC_SYSTEM_CONFIG_DIR="$work/system"
mkdir -p "$HOME" "$work/config" "$work/system" "$work/project"
printf '[core]\n    analytics = false\n    check_update = false\n' > "$work/config/config"

cd "$work/project"
dvc() { timeout --foreground 120 "$work/venv/bin/dvc" "$@"; }
dvc init --quiet --no-scm
echo data > data.txt
echo notes > notes.txt
cat > dvc.yaml <<'YAML'
stages:
  train:
    cmd: echo train >> executed.txt && cp data.txt model.txt
    deps: [data.txt]
    outs: [model.txt]
  report:
    foreach: ${extra}
    do:
      cmd: echo report@${key} >> executed.txt && cp notes.txt ${key}.txt
      deps: [notes.txt]
      outs: ["${key}.txt"]
YAML

changed=0
# check EXTRA EXIT EXECUTED ARGUMENTS...: run `dvc ARGUMENTS` with `extra: EXTRA` and compare what it did.
check() {
  local extra=$1 want_exit=$2 want=$3 code=0 got
  shift 3
  echo "extra: $extra" > params.yaml
  : > executed.txt
  dvc "$@" > output.txt 2>&1 || code=$?
  got=$(tr '\n' ' ' < executed.txt)
  got=${got% }
  printf 'extra: %-7s dvc %-22s exit %s, executed: %s\n' "$extra" "$*" "$code" "${got:-nothing}"
  if [[ $code != "$want_exit" || ${got:-nothing} != "$want" ]]; then changed=1; fi
}

check '{a: 1}' 0 'report@a' repro -f report
check '{}' 0 'train' repro -f report
echo 'new data' > data.txt
check '{}' 0 'train' repro report
# shellcheck disable=SC2016  # the expressions are DVC's
sed -i 's/report@${key}/report@${item}/; s/${key}/${item}/g' dvc.yaml
check '[]' 0 'train' repro -f report
check '[]' 0 'nothing' repro -f -s report
check '[]' 255 'nothing' repro nosuch
check '[]' 255 'nothing' repro report@a
if dvc stage list --name-only | grep -q '^report@'; then changed=1; fi

if ((changed)); then echo "CHANGED: dvc repro of an empty group no longer behaves as described"; exit 1; fi
echo "As described: dvc repro of an empty group runs stages outside the group."
