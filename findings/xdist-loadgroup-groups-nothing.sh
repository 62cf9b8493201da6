#!/usr/bin/env bash
# `pytest -n 2 --dist loadgroup` deals the tests of one group out to both processes, without a word.
#
# Software:  pytest-xdist 3.8.0 with pytest 9.2.0 (control: the same with pytest 8.4.2).
# Expected:  tests marked with the same xdist_group run in the same process, as the option's help says.
# Happens:   with pytest 9.2 they are dealt out one by one, as by --dist load. xdist writes the group into the private
#            attribute _nodeid of each test; pytest 9.2 computes node ids and no longer reads it. Nothing warns.
# Seen:      pytest 8.4.2: 6 tests of one group in 1 process
#            pytest 9.2.0: 6 tests of one group in 2 processes
# Matters:   groups stand around what must not run twice at once: a session's fixture of minutes is made once per
#            process, a port, a GPU, a database or a Ray cluster is taken twice, and tests fail now and then.
# Instead:   give a scheduler by the hook pytest_xdist_make_scheduler: a subclass of LoadScopeScheduling whose
#            _split_scope(nodeid) returns the group; or --dist loadfile, where a group is a file.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/tests"
cat > "$work/tests/test_groups.py" <<'PY'
"""Six tests of one group; each says in which process it ran."""

import os
import pathlib
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(6))
def test_in_one_process(number: int) -> None:
    time.sleep(0.2)
    pathlib.Path(os.environ["SEEN"], os.environ["PYTEST_XDIST_WORKER"]).touch()
PY

# How many processes took tests of the group, under a version of pytest.
processes() {
  "${PYTHON:-python3}" -m venv "$work/$1"
  timeout --foreground 300 "$work/$1/bin/pip" install --quiet "pytest==$1" pytest-xdist==3.8.0 ||
    { echo "cannot install the packages" >&2; exit 2; }
  mkdir "$work/seen-$1"
  (cd "$work/tests" && SEEN="$work/seen-$1" "$work/$1/bin/python" -m pytest -q -n 2 --dist loadgroup > "$work/log-$1") ||
    { cat "$work/log-$1" >&2; exit 1; }
  find "$work/seen-$1" -type f | wc -l
}

before=$(processes 8.4.2)
now=$(processes 9.2.0)
echo "pytest 8.4.2: 6 tests of one group in $before process(es)"
echo "pytest 9.2.0: 6 tests of one group in $now process(es)"
if [ "$before" = 1 ] && [ "$now" = 2 ]; then
  echo "as stated: --dist loadgroup groups nothing under pytest 9.2"
else
  echo "changed"
  exit 1
fi
