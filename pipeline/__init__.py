"""Genloom: reproducible, distributed training of generative image models."""

import os

__version__ = "0.1.0"

# How long a thread of torch's (libgomp) spins while it waits for the others, read when torch is imported. Its own
# default is milliseconds: beside a busy process, or another training, a thread that spins holds the core
# that another one waits for, and training falls to a third and less. So long, some 20 microseconds, bridges the pauses
# between two operations; after it a thread sleeps. The results are the same.
SPIN = "1000"
os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
