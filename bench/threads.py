"""Trainings that share the machine: two at once, and one beside a busy process, against one alone.

    python bench/threads.py [--run dcgan wgan_gp vae] [--rounds 5] [--seconds 8] [--threads N] [--spin N]

Each training is a process of its own with the nets of a run of params.yaml. A round measures each run alone, beside a
process that computes without pause, and two of it at once, in an order that turns. --threads and --spin
(GOMP_SPINCOUNT) say what would come of other choices than the product's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack

import torch
from loop import PLAIN, WARM, loop_of, rates

BUSY = "while True: pass"
KINDS = ("alone", "busy", "two")


def train(args: argparse.Namespace) -> None:
    """Warm up, say so, wait for a line, train, and print the rates."""
    if args.threads:
        torch.set_num_threads(args.threads)
    args.run = args.only
    loop = loop_of("genloom", args)
    for _ in range(WARM):
        next(loop)
    if args.threads:
        torch.set_num_threads(args.threads)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(rates(loop, args.seconds)), flush=True)


def started(run: str, stack: ExitStack) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", run]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready", f"{run} did not begin to train"
    return process


def images_per_second(run: str, kind: str) -> float:
    """The sum over the trainings that run at once."""
    with ExitStack() as stack:
        trainings = [started(run, stack) for _ in range(2 if kind == "two" else 1)]
        if kind == "busy":
            busy = subprocess.Popen([sys.executable, "-c", BUSY])
            stack.callback(busy.kill)
        for process in trainings:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return sum(json.loads(process.communicate()[0].splitlines()[-1])[0] for process in trainings)


def main(args: argparse.Namespace) -> None:
    if args.only:
        train(args)
        return
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {vars(args)}", flush=True)
    for run in args.run:
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(args.rounds):
            for place in range(len(KINDS)):
                kind = KINDS[(place + number) % len(KINDS)]
                found[kind].append(images_per_second(run, kind))
            print(f"{run} {number}: " + ", ".join(f"{k} {v[-1]:.0f}" for k, v in found.items()), flush=True)
        for kind, goal in (("two", 1.3), ("busy", 0.7)):
            each = sorted(a / b for a, b in zip(found[kind], found["alone"], strict=True))
            print(
                f"{run}: {kind} against alone: median {statistics.median(each):.2f} (goal {goal}), lowest "
                f"{each[0]:.2f}, highest {each[-1]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", choices=list(PLAIN), default=list(PLAIN))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--spin")
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    ENVIRONMENT = os.environ | ({"GOMP_SPINCOUNT": given.spin} if given.spin else {})
    main(given)
