"""Pictures are pixel-true and complete: the grid, the film, the curves, and the stage that makes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from samplers import Overflowing, trained
from toy_data import toy_split

from pipeline import config
from pipeline.core.batch import ImageSpec
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.inference.weights import Trained
from pipeline.methods import load
from pipeline.render.curves import ON_DARK, draw, read_history
from pipeline.render.drawn import write_drawn, write_figure
from pipeline.render.grid import CELL, GAP, class_columns, grid, labelled, panel, write_png
from pipeline.render.pictures.film import CAPTION, MOST_FRAMES, film_of
from pipeline.render.samples import real_grid, sample_grid
from pipeline.render.shown import read_list
from pipeline.stages import render as stage

# grid


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_grid_shows_every_pixel_of_every_image_in_its_place(channels: int, mode: str) -> None:
    images = torch.randint(0, 256, (5, channels, 16, 16), dtype=torch.uint8)
    picture = grid(images, columns=3)
    pitch = CELL + GAP
    assert (picture.mode, picture.size) == (mode, (3 * pitch + GAP, 2 * pitch + GAP))
    pixels = torch.from_numpy(np.array(picture).reshape(*picture.size[::-1], channels))
    for index in range(5):
        top, left = (GAP + pitch * place for place in divmod(index, 3))
        cell = pixels[top : top + CELL, left : left + CELL].permute(2, 0, 1)
        for shift in range(4):  # 16 pixels are enlarged 4 times, to the same value
            assert torch.equal(cell[:, shift::4, shift::4], images[index])


def test_images_above_the_cells_size_are_not_reduced() -> None:
    assert grid(torch.zeros(2, 1, 100, 100, dtype=torch.uint8), columns=2).size == (2 * 102 + GAP, 102 + GAP)


def test_a_grid_refuses_floats_and_other_shapes() -> None:
    for bad in (
        torch.zeros(2, 1, 8, 8),
        torch.zeros(2, 2, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match="must be uint8"):
            grid(bad, columns=2)


def test_a_panel_is_the_grid_of_its_images() -> None:
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 1, 16, 16).unflatten(0, (2, 3))
    pixels = np.asarray(panel(images))
    centres = pixels[GAP + CELL // 2 :: CELL + GAP, GAP + CELL // 2 :: CELL + GAP]
    assert centres.tolist() == [[0, 51, 102], [153, 204, 255]]


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, grid(toy_split(6).images(range(6)), 3))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_columns_hold_classes_without_repeating_an_image_while_there_are_others() -> None:
    labels = torch.arange(40) % 4
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    chosen = class_columns(labels, order, rows=3, columns=6, classes=4)
    assert labels[chosen].reshape(3, 6).tolist() == [[0, 1, 2, 3, 0, 1]] * 3
    assert len(set(chosen.tolist())) == 18
    assert chosen[0] == order[labels[order] == 0][0]


def test_columns_cope_with_few_images_empty_classes_and_no_classes() -> None:
    labels, order = torch.tensor([0, 2, 2]), torch.tensor([2, 0, 1])
    assert class_columns(labels, order, rows=2, columns=2, classes=3).tolist() == [0, 2, 0, 1]
    assert class_columns(labels, order, rows=2, columns=2, classes=0).tolist() == [2, 0, 1, 2]


# film


def frames_of(path: Path) -> tuple[list[Image.Image], list[int]]:
    with Image.open(path) as film:
        frames = [frame.copy() for frame in ImageSequence.Iterator(film)]
    return frames, [frame.info["duration"] for frame in frames]


def snapshots(folder: Path, counts: list[int], mode: str = "L") -> list[Path]:
    """Even pictures whose gray level is their place."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, seen in enumerate(counts):
        Image.new(mode, (60, 40), place * 2 if mode == "L" else (place * 2,) * 3).save(folder / f"{seen:09d}.png")
    return sorted(folder.iterdir(), reverse=True)


