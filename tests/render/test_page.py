"""The report in a browser, from the file system: it sorts, compares, tells how numbers were made, and explores."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import Tab, browser
from samplers import trained as as_trained
from test_report import FID, IS, board_of, make_run, write_measured

from pipeline import methods
from pipeline.config import Render
from pipeline.core.batch import ImageSpec, to_uint8
from pipeline.data.dataset import Dataset
from pipeline.inference.onnx import LatentSampler
from pipeline.inference.weights import Trained
from pipeline.render.explorer import write_explorer, write_scripts
from pipeline.render.picture import Subject
from pipeline.render.report import UNKNOWN, write_page

pytest.importorskip("onnxruntime")
SPEC = ImageSpec(channels=3, size=8, classes=2)
DATA = Dataset(spec=SPEC, info={}, splits={})  # the explorer needs no images
LATENT = 6
ROWS = "[...document.querySelector('#leaderboard-table').tBodies[0].rows].map(row => row.cells[0].textContent)"
PICTURE = "document.getElementById('picture').toDataURL()"
DRAWN = "Number(document.getElementById('explorer').dataset.drawn)"


@pytest.fixture(scope="module")
def conditional() -> Trained:
    return as_trained(methods.load("cvae", width=4, latent=LATENT), SPEC)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, conditional: Trained) -> Path:
    """Four runs: two that can be explored, of one model, since exports take seconds; one that cannot; one of before."""
    out = tmp_path_factory.mktemp("project") / "out"
    numbers = {"labelled": (30.0, 3.0), "plain": (20.0, 2.0), "translating": (40.0, 4.0)}
    for name, (fid, score) in numbers.items():
        folder = make_run(out, name, {FID: fid, IS: score, f"{IS}_std": 0.1}, lr=fid / 1000, width=4)
        if name == "plain":
            shutil.copytree(out / "runs" / "labelled" / "explorer", folder / "explorer")
            continue
        made = conditional if name == "labelled" else as_trained(methods.load("cyclegan", width=2, blocks=0), SPEC)
        write_explorer(folder / "explorer", Subject(trained=made, data=DATA, settings=Render(), at_a_time=16))
    make_run(out, "unmeasured", None, lr=0.001)
    (out / "real").mkdir()
    (out / "reference").mkdir()
    write_measured(out / "real", {FID: 10.0}, real={"count": 719})
    board = board_of(out, *numbers, "unmeasured")
    write_page(out / "report.html", board)
    write_scripts(out / "explorer", {run.name: run.folder for run in board.runs})
    return out


@pytest.fixture(scope="module")
def open_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(open_tab: Tab, out: Path) -> Tab:
    open_tab.problems.clear()
    open_tab.requests.clear()
    open_tab.open(out / "report.html")
    return open_tab


def explore(tab: Tab) -> None:
    tab.run("document.getElementById('explore').scrollIntoView()")
    tab.wait(f"{DRAWN} > 0")


def changed(tab: Tab, script: str) -> None:
    """Run a script, and wait until the explorer has drawn what it asked for."""
    before = tab.run(DRAWN)
    tab.run(script)
    tab.wait(f"{DRAWN} > {before}")


def move(selector: str, value: float) -> str:
    return (
        f"(() => {{ const range = document.querySelector({selector!r}); range.value = {value}; "
        "range.dispatchEvent(new Event('input')); })()"
    )


def choose(selector: str, option: str) -> str:
    return (
        f"(() => {{ const select = document.querySelector({selector!r}); "
        f"select.selectedIndex = [...select.options].findIndex(option => option.text === {option!r}); "
        "select.dispatchEvent(new Event('change')); })()"
    )


def head(title: str) -> str:
    return f"[...document.querySelectorAll('.sort')].find(button => button.textContent.startsWith({title!r}))"


def test_columns_sort_by_click_and_by_keyboard_and_the_unknown_stays_last(tab: Tab) -> None:
    assert tab.run(ROWS) == ["plain", "labelled", "translating", "unmeasured"]
    tab.run(f"{head('IS')}.click()")
    assert tab.run(ROWS) == ["translating", "labelled", "plain", "unmeasured"]
    tab.run(f"{head('IS')}.click()")
    assert tab.run(ROWS) == ["plain", "labelled", "translating", "unmeasured"]
    tab.run(f"{head('run')}.focus()")
    tab.press("Enter")
    assert tab.run(ROWS) == ["labelled", "plain", "translating", "unmeasured"]
    tab.press("Enter")
    assert tab.run(ROWS) == ["unmeasured", "translating", "plain", "labelled"]
    sorted_by = "[...document.querySelectorAll('th[aria-sort]')].map(head => [head.textContent, head.ariaSort])"
    assert tab.run(sorted_by) == [["run", "descending"]]
    assert tab.run("document.querySelector('tfoot tr:last-child th').textContent") == "real images"
    assert tab.problems == []


def test_any_two_runs_are_compared_with_the_params_marked_that_differ(tab: Tab) -> None:
    tab.run(choose("#comparison select:nth-of-type(1)", "translating"))
    tab.run(choose("#comparison select:nth-of-type(2)", "labelled"))
    rows = (
        "[...document.querySelectorAll('#comparison tbody tr')]"
        ".map(row => [row.className, ...[...row.cells].map(cell => cell.textContent)])"
    )
    found = tab.run(rows)
    assert ["", "FID efficientnet_lite0", "40.00", "30.00"] in found
    assert ["", "IS efficientnet_lite0", "4.000 ± 0.10", "3.000 ± 0.10"] in found
    assert ["differs", "lr", "0.04", "0.03"] in found and not [row for row in found if row[1] == "seed"]
    tab.run("document.getElementById('equal-too').click()")
    assert ["", "seed", "0", "0"] in tab.run(rows)
    assert tab.run("document.querySelectorAll('#comparison .pair img[src^=\"data:image/png\"]').length") == 2
    tab.run(choose("#comparison select:nth-of-type(2)", "unmeasured"))
    assert ["", "FID efficientnet_lite0", "40.00", UNKNOWN] in tab.run(rows)
    assert ["", "width", "4", UNKNOWN] in tab.run(rows)
    assert tab.problems == []


def test_a_number_tells_how_it_was_made(tab: Tab) -> None:
    shown = "document.querySelector('[popover]:popover-open')?.innerText"
    assert tab.run(shown) is None
    tab.run("document.querySelector('#leaderboard-table tbody .how').focus()")
    tab.press("Enter")
    text = tab.run(shown)
    assert text.startswith("FID efficientnet_lite0 of plain") and "generated count\n2000" in text
    assert tab.problems == []


def test_sliders_choices_and_walks_change_the_picture_and_nothing_is_fetched(tab: Tab, out: Path) -> None:
    assert not [request for request in tab.requests if "explorer" in request]  # nothing before a reader comes near
    explore(tab)
    assert tab.run("document.querySelector('#explored').textContent") == "plainlabelled"
    first = tab.run(PICTURE)
    start = float(tab.run("document.querySelector('.sliders input').value"))
    changed(tab, move(".sliders input", start + 2.0))
    moved = tab.run(PICTURE)
    assert moved != first
    changed(tab, "document.getElementById('reset').click()")
    assert tab.run(PICTURE) == first
    changed(tab, "document.getElementById('new-point').click()")
    second = tab.run(PICTURE)
    assert second not in (first, moved)
    changed(tab, move("#fraction", 1))  # from point 1 to point 2
    assert tab.run(PICTURE) == second
    changed(tab, move("#fraction", 0.5))
    assert tab.run(PICTURE) not in (first, second)
    tab.run(choose("#axes", "single dimensions"))
    assert tab.run("document.querySelectorAll('.sliders input').length") == LATENT
    changed(tab, choose("#explored", "labelled"))
    of_zero = tab.run(PICTURE)
    changed(tab, choose("#choices select", "1"))
    assert tab.run(PICTURE) != of_zero
    assert tab.problems == []
    beside = {path.as_uri() for path in [out / "report.html", *(out / "explorer").iterdir()]}
    fetched = {request for request in tab.requests if not request.startswith(("data:", "blob:"))}
    assert fetched == beside


def test_the_browser_draws_what_pytorch_draws(tab: Tab, conditional: Trained) -> None:
    explore(tab)
    changed(tab, choose("#explored", "labelled"))
    changed(tab, choose("#choices select", "1"))
    script = "[...document.getElementById('picture').getContext('2d').getImageData(0, 0, 8, 8).data]"
    pixels = torch.tensor(tab.run(script)).view(8, 8, 4)[..., :3].permute(2, 0, 1)
    sampler, uniform = LatentSampler(conditional), mulberry32(1)
    latents = torch.tensor([normal(uniform) for _ in range(LATENT)])
    expected = to_uint8(sampler(latents[None], torch.tensor([1])))[0]
    assert int((pixels - expected.int()).abs().max()) <= 1 and float(expected.float().std()) > 2


def mulberry32(seed: int) -> Callable[[], float]:
    """explorer.js's generator of uniform numbers, in whole numbers of 32 bits."""
    state = seed

    def draw() -> float:
        nonlocal state
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        word = ((state ^ (state >> 15)) * (1 | state)) & 0xFFFFFFFF
        word = ((word + (((word ^ (word >> 7)) * (61 | word)) & 0xFFFFFFFF)) ^ word) & 0xFFFFFFFF
        return (word ^ (word >> 14)) / 2**32

    return draw


