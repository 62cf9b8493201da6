#!/usr/bin/env bash
# torch's group norm on a CPU is several times slower in bfloat16 than in float32, where maps lie channels-last.
#
# Software:  torch 2.15.0 (torch.nn.functional.group_norm, CPU tensors in torch.channels_last memory).
# Expected:  half the bytes in at most the time of float32; and the same order of time in both memory formats.
# Happens:   with groups of a few channels, as U-Nets have them, bfloat16 takes several times as long as float32 in the
#            same memory format (forward for maps of fewer than 1,024 pixels, backward for all), and ten times as long
#            as bfloat16 in contiguous memory. The results are right.
# Seen:      16 maps of 128 channels, 8 x 8, 32 groups, forward and backward, one thread: channels-last 0.18 ms in
#            float32 and 1.5 ms in bfloat16, contiguous 0.12 ms in bfloat16
# Matters:   channels-last is what makes convolutions fast on a CPU, and under torch.autocast what comes after a
#            convolution is bfloat16. A small U-Net's step in bfloat16 takes 0.75 to 0.85 of its time without this.
# Instead:   group_norm(x.float(), ...).to(x.dtype), which also sums in float32; or contiguous maps around the norm.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed. A PYTHON that has
# this torch already is used as it is, since torch takes gigabytes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

python=${PYTHON:-python3}
if ! "$python" -c 'import sys, torch; sys.exit(torch.__version__.split("+")[0] != "2.15.0")' 2> /dev/null; then
  "$python" -m venv "$work/env"
  timeout --foreground 1800 "$work/env/bin/pip" install --quiet torch==2.15.0 numpy ||
    { echo "cannot install the packages" >&2; exit 2; }
  python=$work/env/bin/python
fi

cat > "$work/norms.py" <<'PY'
"""CPU seconds of group norm, forward and backward, by precision and memory format: the least of five turns."""

import sys
import time

import torch
from torch.nn.functional import group_norm

SHAPE, GROUPS, CALLS, TURNS = (16, 128, 8, 8), 32, 20, 7
torch.set_num_threads(1)


def seconds(dtype, layout):
    maps = torch.randn(SHAPE).to(dtype).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.ones_like(maps)
    begin = time.process_time()
    for _ in range(CALLS):
        maps.grad = None
        group_norm(maps, GROUPS).backward(gradient)
    return (time.process_time() - begin) / CALLS


kinds = {
    "channels-last float32": (torch.float32, torch.channels_last),
    "channels-last bfloat16": (torch.bfloat16, torch.channels_last),
    "contiguous bfloat16": (torch.bfloat16, torch.contiguous_format),
}
found = {name: [] for name in kinds}
for _ in range(TURNS):
    for name, kind in kinds.items():
        found[name].append(seconds(*kind))
least = {name: min(times) for name, times in found.items()}
for name, time_of in least.items():
    print(f"{name}: {1000 * time_of:.2f} ms")
slow = least["channels-last bfloat16"]
sys.exit(not (slow > 2.5 * least["channels-last float32"] and slow > 5 * least["contiguous bfloat16"]))
PY

if "$python" "$work/norms.py"; then
  echo "as stated: group norm is slow in bfloat16 and channels-last memory"
else
  echo "changed"
  exit 1
fi