def test_a_film_shows_the_snapshots_in_order(tmp_path: Path) -> None:
    write_drawn(tmp_path, "film", film_of(snapshots(tmp_path / "s", [0, 5000, 100_000]), 150), "Film", "Moves.")
    frames, durations = frames_of(tmp_path / "film.webp")
    assert [frame.size for frame in frames] == [(60, 40 + CAPTION)] * 3
    assert [frame.convert("L").getpixel((30, 20)) for frame in frames] == [0, 2, 4]
    assert durations[:2] == [150, 150] and durations[2] > 150
    caption = np.asarray(frames[2].convert("L"))[40:]
    assert caption.min() < 100 and caption.max() == 255


def test_a_long_film_keeps_its_ends(tmp_path: Path) -> None:
    write_drawn(
        tmp_path, "film", film_of(snapshots(tmp_path / "s", list(range(0, 100_000, 1000))), 100), "Film", "Moves."
    )
    frames, _ = frames_of(tmp_path / "film.webp")
    shown = [frame.convert("L").getpixel((30, 20)) for frame in frames]
    assert len(shown) == MOST_FRAMES and shown == sorted(set(shown)) and (shown[0], shown[-1]) == (0, 198)


def test_a_film_of_one_colour_snapshot(tmp_path: Path) -> None:
    write_drawn(tmp_path, "film", film_of(snapshots(tmp_path / "s", [10], "RGB"), 100), "Film", "Moves.")
    frames, _ = frames_of(tmp_path / "film.webp")
    assert len(frames) == 1


# curves


def test_history_leaves_empty_cells_out(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("seen,a/loss,b/loss,c\n10,1.5,,\n20,2.5,-3,\n")
    assert read_history(tmp_path / "history.csv") == {"a/loss": [(10, 1.5), (20, 2.5)], "b/loss": [(20, -3.0)]}


@pytest.mark.parametrize("content", ["step,a\n1,2\n", "seen,a\n1,x\n", "seen,a\n1\n2,3,4\n"])
def test_a_damaged_history_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "history.csv").write_text(content)
    with pytest.raises(UserError, match=r"history\.csv: no readable history"):
        read_history(tmp_path / "history.csv")


def test_curves_plot_every_series_and_only_wide_positive_ones_on_a_log_scale() -> None:
    steps = range(0, 1000, 100)
    series = {
        "even": [(step, 1.0 + step) for step in range(0, 50, 10)],
        "wide": [(step, 10.0 ** (step / 200)) for step in steps],
        "signed": [(step, step - 500.0) for step in steps],
        "nan": [(step, float("nan")) for step in steps],
    }
    axes = [ax for ax in draw(series).axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in axes] == list(series)
    assert [ax.get_yscale() for ax in axes] == ["linear", "log", "linear", "linear"]
    np.testing.assert_array_equal(axes[1].lines[0].get_xydata(), series["wide"])


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize("series", [{}, {"one": [(10, 1.0)]}, {f"s{i}": [(0, i), (9, 2)] for i in range(7)}])
def test_curves_are_drawn_alike_each_time(tmp_path: Path, kind: str, series: dict) -> None:
    for name in ("a", "b"):
        write_figure(draw(series, ON_DARK), tmp_path / f"{name}.{kind}")
    content = (tmp_path / f"a.{kind}").read_bytes()
    assert content == (tmp_path / f"b.{kind}").read_bytes() and len(content) > 1000


# samples


def test_real_images_are_one_class_per_column() -> None:
    dataset = Dataset(spec=ImageSpec(channels=1, size=16, classes=10), info={}, splits={"test": toy_split(50)})
    pixels = np.asarray(real_grid(dataset, "test", seed=0))
    assert pixels.shape == (5 * (CELL + GAP) + GAP, 10 * (CELL + GAP) + GAP)
    shown = {pixels[r : r + CELL : 4, c : c + CELL : 4].tobytes(): c for r, c in places(5, 10)}
    split, pitch = dataset.splits["test"], CELL + GAP
    for number in range(50):
        assert shown[split.images([number]).numpy().tobytes()] == GAP + pitch * split.labels[number]