def normal(uniform: Callable[[], float]) -> float:
    radius = math.sqrt(-2 * math.log(1 - uniform()))
    return radius * math.cos(2 * math.pi * uniform())


def test_a_run_without_an_explorer_says_why(tab: Tab) -> None:
    text = tab.run("document.body.innerText")
    assert "translating: no explorer." in text and "translates images: it has no latents" in text
    assert "unmeasured: no explorer." in text


def test_a_page_without_its_folder_says_what_it_lacks(open_tab: Tab, out: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.html").write_bytes((out / "report.html").read_bytes())
    open_tab.open(tmp_path / "alone.html")
    open_tab.run("document.getElementById('explore').scrollIntoView()")
    status = "document.getElementById('explorer-status').textContent"
    open_tab.wait(f"{status}.includes('keep its folder explorer with it')")


def test_it_fits_a_phone_and_the_reader_chooses_its_colours(tab: Tab, out: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.run(ground)
    tab.open(out / "report.html", width=390, scheme="dark")
    assert tab.run("document.documentElement.scrollWidth") == 390
    dark = tab.run(ground)
    assert dark != light
    curves = "[...document.querySelectorAll('#run-plain .curves img')].map(image => image.offsetParent !== null)"
    assert tab.run(curves) == [False, True]
    tab.run(choose("#theme", "○ light"))
    assert tab.run(ground) == light and tab.run(curves) == [True, False]
    tab.open(out / "report.html", width=390, scheme="dark")
    assert tab.run(ground) == light  # remembered
    tab.run(choose("#theme", "◐ auto"))
    assert tab.run(ground) == dark and tab.problems == []
