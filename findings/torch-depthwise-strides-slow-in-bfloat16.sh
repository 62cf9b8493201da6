#!/usr/bin/env bash
# The gradient of a strided depthwise convolution is tens of times slower in bfloat16 than in float32 on a CPU.
#
# Software:  torch 2.15.0 (torch.nn.functional.conv2d and conv_transpose2d with groups = channels, CPU tensors).
# Expected:  as with dense convolutions, at most the time of float32 where the processor computes in bfloat16.
# Happens:   where the stride is 2, the gradient by the maps, and the forward pass of the transposed convolution, which
#            is the same operation, take 20 to 100 times as long in bfloat16, in either memory format. The forward pass
#            of the strided one, and both passes where the stride is 1, take at most the time of float32. The results
#            are right.
# Seen:      16 maps of 128 channels, 8 x 8, kernels of 4 x 4, stride 2, one thread, a processor with avx512_bf16:
#            gradient by the maps 0.07 ms in float32, 7.0 ms in bfloat16; transposed 0.10 ms and 15 ms
# Matters:   filtered resampling as of StyleGAN2 is such a convolution, and under torch.autocast it is in bfloat16: a
#            step of a small StyleGAN2 took 1.2 times as long in bfloat16 as in float32, and takes 0.8 without this.
# Instead:   compute it in float32, with autocast off around it.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed, or this processor has
# no instructions for bfloat16. A PYTHON that has this torch already is used as it is, since torch takes gigabytes.
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

cat > "$work/strides.py" <<'PY'
"""CPU seconds of a depthwise convolution's gradient by the maps, and of a transposed one: the least of seven turns."""

import sys
import time

import torch
from torch.nn.functional import conv2d, conv_transpose2d

if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
    sys.exit(2)
CHANNELS, CALLS, TURNS = 128, 5, 7
torch.set_num_threads(1)


def least(calls):
    """Each function's CPU seconds a call, by name; in turn."""
    found = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            begin = time.process_time()
            for _ in range(CALLS):
                call()
            found[name].append((time.process_time() - begin) / CALLS)
    return {name: min(times) for name, times in found.items()}


def gradient(dtype, stride):
    maps = torch.randn(16, CHANNELS, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    kernels = torch.ones(CHANNELS, 1, 4, 4, dtype=dtype)
    out = conv2d(maps, kernels, stride=stride, padding=1, groups=CHANNELS)
    ones = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, maps, ones, retain_graph=True)


def transposed(dtype):
    maps = torch.randn(16, CHANNELS, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    kernels = torch.ones(CHANNELS, 1, 4, 4, dtype=dtype)
    return lambda: conv_transpose2d(maps, kernels, stride=2, padding=1, groups=CHANNELS)


kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ratios = {}
for what, made in {
    "gradient, stride 2": lambda dtype: gradient(dtype, 2),
    "transposed, stride 2": transposed,
    "gradient, stride 1": lambda dtype: gradient(dtype, 1),
}.items():
    times = least({name: made(dtype) for name, dtype in kinds.items()})
    ratios[what] = times["bfloat16"] / times["float32"]
    print(f"{what}: " + ", ".join(f"{1000 * seconds:.2f} ms in {name}" for name, seconds in times.items()))
strided = ratios["gradient, stride 2"] > 10 and ratios["transposed, stride 2"] > 10
sys.exit(not (strided and ratios["gradient, stride 1"] < 4))
PY

status=0
"$python" "$work/strides.py" || status=$?
case $status in
  0) echo "as stated: strided depthwise convolutions are slow in bfloat16" ;;
  2) echo "this processor has no instructions for bfloat16" >&2; exit 2 ;;
  *) echo "changed"; exit 1 ;;
esac
