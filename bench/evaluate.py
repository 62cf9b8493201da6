"""From 2 x 10,000 features of 2,048 dimensions to FID, precision, recall, density, coverage and KID, beside others.

Ours come with their intervals, others' without; FID is timed without its error, too.

    python bench/evaluate.py [--python A_PYTHON_THAT_HAS_THEM] [--count 10000] [--rounds 2]

Each of ours and of theirs in a process of its own, in turn; ratios of seconds, and the peak of memory. With
OMP_NUM_THREADS=1 the ratios of processor time are those of a quiet machine even on a busy one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from parity import features
from peers import ask, peers

OURS = """
import json, resource, sys, time
import numpy as np, torch
from pipeline.evaluate import metrics
from pipeline.evaluate.feature_set import FeatureSet, Statistics
from dataclasses import replace
folder, names = sys.argv[1], sys.argv[2:]
def measured(name):
    x = torch.from_numpy(np.load(f"{folder}/{name}.npy", mmap_mode="c"))
    none = torch.empty(len(x), 0)
    return FeatureSet(features=x, logits=none, labels=none[:, :0], seed=0, distinct=len(x))
samples, real = measured("samples"), measured("real")
if names == ["fid"]:
    start = time.perf_counter()
    real = replace(real, stored=Statistics.of(real.features).factorized())
    kept = time.perf_counter() - start
def timed(compute):
    start, cpu = time.perf_counter(), time.process_time()
    found = compute()
    return found | {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
def all_of_them():
    return {k: s.value for name in names for k, s in metrics.load(name).compute(samples, real).items()}
def without_error():
    from pipeline.evaluate.metrics.fid import frechet_distance
    return {"fid": frechet_distance(real.statistics, samples.statistics)}
found = timed(all_of_them)
if names == ["fid"]:
    found |= {f"{k} without its error": v for k, v in timed(without_error).items()}
if "precision_recall" in names:
    from pipeline.evaluate.metrics import density_coverage, precision_recall
    precision_recall.error_of_recall = density_coverage.fixed_balls = lambda *given: None
    samples, real = measured("samples"), measured("real")
    found |= {f"{k} without their errors": v for k, v in timed(all_of_them).items()}
found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(found | ({"once": kept} if names == ["fid"] else {})))
"""


def ours(folder: str, *names: str) -> dict[str, float]:
    out = subprocess.run([sys.executable, "-c", OURS, folder, *names], check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    real, samples = (features(options.count, 2048, seed).astype(np.float32) for seed in (1, 2))
    pairs = {("fid",): "pytorch_fid", ("precision_recall", "density_coverage"): "prdc_once", ("kid",): ""}
    with tempfile.TemporaryDirectory() as folder, peers(options.python) as python:
        np.save(Path(folder, "real.npy"), real)
        np.save(Path(folder, "samples.npy"), samples)
        for names, peer in pairs.items():
            rounds = [
                (ours(folder, *names), ask(python, peer, real, samples) if peer else {}) for _ in range(options.rounds)
            ]
            mine, theirs = rounds[-1]
            print("+".join(names), "ours", mine)
            print("  ", peer, theirs, flush=True)
            for key in [key for key in mine if key.split()[0] in ("seconds", "cpu")] if peer else ():
                each = [b[key.split()[0]] / a[key] for a, b in rounds]
                print(f"   times as fast, {key}: {statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})")


if __name__ == "__main__":
    main()
