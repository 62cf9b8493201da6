#!/usr/bin/env bash
# torch's fused optimizers on a CPU apply gradients and moments of another memory format to the wrong weights, silently.
#
# Software:  torch 2.15.0 (fused=True of Adam, AdamW, SGD and Adagrad, on CPU tensors).
# Expected:  a step is the same whatever the strides of a parameter, its gradient and its moments, as it is with
#            foreach=False; or an error, as CUDA's fused kernels raise one.
# Happens:   the kernels go through the memory of each from one end to the other. Where a gradient or a moment is
#            contiguous and its parameter channels-last, each value meets another weight. Nothing raises.
# Seen:      plain: weights the same to 1e-6 with the gradient in either format
#            fused Adam, AdamW, SGD, Adagrad: weights off by up to a whole step with the gradient in the other format
# Matters:   backward() itself lays gradients as their parameters lie. But a checkpoint of a contiguous net, loaded into
#            one in channels-last memory; net.to(memory_format=torch.channels_last) after the first step; and
#            p.grad = torch.autograd.grad(...)[0] do not. The loss still falls, only worse.
# Instead:   after load_state_dict of an optimizer bring each moment into its parameter's format by
#            torch.empty_like(parameter).copy_(moment); change the format before the first step; p.grad.copy_(...).
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

cat > "$work/steps.py" <<'PY'
"""Two steps with gradients of one format and of the other; by how much the weights differ."""

import sys

import torch
from torch.optim import SGD, Adagrad, Adam, AdamW

SHAPE = (4, 3, 2, 2)


def stepped(kind, layout, **how):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(SHAPE).contiguous(memory_format=torch.channels_last))
    optimizer = kind([weight], lr=0.1, **how)
    for _ in range(2):
        weight.grad = torch.randn(SHAPE).contiguous(memory_format=layout)
        optimizer.step()
    return weight.detach()


def apart(kind, **how):
    one, other = (stepped(kind, layout, **how) for layout in (torch.channels_last, torch.contiguous_format))
    return float((one - other).abs().max())


as_stated = True
for kind in (Adam, AdamW, SGD, Adagrad):
    plain, fused = apart(kind, foreach=False), apart(kind, fused=True)
    print(f"{kind.__name__}: weights differ by {plain:.1e} plain and by {fused:.1e} fused")
    as_stated &= plain < 1e-6 < 1e-2 < fused
sys.exit(not as_stated)
PY

if "$python" "$work/steps.py"; then
  echo "as stated: fused optimizers on a CPU take no notice of strides"
else
  echo "changed"
  exit 1
fi
