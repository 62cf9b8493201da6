"""The report page and the leaderboard: complete, ranked, self-contained, and at ease with what is missing."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import config
from pipeline.errors import UserError
from pipeline.render import report
from pipeline.stages import report as stage

FID, IS = "fid_efficientnet_lite0", "is_efficientnet_lite0"


def make_run(out: Path, name: str, metrics: dict[str, float] | None, **params: Any) -> Path:
    folder = out / "runs" / name
    (folder / "panels").mkdir(parents=True)
    (folder / "snapshots").mkdir()
    train = {
        "run": name,
        "method": "dcgan",
        "key": f"key-of-{name}",
        "params": {"seed": 0} | params,
        "seen": 60_000,
        "seconds": 123.4,
        "images_per_second": 486.2,
        "peak_memory_bytes": 700 * 2**20,
        "parameters": {"generator": 1200, "critic": 345},
        "torch": "2.15.0",
        "dataset": {"digest": "d1"},
    }
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "history.csv").write_text("seen,critic/loss\n1000,1\n2000,0.5\n")
    (folder / "mlflow.json").write_text(json.dumps({"run_id": f"id-{name}", "key": "k", "experiment": "genloom"}))
    Image.new("L", (66, 66)).save(folder / "samples.png")
    Image.new("L", (66, 66)).save(folder / "snapshots" / "000001000.png")
    Image.new("L", (66, 88)).save(folder / "panels" / "film.webp")
    Image.new("L", (300, 66)).save(folder / "panels" / "reconstructions.png")
    if metrics is not None:
        how = {"extractor": "efficientnet_lite0", "generated": {"count": 2000, "images_seen": 60_000}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "protocol.json").write_text(json.dumps(dict.fromkeys(metrics, how)))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three runs, one not evaluated, and all that the page draws on."""
    out = tmp_path / "out"
    make_run(out, "second", {FID: 200.0, IS: 3.5, f"{IS}_std": 0.1, "elbo_bits_per_dim_test": 4.2}, lr=0.001)
    make_run(out, "first", {FID: 20.25, IS: 3.25, f"{IS}_std": 0.2}, lr=0.0002, latent=64)
    make_run(out, "unmeasured", None, lr=0.001)
    (out / "data").mkdir()
    spec = {"source": "digits", "channels": 1, "size": 16, "classes": ["zero", "one"], "digest": "d1"}
    (out / "data" / "spec.json").write_text(
        json.dumps(spec | {"splits": {"train": {"count": 1437}, "test": {"count": 360}}})
    )
    (out / "reference").mkdir()
    Image.new("L", (66, 66)).save(out / "reference" / "real.png")
    real = {f"{FID}_real_halves": 12.5, "real_halves_counts": [719, 718], IS: 4.0, f"{IS}_std": 0.3}
    (out / "reference" / "efficientnet_lite0.json").write_text(json.dumps({"protocol": {}, "real": real}))
    return out


def page_of(out: Path, names: tuple[str, ...] = ("second", "unmeasured", "first")) -> str:
    runs = report.ranked(report.load_runs(out / "runs", names), FID)
    report.write_page(out / "report.html", runs, report.read_context(out, ["efficientnet_lite0"]), FID)
    return (out / "report.html").read_text()


