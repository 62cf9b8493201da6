#!/usr/bin/env bash
# Eigenvalues by torch take up to twenty times as long where numpy has multiplied small matrices just before.
#
# Software:  numpy 2.4.6 (its wheel's OpenBLAS, with its own threads), torch 2.15.0 (its wheel's MKL, on libgomp's
#            threads), Linux, at least two cores.
# Expected:  numpy computes, then torch does, nothing runs at the same time: each takes what it takes alone.
# Happens:   after a product OpenBLAS's threads look for more work for 20 to 30 ms, on the cores that torch's threads need
#            by then; who gets which core is the kernel's choice, so the time differs from process to process, by twenty
#            times. Nothing says so, and the results are right.
# Seen:      2 cores, x^T x of float64 (2000, 360) by numpy, then its eigenvalues by torch, with pauses of 0 to 15 ms
#            between: medians of 4 to 88 ms for the eigenvalues (five processes, four pauses). With one thread for
#            OpenBLAS 4.0 to 5.0 ms in all of them, and the product takes 5.3 ms instead of 3.0.
# Matters:   a Frechet distance with a jackknife does just that, and whatever takes a covariance by numpy (half the work of
#            torch's product, as the result is symmetric) and its root by torch. The time looks like that of the algebra.
# Instead:   threadpoolctl's limit of one thread for OpenBLAS around small products; or all of it by one library.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed, there is one core, or
# others use the cores.
# A PYTHON that has these versions already is used as it is, since torch takes gigabytes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

python=${PYTHON:-python3}
has='import sys, numpy, torch, threadpoolctl
sys.exit((numpy.__version__, torch.__version__.split("+")[0]) != ("2.4.6", "2.15.0"))'
if ! "$python" -c "$has" 2> /dev/null; then
  "$python" -m venv "$work/env"
  timeout --foreground 1800 "$work/env/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6 threadpoolctl==3.8.0 ||
    { echo "cannot install the packages" >&2; exit 2; }
  python=$work/env/bin/python
fi

cat > "$work/turns.py" <<'PY'
"""Print the longest of the medians of eigenvalues' milliseconds, over pauses after a product by numpy."""

import os
import statistics
import sys
import time

import numpy
import torch
from threadpoolctl import ThreadpoolController

ThreadpoolController().select(internal_api="openblas").limit(limits=int(sys.argv[1]))
torch.set_num_threads(len(os.sched_getaffinity(0)))
x = numpy.random.default_rng(0).standard_normal((2000, 360))
covariance = torch.from_numpy(x.T @ x)


def milliseconds(pause):
    times = []
    for _ in range(25):
        x.T @ x
        time.sleep(pause)
        begin = time.perf_counter()
        torch.linalg.eigvalsh(covariance)
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


print(max(milliseconds(pause) for pause in (0, 0.005, 0.01, 0.015)))
PY

cat > "$work/compare.py" <<'PY'
"""Run both ways in turn, each in five processes; exit 0 if OpenBLAS's threads make the worst case worse."""

import os
import subprocess
import sys

SPIN = """
import time
end, cpu = time.monotonic() + 1, time.process_time()
while time.monotonic() < end:
    pass
print(time.process_time() - cpu)
"""
cores = len(os.sched_getaffinity(0))
if cores < 2:
    print("one core: nothing to see")
    sys.exit(2)
spinning = [subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) for _ in range(cores)]
if sum(float(process.communicate()[0]) for process in spinning) < 0.9 * cores:
    print("other processes use the cores: nothing to see")
    sys.exit(2)
variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
found = {1: [], cores: []}
for _ in range(5):
    for threads, times in found.items():
        command = [sys.executable, sys.argv[1], str(threads)]
        times.append(float(subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout))
for threads, times in found.items():
    print(f"OpenBLAS with {threads} threads: " + ", ".join(f"{time:.1f}" for time in times) + " ms")
sys.exit(0 if max(found[cores]) > 1.6 * max(found[1]) else 1)
PY

code=0
"$python" "$work/compare.py" "$work/turns.py" || code=$?
case $code in
  0) echo "as stated: torch waits for OpenBLAS's threads" ;;
  2) exit 2 ;;
  *) echo "changed"; exit 1 ;;
esac
