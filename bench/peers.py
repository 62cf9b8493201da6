"""Other people's metrics, in a virtual environment of their own: scores and seconds of features in a file.

Run by bench/parity.py and bench/evaluate.py; pinned, since pytorch-fid 0.3.0 and clean-fid 0.1.35 fail on scipy 1.18.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

PACKAGES = ("pytorch-fid==0.3.0", "clean-fid==0.1.35", "prdc==0.2", "torch-fidelity==0.4.0", "scipy<1.18")


@contextmanager
def peers(python: str | None = None) -> Iterator[str]:
    """A Python with the packages; python: one that has them already."""
    if python:
        yield python
        return
    with tempfile.TemporaryDirectory() as folder:
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
        found = str(Path(folder, "bin", "python"))
        subprocess.run([uv, "pip", "install", "-q", "--compile-bytecode", "--python", found, *PACKAGES], check=True)
        yield found


def ask(python: str, what: str, real: np.ndarray, samples: np.ndarray, logits: np.ndarray | None = None) -> dict:
    """Scores by name, "seconds", "cpu" seconds and "peak" MiB, of a function below, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("real", real), ("samples", samples), ("logits", logits)):
            if array is not None:
                np.save(Path(folder, f"{name}.npy"), array)
        done = subprocess.run([python, "-P", __file__, what, folder], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _pytorch_fid(real, samples, logits):
    from pytorch_fid.fid_score import calculate_frechet_distance

    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (samples, real)]
    return {"fid": calculate_frechet_distance(*moments[0], *moments[1])}


def _clean_fid(real, samples, logits):
    from cleanfid.fid import frechet_distance, kernel_distance

    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (samples, real)]
    found = {"fid": frechet_distance(*moments[0], *moments[1])}
    few = min(len(samples), len(real))
    return found | {"kid": kernel_distance(samples[:few], real[:few], num_subsets=1, max_subset_size=few)}


def _torch_fidelity(real, samples, logits):
    import torch
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    x, y = (torch.from_numpy(z) for z in (samples, real))
    statistics = [metric_fid.fid_features_to_statistics(z) for z in (x, y)]
    found = {"fid": metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]}
    kernel = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_coef0": 1.0}
    few = min(len(samples), len(real))  # it takes sets of one size
    found["kid"] = metric_kid.kernel_mmd(samples[:few], real[:few], kid_kernel_poly_gamma=None, **kernel)
    prc = metric_prc.prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=1024, save_cpu_ram=True, verbose=False
    )
    found |= {"precision": prc["precision"], "recall": prc["recall"]}
    isc = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    return found | {"is": isc["inception_score_mean"]}


def _prdc(real, samples, logits):
    import contextlib

    from prdc import compute_prdc

    with contextlib.redirect_stdout(sys.stderr):
        three, five = (compute_prdc(real, samples, k) for k in (3, 5))
    return {key: three[key] for key in ("precision", "recall")} | {key: five[key] for key in ("density", "coverage")}


def _prdc_once(real, samples, logits):
    import contextlib

    from prdc import compute_prdc

    with contextlib.redirect_stdout(sys.stderr):
        return compute_prdc(real, samples, 5)


if __name__ == "__main__":
    import resource

    arrays = [Path(sys.argv[2], f"{name}.npy") for name in ("real", "samples", "logits")]
    given = [np.load(path) if path.exists() else None for path in arrays]
    start, cpu = time.perf_counter(), time.process_time()
    scores = globals()[f"_{sys.argv[1]}"](*given)
    end = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    end["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({key: float(value) for key, value in {**scores, **end}.items()}))
