"""Folders of samples: number i is a function of (seed, i), files are whole, and a folder is completed, never mixed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samplers import trained

from pipeline import methods
from pipeline.core.batch import ImageSpec, to_uint8
from pipeline.errors import UserError
from pipeline.inference.export import Sampler
from pipeline.inference.sample import (
    draw_samples,
    png_names,
    sampling_otherwise,
    write_reconstructions,
    write_samples,
    write_translations,
)
from pipeline.inference.weights import Trained
from pipeline.ingest.own_images import open_images

SPEC = ImageSpec(channels=1, size=16, classes=10)


def model(name: str = "dcgan", spec: ImageSpec = SPEC, **settings: Any) -> Trained:
    method = methods.load(name, **{"width": 8} | settings)
    return Trained(method=method, nets=trained(method, spec).nets, spec=spec, seen=5, name=name, params={})


def read(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {file.name: np.asarray(Image.open(file)).astype(int) for file in sorted(folder.glob("*.png"))}


def test_a_sample_depends_on_its_seed_and_number_alone(tmp_path: Path) -> None:
    assert write_samples(model(), tmp_path / "whole", 7) == 7
    write_samples(model(), tmp_path / "parts", 5, batch_size=2)
    write_samples(model(), tmp_path / "seed", 7, seed=1)
    whole, parts, seed = (read(tmp_path / name) for name in ("whole", "parts", "seed"))
    assert list(whole) == [f"{number:06d}.png" for number in range(7)]
    assert len(parts) == 5 and all(np.abs(whole[name] - parts[name]).max() <= 1 for name in parts)
    assert all(np.abs(whole[name] - seed[name]).max() > 5 for name in whole)
    direct = to_uint8(Sampler(model())(torch.arange(7), torch.zeros(7, dtype=torch.int64)))[:, 0].int().numpy()
    assert np.abs(np.stack(list(whole.values())) - direct).max() <= 1, "seed 0 is the exported model"
    np.testing.assert_array_equal(draw_samples(model(), 7)[:, 0].int().numpy(), np.stack(list(whole.values())))
    about = json.loads((tmp_path / "whole" / "samples.json").read_text())
    assert (about["method"], about["seen"], about["seed"], about["count"]) == ("dcgan", 5, 0, 7) and about["complete"]


def test_a_folder_is_completed_and_grows_but_holds_one_kind(tmp_path: Path) -> None:
    write_samples(model(), tmp_path / "x", 6)
    before = read(tmp_path / "x")
    (tmp_path / "x" / "000002.png").unlink()
    (tmp_path / "x" / ".000002.png.part").write_bytes(b"half")  # as a killed process leaves it
    assert write_samples(model(), tmp_path / "x", 8, batch_size=3) == 3
    after = read(tmp_path / "x")
    assert len(after) == 8 and all(np.abs(after[name] - before[name]).max() <= 1 for name in before)
    assert not list((tmp_path / "x").glob("*.part"))
    with pytest.raises(UserError, match="samples of another seed"):
        write_samples(model(), tmp_path / "x", 8, seed=3)
    with pytest.raises(UserError, match=r"samples of another .*weights_sha256"):
        write_samples(model(width=16), tmp_path / "x", 8)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.png").write_bytes(b"x")
    with pytest.raises(UserError, match="not empty"):
        write_samples(model(), tmp_path / "foreign", 8)
    assert [file.name for file in (tmp_path / "foreign").iterdir()] == ["mine.png"]


def test_an_interrupted_folder_says_so_and_is_completed(tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(model(), tmp_path / "x", 8, batch_size=2, report=stop)
    assert len(read(tmp_path / "x")) == 4
    assert not json.loads((tmp_path / "x" / "samples.json").read_text())["complete"]
    assert write_samples(model(), tmp_path / "x", 6, batch_size=2) == 2
    assert not json.loads((tmp_path / "x" / "samples.json").read_text())["complete"], "8 were wanted at first"
    assert write_samples(model(), tmp_path / "x", 8) == 2
    assert json.loads((tmp_path / "x" / "samples.json").read_text())["complete"]


def test_labels_and_truncation_are_taken_where_they_have_a_meaning(tmp_path: Path) -> None:
    conditional = model("cgan")
    write_samples(conditional, tmp_path / "turns", 12)
    write_samples(conditional, tmp_path / "one", 12, label=1)
    turns, one = read(tmp_path / "turns"), read(tmp_path / "one")
    apart = {int(name[:6]): np.abs(turns[name] - one[name]).max() for name in turns}
    assert max(apart[1], apart[11]) <= 1 < max(apart.values())
    write_samples(model(), tmp_path / "narrow", 4, truncation=0.1)
    write_samples(model(), tmp_path / "wide", 4)
    narrow, wide = (np.stack(list(read(tmp_path / name).values())).std(0).mean() for name in ("narrow", "wide"))
    assert narrow < 0.3 * wide
    for settings, words in (
        ({"label": 3}, "not class-conditional"),
        ({"label": 10}, "below 10"),
        ({"truncation": 0.0}, "above 0"),
        ({"seed": -1}, "0 or more"),
    ):
        with pytest.raises(UserError, match=words):
            write_samples(model(), tmp_path / "none", 4, **settings)
    with pytest.raises(UserError, match="no normal latents"):
        write_samples(model(prior="uniform"), tmp_path / "none", 4, truncation=0.5)
    with pytest.raises(UserError, match="translates images"):
        write_samples(model("cyclegan"), tmp_path / "none", 4)
    assert not (tmp_path / "none").exists()


def test_a_model_samples_with_other_params_of_sampling_and_no_others(tmp_path: Path) -> None:
    flow = model("flow_matching", sampling_steps=2)
    quick = sampling_otherwise(flow, {"sampling_steps": 1, "solver": "euler"})
    again = model("flow_matching", sampling_steps=1, solver="euler")
    assert quick.method == again.method and quick.params["solver"] == "euler"
    assert torch.equal(draw_samples(quick, 3), draw_samples(again, 3))
    assert not torch.equal(draw_samples(quick, 3), draw_samples(flow, 3))
    assert sampling_otherwise(flow, {}) is flow
    write_samples(flow, tmp_path / "x", 2)
    with pytest.raises(UserError, match="another params"):
        write_samples(quick, tmp_path / "x", 3)
    for settings, words in (
        ({"lr": 0.1}, "it changes no sample"),
        ({"width": 16}, "it changes no sample"),
        ({"sampling_steps": 2}, "it changes no sample"),
        ({"sampling_step": 3}, "Did you mean 'sampling_steps'"),
        ({"sampling_steps": 0}, "sampling_steps: expected"),
    ):
        with pytest.raises(UserError, match=words):
            sampling_otherwise(flow, settings)


def own(tmp_path: Path) -> Path:
    for number, name in enumerate(["x/1.jpg", "x/1.png", "y.jpg"]):
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    return tmp_path / "own"


def test_translations_keep_names_and_have_both_directions(tmp_path: Path) -> None:
    found = model("cyclegan", ImageSpec(channels=3, size=16), blocks=0)
    with open_images([own(tmp_path)]) as images:
        write_translations(found, images, tmp_path / "there", batch_size=2)
        write_translations(found, images, tmp_path / "back", direction="b_to_a")
        (whole,) = images.batches(found.spec, 3)
        with pytest.raises(UserError, match="not empty"):
            write_translations(found, images, tmp_path / "back")
        with pytest.raises(UserError, match="dcgan translates no images"):
            write_translations(model(), images, tmp_path / "none")
    for folder, net in (("there", "a_to_b"), ("back", "b_to_a")):
        expected = to_uint8(found.nets[net](whole / 127.5 - 1)).permute(0, 2, 3, 1).int().numpy()
        listed = json.loads((tmp_path / folder / "translations.json").read_text())
        assert listed["direction"] == net and [row["image"] for row in listed["images"]] == [
            "x/1.jpg",
            "x/1.png",
            "y.jpg",
        ]
        assert [row["file"] for row in listed["images"]] == ["x/1.jpg.png", "x/1.png.png", "y.png"]
        for row, image in zip(listed["images"], expected, strict=True):
            assert np.abs(np.asarray(Image.open(tmp_path / folder / row["file"])).astype(int) - image).max() <= 1


def test_a_method_of_pairs_translates_in_one_direction(tmp_path: Path) -> None:
    found = model("pix2pix", ImageSpec(channels=3, size=16), levels=2)
    with open_images([own(tmp_path)]) as images:
        write_translations(found, images, tmp_path / "there", batch_size=2)
        (whole,) = images.batches(found.spec, 3)
        with pytest.raises(UserError, match="b_to_a"):
            write_translations(found, images, tmp_path / "back", direction="b_to_a")
        with pytest.raises(UserError, match="pix2pix"):
            write_reconstructions(found, images, tmp_path / "again")
    with torch.no_grad():
        expected = to_uint8(found.nets["generator"](whole / 127.5 - 1, None)).permute(0, 2, 3, 1).int().numpy()
    listed = json.loads((tmp_path / "there" / "translations.json").read_text())
    for row, image in zip(listed["images"], expected, strict=True):
        assert np.abs(np.asarray(Image.open(tmp_path / "there" / row["file"])).astype(int) - image).max() <= 1


def test_reconstructions_say_how_far_they_are(tmp_path: Path) -> None:
    found = model("vae", ImageSpec(channels=3, size=16))
    with open_images([own(tmp_path)]) as images:
        error = write_reconstructions(found, images, tmp_path / "out", batch_size=2)
        (whole,) = images.batches(found.spec, 3)
    rows = json.loads((tmp_path / "out" / "reconstructions.json").read_text())["images"]
    assert error == pytest.approx(np.mean([row["mean_absolute_difference"] for row in rows]))
    written = np.stack([np.asarray(Image.open(tmp_path / "out" / row["file"])).astype(int) for row in rows])
    assert error == pytest.approx(np.abs(written - whole.permute(0, 2, 3, 1).numpy().astype(int)).mean(), rel=1e-4)


def test_names_of_pictures_stay_apart() -> None:
    assert png_names(["a.jpg", "b/a.jpg", "a.png", "c.d.jpg"]) == ["a.jpg.png", "b/a.png", "a.png.png", "c.d.png"]
