"""The number of threads is decided by the nets' work, stands in the checkpoints and is kept by a resume."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_job import job, trained_here

from pipeline import methods
from pipeline.config import PARAMS, Run, read_params, read_run
from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import open_dataset
from pipeline.training.products import typical_product
from pipeline.training.publish import RunInfo, publish
from pipeline.training.threads import WORK, computing_with, decide_threads, product_of

SMALL = ImageSpec(channels=1, size=16, classes=10)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with computing_with(torch.get_num_threads()):
        yield


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "vae"])
def test_the_default_runs_take_one_thread_whatever_the_machine_has(name: str) -> None:
    run, own = read_run(read_params(ROOT / PARAMS), name)
    method = methods.configure(run, own, "")
    for available in (1, 2, 64):
        assert decide_threads(run, product_of(run, method, SMALL), processes=1, available=available) == 1


def test_larger_nets_take_more_as_far_as_there_are() -> None:
    run, method = Run(method="dcgan"), methods.load("dcgan", width=64)
    spec = ImageSpec(channels=3, size=32)
    wanted = int(typical_product(method, spec, samples=64, images=1) / WORK)
    assert 4 < wanted < 40
    product = product_of(run, method, spec)
    found = [decide_threads(run, product, processes=1, available=n) for n in (1, 2, wanted, 1000)]
    assert found == [1, 2, wanted, wanted]
    assert decide_threads(run, product, processes=64, available=1000) == 1  # a sample each
    assert decide_threads(replace(run, threads=3), product, processes=1, available=1) == 3


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "glow"])
def test_a_product_of_twice_the_batch_has_twice_the_work(name: str) -> None:
    method = methods.load(name)
    one, two = (typical_product(method, SMALL, samples=n, images=1) for n in (16, 32))
    assert one > 0 and two == pytest.approx(2 * one, rel=0.02)  # but for a product of parameters alone


def test_the_typical_product_in_closed_form() -> None:
    # gan of three layers of width w: products of 2 n a b operations each, forward and twice backward.
    method = methods.load("gan", net="mlp", width=256, latent=4)
    found = typical_product(method, SMALL, samples=8, images=1)
    assert 2 * 8 * 256 * 256 * 0.5 < found < 2 * 8 * 256 * 256 * 1.05  # the largest layer has 256 by 256


def test_weights_do_not_depend_on_the_cores_and_the_number_is_recorded(tmp_path: Path) -> None:
    found = []
    for available in (1, 2):
        torch.set_num_threads(available)
        found.append(trained_here(job(tmp_path / str(available))))
        assert torch.get_num_threads() == available
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    made = job(tmp_path / "1")
    about = RunInfo(name="toy", key="key", params={})
    folder = publish(about, made, open_dataset(Path(made.data)), tmp_path / "out").folder
    assert json.loads((folder / "train.json").read_text())["threads"] == 1


def test_a_resume_keeps_the_number_that_the_training_began_with(tmp_path: Path) -> None:
    whole, first = job(tmp_path / "whole"), job(tmp_path / "first")
    two = replace(whole.run, threads=2)
    expected = trained_here(replace(whole, run=two))
    trained_here(replace(first, run=replace(two, images=128)))
    torch.set_num_threads(1)
    resumed = trained_here(first)  # auto, which alone would be one thread
    assert first.checkpoints.peek(256)["threads"] == 2
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize("given", [None, "77"])
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(given: str | None) -> None:
    code = "import os, pipeline; print(os.environ['GOMP_SPINCOUNT'])"
    environment = {"PYTHONPATH": str(ROOT)} | ({"GOMP_SPINCOUNT": given} if given else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == (given or "1000")