class Page(HTMLParser):
    """The page's links, images and text."""

    VOID = ("meta", "img", "source", "br", "link", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_needs_no_other_file_no_network_and_no_script(out: Path) -> None:
    html = page_of(out)
    page = Page(html)
    assert page.open == []
    sources = [a["src"] for a in page.all("img")] + [a["srcset"] for a in page.all("source")]
    assert len(sources) > 10 and all(source and source.startswith("data:image/") for source in sources)
    assert not page.all("script") and not page.all("link") and "@import" not in html and "url(" not in html
    assert all(a["href"] and a["href"].startswith(("#", "http://127.0.0.1:5000/#/runs/")) for a in page.all("a"))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and "default-src 'none'" in policy


def test_every_image_has_a_text_and_every_inner_link_a_target(out: Path) -> None:
    page = Page(page_of(out))
    assert all(a.get("alt") for a in page.all("img"))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    inner = [str(a["href"])[1:] for a in page.all("a") if str(a["href"]).startswith("#")]
    assert len(ids) == len(set(ids)) and set(inner) <= set(ids) and len(inner) == 3


def test_the_page_tells_the_dataset_the_costs_the_floor_and_the_lineage(out: Path) -> None:
    text = " ".join(Page(page_of(out)).text.split())
    for expected in (
        "3 generative models on digits",
        "1,437 train; 360 test",
        "2: zero, one",
        "2 min 03 s",
        "700 MiB",
        "1,545",
        "12.50",
        "719 and 718 images",
        "id-first",
        "key-of-second",
        "3.250 ± 0.20",
        "not evaluated yet",
    ):
        assert expected in text, expected


def test_runs_are_ranked_by_fid_and_those_without_one_come_last(out: Path) -> None:
    make_run(out, "broken", {FID: float("nan"), IS: 1.0})
    runs = report.load_runs(out / "runs", ["unmeasured", "second", "first", "broken", "absent"])
    assert [run.name for run in report.ranked(runs, FID)] == ["first", "second", "broken", "unmeasured"]


def test_the_leaderboard_has_a_row_per_run_and_empty_cells_for_the_unknown(out: Path) -> None:
    runs = report.ranked(report.load_runs(out / "runs", ["second", "unmeasured", "first"]), FID)
    report.write_leaderboard(out / "leaderboard.csv", runs)
    with (out / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["first", "second", "unmeasured"]
    assert list(rows[0]) == ["run", "method", "seen", FID, IS, f"{IS}_std", "elbo_bits_per_dim_test", *report.COST]
    assert float(rows[0][FID]) == 20.25 and rows[2][FID] == "" and rows[0]["elbo_bits_per_dim_test"] == ""
    assert rows[0]["parameters"] == "1545" and float(rows[0]["seconds"]) == 123.4


def test_the_best_of_each_column_is_marked_in_its_own_direction(out: Path) -> None:
    runs = report.load_runs(out / "runs", ["second", "unmeasured", "first"])
    best = report._best(runs)
    assert best[FID] == 20.25 and best[IS] == 3.5 and "elbo_bits_per_dim_test" not in best
    assert report._best(runs[:1]) == {}


def test_params_are_marked_where_the_runs_that_have_them_differ(out: Path) -> None:
    rows = {
        row["name"]: row for row in report._params(report.load_runs(out / "runs", ["second", "unmeasured", "first"]))
    }
    assert rows["lr"]["cells"] == ["0.001", "0.001", "0.0002"] and rows["lr"]["differs"]
    assert rows["latent"]["cells"] == [None, None, "64"]
    assert not rows["latent"]["differs"] and not rows["latent"]["shared"]
    assert rows["seed"]["shared"] and not rows["seed"]["differs"]


def test_names_are_text_not_markup(out: Path) -> None:
    make_run(out, "a<b>&", {FID: 1.0}, note="<script>alert(1)</script>")
    page = Page(page_of(out, ("a<b>&", "first")))
    assert not page.all("script") and "a<b>&" in page.text and "<script>alert(1)</script>" in page.text


def test_the_same_runs_give_the_same_page(out: Path) -> None:
    assert page_of(out) == page_of(out)


def test_a_bare_run_is_enough_for_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "runs" / "bare"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text("{}")
    page = Page(page_of(tmp_path / "out", ("bare",)))
    assert page.open == [] and "1 generative model on images" in page.text and not page.all("img")


def test_a_damaged_file_is_named(out: Path) -> None:
    (out / "runs" / "first" / "metrics.json").write_text('{"fid')
    with pytest.raises(UserError, match=r"metrics\.json: damaged"):
        page_of(out)


def test_the_stage_reports_the_runs_of_params_yaml(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = config.read_params(Path(__file__).parents[2] / "params.yaml")
    monkeypatch.chdir(out.parent)
    monkeypatch.setattr(stage, "read_params", lambda: replace(params, runs={"first": {}, "absent": {}}))
    stage.main()
    assert [line.split(",")[0] for line in Path("out/leaderboard.csv").read_text().splitlines()] == ["run", "first"]
    assert "1 generative model on digits" in Page(Path("out/report.html").read_text()).text
    monkeypatch.setattr(stage, "read_params", lambda: replace(params, runs={"absent": {}}))
    with pytest.raises(UserError, match="dvc repro"):
        stage.main()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, report.UNKNOWN),
        (0.0, "0"),
        (4.15292, "4.153"),
        (305.45, "305.4"),
        (30016, "30,016"),
        (-0.5, "-0.5000"),
        (1e-9, "1e-09"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert report._number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3, "12 s"), (123.4, "2 min 03 s"), (7265, "2 h 01 min"), (None, report.UNKNOWN)]
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert report._duration(seconds) == text