def test_labels_stand_over_columns_and_beside_rows_and_leave_the_pictures_as_they_are() -> None:
    sheet = grid(torch.zeros(6, 1, 16, 16, dtype=torch.uint8), columns=3)
    named = labelled(sheet, columns=["a", "a name that is much wider than a column of the grid", ""], rows=["x", "y"])
    left, top = named.width - sheet.width, named.height - sheet.height
    pixels = np.asarray(named)
    assert np.array_equal(pixels[top:, left:], np.asarray(sheet)) and named.mode == "L"
    ink = (pixels[:top, left:] < 128).any(0)
    pitch = CELL + GAP
    assert ink[:pitch].any() and ink[pitch : 2 * pitch].any() and not ink[2 * pitch :].any()
    rows = (pixels[top:, :left] < 128).any(1)
    assert rows[:pitch].any() and rows[pitch:].any()


def places(rows: int, columns: int) -> list[tuple[int, int]]:
    """The upper left pixels of a grid's cells."""
    return [(GAP + r * (CELL + GAP), GAP + c * (CELL + GAP)) for r in range(rows) for c in range(columns)]


# the stage


@pytest.mark.parametrize(("method", "channels", "own"), [("dcgan", 3, {"saliency"}), ("vae", 1, {"reconstructions"})])
def test_render_draws_every_picture_and_sends_them(
    method: str, channels: int, own: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ImageSpec(channels=channels, size=16, classes=10)
    splits = {"train": toy_split(48, channels=channels), "test": toy_split(12, channels=channels)}
    model = load(method, width=8)
    fresh = Trained(method=model, nets=model.build(spec).eval(), spec=spec, seen=1000, name=method, params={})
    params = config.read_params(Path(__file__).parents[2] / "params.yaml")
    chosen = ["reconstructions", "film", "saliency", "curves"]
    params = replace(params, render=config.Render(pictures=chosen, rows=3), runs={"toy": {"method": method}})

    sent: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "read_params", lambda: params)
    monkeypatch.setattr("pipeline.tracking.agreement.send_results", lambda name, *_: sent.append(name))
    monkeypatch.setattr("pipeline.render.samples.open_dataset", lambda path: Dataset(spec=spec, info={}, splits=splits))
    monkeypatch.setattr("pipeline.render.samples.load_fitting", lambda path, spec: fresh)
    folder = Path("out/runs/toy")
    snapshots(folder / "snapshots", [0, 500, 1000])
    (folder / "history.csv").write_text("seen,a/loss\n500,1\n1000,2\n")
    stage.main("toy")
    first = (folder / "samples.png").read_bytes()
    stage.main("toy")
    assert (folder / "samples.png").read_bytes() == first
    with Image.open(folder / "samples.png") as samples:
        assert samples.mode == {1: "L", 3: "RGB"}[channels]
        assert samples.size == (10 * (CELL + GAP) + GAP, 3 * (CELL + GAP) + GAP)
    assert {file.stem for file in (folder / "panels").iterdir()} == {"film", "curves", "pictures"} | own
    shown = read_list(folder / "panels")
    assert [picture.name for picture in shown] == [name for name in chosen if name in {"film", "curves"} | own]
    assert {picture.name: picture.kind for picture in shown} == dict.fromkeys(own, "images") | {
        "film": "film",
        "curves": "figure",
    }
    assert sent == [Path("out/runs/toy")] * 2


def test_a_run_in_trouble_has_pictures_all_the_same(tmp_path: Path) -> None:
    spec = ImageSpec(channels=1, size=16, classes=10)
    dataset = Dataset(spec=spec, info={}, splits={"train": toy_split(48), "test": toy_split(12)})
    settings = config.Render(rows=2, columns=10)
    sound, broken = (
        np.asarray(sample_grid(trained(Overflowing(share=share), spec), dataset, settings, 7)) for share in (0.0, 0.5)
    )
    cells = [(slice(r, r + CELL), slice(c, c + CELL)) for r, c in places(2, 10)]
    black = [cell for cell in cells if broken[cell].max() == 0]
    assert 2 < len(black) < 18  # drawn as they are
    assert all(np.array_equal(broken[cell], sound[cell]) for cell in cells if cell not in black)
