"""The report page and the leaderboard: complete, ranked, self-contained, and at ease with what is missing."""

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline import config
from pipeline.errors import UserError
from pipeline.render import board as boards
from pipeline.render import report
from pipeline.render.curves import ON_DARK, ON_LIGHT, draw
from pipeline.render.drawn import Film, write_drawn, write_figure
from pipeline.render.failures import forget_failure, note_failure
from pipeline.render.shown import write_list
from pipeline.stages import outcome
from pipeline.stages import report as stage
from pipeline.tracking.pages import View

LITE = "efficientnet_lite0"
FID, IS, ELBO = f"fid_{LITE}", f"is_{LITE}", "elbo_bits_per_dim_test"
METRICS, EXTRACTORS = ["fid", "inception_score"], [LITE]
LINKS = {"Runs": "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=genloom"}
DESCRIBED: dict[str, dict[str, Any]] = {
    FID: {"metric": "fid", "title": "FID", "better": "lower", "extractor": LITE},
    IS: {"metric": "inception_score", "title": "IS", "better": "higher", "extractor": LITE, "spread": f"{IS}_std"},
    f"{IS}_std": {"metric": "inception_score", "title": "IS", "better": "higher", "spread": f"{IS}_std"},
    ELBO: {"metric": "own_scores", "title": "ELBO bits/dim", "better": "lower", "split": "test"},
}


def make_run(out: Path, name: str, metrics: dict[str, float] | None, cost: Any = None, **params: Any) -> Path:
    folder = out / "runs" / name
    (folder / "panels").mkdir(parents=True)
    (folder / "snapshots").mkdir()
    (folder / "features").mkdir()
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
    (folder / "train.json").write_text(json.dumps(train | (cost or {})))
    (folder / "history.csv").write_text("seen,critic/loss\n1000,1\n2000,0.5\n")
    Image.new("L", (66, 66)).save(folder / "samples.png")
    Image.new("L", (66, 66)).save(folder / "snapshots" / "000001000.png")
    film = Film([Image.new("L", (66, 88))] * 2, [10, 10])
    drawn = {"film": film, "reconstructions": Image.new("L", (300, 66)), "curves": Image.new("L", (66, 66))}
    shown = [
        write_drawn(folder / "panels", key, made, key.capitalize(), f"What {key} show.") for key, made in drawn.items()
    ]
    write_list(folder / "panels", shown)
    if metrics is not None:
        write_measured(folder, metrics, generated={"count": 2000, "images_seen": 60_000})
    return folder


def write_measured(folder: Path, metrics: dict[str, float], **how: Any) -> None:
    (folder / "metrics.json").write_text(json.dumps(metrics))
    protocol = {key: DESCRIBED.get(key, {}) | how for key in metrics}
    for key, about in protocol.items():
        if (margin := metrics.get(f"{key}_std")) is not None:
            bounds = {"low": metrics[key] - margin, "high": metrics[key] + margin}
            about["interval"] = bounds | {"by": "95%", "error": margin / 1.96, "degrees": None}
    (folder / "protocol.json").write_text(json.dumps(protocol))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three runs, one not evaluated, and all that the page draws on."""
    out = tmp_path / "out"
    make_run(out, "second", {FID: 200.0, IS: 3.5, f"{IS}_std": 0.1, ELBO: 4.2}, lr=0.001)
    make_run(out, "first", {FID: 20.25, IS: 3.25, f"{IS}_std": 0.2}, lr=0.0002, latent=64)
    make_run(out, "unmeasured", None, lr=0.001)
    (out / "data").mkdir()
    spec = {"source": "digits", "channels": 1, "size": 16, "classes": ["zero", "one"], "digest": "d1"}
    (out / "data" / "spec.json").write_text(
        json.dumps(spec | {"splits": {"train": {"count": 1437}, "test": {"count": 360}}})
    )
    (out / "reference").mkdir()
    Image.new("L", (66, 66)).save(out / "reference" / "real.png")
    (out / "real").mkdir()
    write_measured(out / "real", {FID: 12.5, IS: 4.0, f"{IS}_std": 0.3}, real={"count": 719}, reference={"count": 718})
    return out


def board_of(out: Path, *names: str, metrics: list[str] = METRICS) -> boards.Board:
    params = {name: {"method": "dcgan"} for name in names or ("second", "unmeasured", "first")}
    return boards.read_board(out, params, metrics, EXTRACTORS)


def page_of(out: Path, *names: str, metrics: list[str] = METRICS) -> str:
    report.write_page(out / "report.html", board_of(out, *names, metrics=metrics))
    return (out / "report.html").read_text()


def test_the_page_links_the_pages_of_searches(out: Path) -> None:
    assert "<dt>search</dt>" not in page_of(out)
    said = "trial 7, elbo 3.9; not adopted: `genloom adopt first` takes it"
    found = SimpleNamespace(run="first", page="tune/first/report.html", said=said)
    report.write_page(out / "report.html", board_of(out), searches=[found])
    page = (out / "report.html").read_text()
    assert f'<dt>search</dt><dd><a href="tune/first/report.html">first</a>: {said}</dd>' in page


def leaderboard_of(out: Path, *names: str, metrics: list[str] = METRICS) -> list[dict[str, str]]:
    boards.write_leaderboard(out / "leaderboard.csv", board_of(out, *names, metrics=metrics))
    with (out / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """The page's links, images, text and tables."""

    VOID = ("meta", "img", "source", "br", "link", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.rows: list[list[tuple[str, str]]] = []
        self.feed(html)
        self.close()
        self.rows = [[(" ".join(text.split()), style) for text, style in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs).get("class") or ""))
        if tag == "br":
            self.handle_data(" ")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] not in (["style"], ["script"]) else ""
        if self.rows and {"td", "th"} & set(self.open):
            text, style = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, style)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def row(self, first: str) -> list[str]:
        """The cells of the first row that begins so, without that first one."""
        return [text for text, _ in next(row for row in self.rows if row and row[0][0] == first)][1:]

    def marked(self, style: str) -> list[str]:
        """The cells of that class."""
        return [text for row in self.rows for text, own in row if style in own.split()]


def test_the_page_needs_no_network_and_only_for_its_explorer_other_files(out: Path) -> None:
    html = page_of(out)
    page = Page(html)
    assert page.open == []
    sources = [a["src"] for a in page.all("img")] + [a["srcset"] for a in page.all("source")]
    assert len(sources) > 10 and all(source and source.startswith("data:image/") for source in sources)
    assert all("src" not in a for a in page.all("script")) and len(page.all("script")) == 3
    assert not page.all("link") and "@import" not in html and "url(" not in html and "fetch(" not in html
    assert all(a["href"] and a["href"].startswith("#") for a in page.all("a"))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(maxsplit=1) for rule in str(policy).split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "blob:" and rules["img-src"] == "data:"
    assert "'unsafe-inline'" not in rules["script-src"] and "http" not in str(policy)
    for script in re.findall(r"<script>(.*?)</script>", html, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules["script-src"]  # else the browser would not run it


def test_every_image_has_a_text_and_every_inner_link_a_target(out: Path) -> None:
    page = Page(page_of(out))
    assert all(a.get("alt") for a in page.all("img"))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    inner = [str(a["href"])[1:] for a in page.all("a") if str(a["href"]).startswith("#")]
    assert len(ids) == len(set(ids)) and set(inner) <= set(ids) and len(inner) == 3 + 6  # runs, and sections


def test_the_page_tells_the_dataset_the_costs_the_real_images_and_the_lineage(out: Path) -> None:
    text = " ".join(Page(page_of(out)).text.split())
    for expected in (
        "3 generative models on digits",
        "1,437 train; 360 test",
        "2: zero, one",
        "2 min 03 s",
        "700 MiB",
        "1,545",
        "12.50",
        "719 real images against 718 others; the runs are scored on 2,000 samples",
        "genloom page first",
        "key-of-second",
        "3.250 ± 0.20",
        "not evaluated yet",
        "images/s and peak memory are what each training had: they compare only where nothing else ran",
    ):
        assert expected in text, expected


def test_the_page_tells_which_classes_were_chosen(out: Path) -> None:
    assert "2: zero, one" in page_of(out)
    spec = json.loads((out / "data/spec.json").read_text())
    (out / "data/spec.json").write_text(json.dumps(spec | {"chosen_of": 10}))
    assert "2 of 10: zero, one" in page_of(out)


def test_runs_are_ranked_by_fid_and_those_without_one_come_last(out: Path) -> None:
    make_run(out, "broken", {FID: float("nan"), IS: 1.0})
    runs = board_of(out, "unmeasured", "second", "first", "broken").runs
    assert [run.name for run in runs] == ["first", "second", "broken", "unmeasured"]


def test_the_first_metric_of_params_yaml_ranks_in_its_own_direction_and_stands_first(out: Path) -> None:
    board = board_of(out, metrics=["inception_score", "fid"])
    assert [run.name for run in board.runs] == ["second", "first", "unmeasured"]
    assert [column.key for column in board.columns] == [IS, FID, ELBO]
    text = " ".join(Page(page_of(out, metrics=["inception_score", "fid"])).text.split())
    assert f"Ranked by IS {LITE}, of which higher is better" in text and f"second, IS {LITE} 3.500" in text


def test_the_leaderboard_has_a_row_per_run_and_empty_cells_for_the_unknown(out: Path) -> None:
    rows = leaderboard_of(out)
    assert [row["run"] for row in rows] == ["first", "second", "unmeasured"]
    columns = [FID, IS, f"{IS}_std", ELBO, f"{IS}_low", f"{IS}_high"]
    assert list(rows[0]) == ["run", "method", "seen", "score", "rank", *columns, *boards.COST, "failed"]
    assert [row["rank"] for row in rows] == ["1", "2", ""]
    assert float(rows[0][f"{IS}_low"]) == 3.05 and rows[2][f"{IS}_high"] == ""
    assert float(rows[0][FID]) == 20.25 and rows[2][FID] == "" and rows[0][ELBO] == ""
    assert rows[0]["parameters"] == "1545" and float(rows[0]["seconds"]) == 123.4


def test_the_best_of_each_column_is_marked_in_its_own_direction(out: Path) -> None:
    make_run(out, "third", {FID: 300.0, IS: 1.0, ELBO: 3.9})
    assert Page(page_of(out, "first", "second", "third")).marked("best") == ["20.25", "3.500 ± 0.10", "3.900"]
    assert Page(page_of(out, "first")).marked("best") == []


def test_what_chance_could_have_ordered_shares_a_rank_and_the_mark_of_the_best(out: Path) -> None:
    """Two differ by more than chance above the root of the sum of their margins' squares: 5, 5 and 4.2 here."""
    for name, value, margin in (("a", 100.0, 3.0), ("b", 104.0, 4.0), ("c", 108.0, 3.0)):
        make_run(out, name, {FID: value, f"{FID}_std": margin})
    rows = leaderboard_of(out, "c", "a", "b")
    assert [(row["run"], row["rank"]) for row in rows] == [("a", "1"), ("b", "1"), ("c", "2")], "b and c are alike too"
    assert Page(page_of(out, "a", "b", "c")).marked("best") == ["100.0 ± 3.0", "104.0 ± 4.0"]


def test_a_number_of_unknown_direction_is_shown_and_none_is_its_best(out: Path) -> None:
    for name, value in (("a", 1.5), ("b", 2.5)):
        make_run(out, name, {FID: 1.0 + value, "mean_pixel_test": value})
    page = Page(page_of(out, "a", "b"))
    assert page.marked("best") == ["2.500"] and "mean_pixel_test" in page.text and "1.500" in page.text


def test_the_table_shows_every_metric_with_its_direction_and_the_real_images(out: Path) -> None:
    page = Page(page_of(out))
    assert page.row("run")[1:5] == ["rank", f"FID ↓ {LITE}", f"IS ↑ {LITE}", "ELBO bits/dim ↓ test"]
    assert page.row("second")[1:5] == ["2", "200.0", "3.500 ± 0.10", "4.200"]
    assert page.row("unmeasured")[1:5] == [report.UNKNOWN] * 4
    assert page.row("real images")[1:5] == [report.UNKNOWN, "12.50 1", "4.000 ± 0.30 1", report.UNKNOWN]


def test_params_are_marked_where_the_runs_that_have_them_differ(out: Path) -> None:
    html = page_of(out)
    page = Page(html)
    assert page.row("lr") == ["0.0002", "0.001", "0.001"]
    assert page.row("latent") == ["64", report.UNKNOWN, report.UNKNOWN]
    assert page.row("seed") == ["0", "0", "0"]
    assert html.count('<tr class="differs">') == 1 and '<tr class="differs"><td class="mono">lr</td>' in html
    shared = html[html.index("Equal in all runs") : html.index('<h2 id="runs">')]
    assert ">seed<" in shared and ">lr<" not in shared and ">latent<" not in shared


def test_every_number_of_the_leaderboard_opens_its_protocols_entry(out: Path) -> None:
    page = Page(page_of(out))
    opened = [a["popovertarget"] for a in page.all("button") if "popovertarget" in a]
    places = [a["id"] for a in page.all("div") if "popover" in a]
    assert sorted(opened) == sorted(places) and len(opened) == 3 + 2 + 2  # second, first and the real images
    text = "".join(page.text.split())
    assert f"FID{LITE}offirstvalue20.25metricfidbetterlowerextractor{LITE}generatedcount2000" in text
    assert f"IS{LITE}ofsecondvalue3.5spread0.1metric" in text and f"FID{LITE}ofrealimagesvalue12.5" in text


def test_what_is_compared_cannot_end_its_script(out: Path) -> None:
    make_run(out, "odd", {FID: 1.0}, note="</script><b>")
    html = page_of(out, "odd", "first")
    (content,) = re.findall(r'<script type="application/json" id="runs-data">(.*?)</script>', html, re.DOTALL)
    odd, first = json.loads(content)
    assert odd["params"]["note"] == "</script><b>" and odd["numbers"][f"FID {LITE}"] == "1.000"
    assert first["params"]["lr"] == "0.0002" and first["params"]["note"] is None
    assert first["numbers"][f"IS {LITE}"] == "3.250 ± 0.20" and first["numbers"]["training time"] == "2 min 03 s"


def test_names_are_text_not_markup(out: Path) -> None:
    make_run(out, "a<b>&", {FID: 1.0}, note="<script>alert(1)</script>")
    page = Page(page_of(out, "a<b>&", "first"))
    assert len(page.all("script")) == 3 and "a<b>&" in page.text and "<script>alert(1)</script>" in page.text


def test_the_same_runs_give_the_same_page(out: Path) -> None:
    assert page_of(out) == page_of(out)


def test_a_bare_run_is_enough_for_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "runs" / "bare"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text("{}")
    page = Page(page_of(tmp_path / "out", "bare"))
    assert page.open == [] and "1 generative model on images" in page.text and not page.all("img")


def test_a_damaged_file_is_named(out: Path) -> None:
    (out / "runs" / "first" / "metrics.json").write_text('{"fid')
    with pytest.raises(UserError, match=r"metrics\.json: damaged"):
        page_of(out)


def test_the_leaderboard_has_the_score_that_ranks_under_one_name_whatever_is_measured(out: Path) -> None:
    """dvc.yaml plots it, and cannot know which metrics params.yaml names."""
    kid = f"kid_{LITE}"
    write_measured(out / "runs" / "first", {kid: 0.25}, generated={"count": 2000}, metric="kid", extractor=LITE)
    rows = leaderboard_of(out, "first", metrics=["kid"])
    assert rows[0]["score"] == rows[0][kid] == "0.25"
    assert leaderboard_of(out, "second")[0]["score"] == "200.0"
    assert leaderboard_of(out, "unmeasured")[0]["score"] == ""
    stages = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
    pictures, table = stages["report"]["plots"]
    assert pictures == "out/pictures" and table["out/leaderboard.csv"]["y"] == "score"


# Runs in trouble


def test_a_run_whose_training_failed_is_listed_with_its_reason_and_without_numbers(out: Path) -> None:
    """What an earlier training of that name left counts for nothing."""
    note_failure(out / "runs" / "second", "train", "training diverged: <loss> was not finite")
    (out / "runs" / "second" / "train.json").unlink()
    page = Page(page_of(out))
    assert page.row("second") == ["dcgan", "not trained"] and page.open == []
    assert "training diverged: <loss> was not finite" in page.text and "3 generative models" in page.text
    assert page.row("first")[2] == "20.25" and {"id": "run-second", "class": "run"} in page.all("section")
    row = leaderboard_of(out)[-1]
    assert (row["run"], row["method"]) == ("second", "dcgan") and row["failed"].startswith("training diverged")
    assert {row[key] for key in row} == {"second", "dcgan", row["failed"], ""}
    assert [row["failed"] for row in leaderboard_of(out)[:2]] == ["", ""]


def test_why_a_run_is_not_trained(out: Path) -> None:
    params = {"broken": {"method": "vae"}, "tuned": {"method": "vae", "init_from": "runs/broken"}, "first": {}}
    problems = boards.read_board(out, params, METRICS, EXTRACTORS).problems
    assert problems == [
        "broken: not trained, and no reason is recorded: see what `dvc repro train@broken` prints.",
        "tuned: not trained: it begins from runs/broken, which is not trained either.",
    ]
    make_run(out, "tuned", {FID: 1.0})  # of an earlier training: DVC passed over it
    assert boards.read_board(out, params, METRICS, EXTRACTORS).problems == problems


def test_scores_of_samples_that_are_no_longer_there_are_not_shown(out: Path) -> None:
    """DVC removed them when it sampled anew, which failed; metrics.json is of the training before."""
    (out / "runs" / "first" / "features").rmdir()
    note_failure(out / "runs" / "first", "generate", "the disk is full")
    page = Page(page_of(out))
    assert page.row("first")[2] == report.UNKNOWN and "generate failed: the disk is full" in page.text
    assert page.row("second")[2] == "200.0"
    (out / "reference").rename(out / "gone")
    assert all(run.metric(FID) is None for run in board_of(out).runs)


def test_a_failure_is_forgotten_with_the_next_success(out: Path) -> None:
    folder = out / "runs" / "first"
    note_failure(folder, "evaluate", "no")
    assert board_of(out).problems == []  # its outs are there: taken from DVC's cache
    (folder / "metrics.json").unlink()
    note_failure(folder, "render", "no")
    assert board_of(out).problems == ["first: evaluate failed: no"]
    forget_failure(folder, "evaluate")
    assert board_of(out).problems == [] and (folder / "failed.json").exists()
    forget_failure(folder, "render")
    forget_failure(folder, "render")
    assert not (folder / "failed.json").exists()


def test_refused_scores_and_too_few_images_stand_on_the_page_with_the_reason(out: Path) -> None:
    refused = {key: DESCRIBED[key] | {"refused": "99 of 100 samples are not finite"} for key in (FID, IS)}
    (out / "runs" / "second" / "metrics.json").write_text("{}")
    (out / "runs" / "second" / "protocol.json").write_text(json.dumps(refused))
    lacks = {FID: DESCRIBED[FID] | {"lacks": "8 real images; at least 20 are needed. Add images", "real": {"count": 7}}}
    (out / "real" / "protocol.json").write_text(json.dumps(lacks))
    (out / "real" / "metrics.json").write_text("{}")
    board, page = board_of(out), Page(page_of(out))
    assert board.problems == [f"second: no FID {LITE}, IS {LITE}: 99 of 100 samples are not finite"]
    assert board.problems[0] in page.text and page.row("second")[1:3] == [report.UNKNOWN] * 2
    assert f"real images: no FID {LITE}: 8 real images; at least 20 are needed. Add images" in page.text
    failed = {row["run"]: row["failed"] for row in leaderboard_of(out)}
    assert failed["second"].startswith(f"no FID {LITE}") and page.row("first")[2] == "20.25"


def test_samples_drawn_anew_stand_beside_the_score(out: Path) -> None:
    metrics = {FID: 20.0, "redrawn_samples": 45}
    write_measured(out / "runs" / "first", metrics, generated={"count": 2000, "images_seen": 1, "redrawn": 45})
    path = out / "runs" / "first" / "protocol.json"
    how = json.loads(path.read_text())
    how["redrawn_samples"] = {"metric": "redrawn_samples", "title": "redrawn samples", "better": None, "note": "anew"}
    path.write_text(json.dumps(how))
    page = Page(page_of(out))
    column = next(row for row in page.rows if row and row[0][0] == "run").index(("redrawn samples", ""))
    assert page.row("first")[column - 1] == "45" and page.row("second")[column - 1] == report.UNKNOWN
    assert "redrawn samples: anew." in page.text and leaderboard_of(out)[0]["redrawn_samples"] == "45"


def test_the_stage_reports_the_runs_of_params_yaml_and_the_outcome_says_what_failed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = config.read_params(Path(__file__).parents[2] / "params.yaml")
    monkeypatch.chdir(out.parent)
    monkeypatch.setattr(
        "pipeline.tracking.agreement.send_all_results", lambda params, view: views.append(view) or LINKS
    )
    views: list[View] = []

    def with_runs(**runs: dict[str, str]) -> None:
        for module in (stage, outcome):
            monkeypatch.setattr(module, "read_params", lambda: replace(params, runs=runs))

    with_runs(first={"method": "dcgan"}, absent={"method": "vae"})
    stage.main()
    assert views[-1].metrics[-1] == "cost/seconds" and views[-1].metrics[0].startswith("fid_") and views[-1].ascending
    drawn = sorted(str(path.relative_to("out/pictures")) for path in Path("out/pictures").rglob("*.png"))
    assert drawn == ["curves/first.png", "reconstructions/first.png", "samples/first.png"]
    lines = Path("out/leaderboard.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["run", "first", "absent"]
    page = Page(Path("out/report.html").read_text())
    text = " ".join(page.text.split())
    assert "2 generative models on digits" in text and "while genloom ui runs" in text
    assert LINKS["Runs"] in [a["href"] for a in page.all("a")]
    with pytest.raises(UserError, match=r"not all runs are well.*\n  absent: not trained"):
        outcome.main()
    with_runs(first={"method": "dcgan"})
    outcome.main()
    with_runs(absent={"method": "vae"})
    stage.main()
    assert Page(Path("out/report.html").read_text()).row("absent") == ["vae", "not trained"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), report.UNKNOWN),
        (0.0, "0"),
        (4.15292, "4.153"),
        (305.45, "305.4"),
        (30016.0, "30,016"),
        (-0.5, "-0.5000"),
        (1e-9, "1e-09"),
    ],
)
def test_numbers_are_short(value: float, text: str, out: Path) -> None:
    make_run(out, "one", {FID: value})
    assert Page(page_of(out, "one")).row("one")[2] == text


@pytest.mark.parametrize(("spread", "text"), [(0.0, "0"), (0.0284, "0.028"), (12.3, "12"), (0.000182, "1.8e-04")])
def test_spreads_are_two_digits(spread: float, text: str, out: Path) -> None:
    make_run(out, "one", {FID: 1.0, IS: 2.0, f"{IS}_std": spread})
    assert Page(page_of(out, "one")).row("one")[3] == f"2.000 ± {text}"


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3, "12 s"), (123.4, "2 min 03 s"), (7265, "2 h 01 min"), (None, report.UNKNOWN)]
)
def test_durations_are_short(seconds: float | None, text: str, out: Path) -> None:
    make_run(out, "one", {FID: 1.0}, cost={"seconds": seconds})
    assert Page(page_of(out, "one")).row("one")[-3] == text


def test_early_warnings_stand_with_their_run(out: Path) -> None:
    collapse, won = (
        {"kind": kind, "since": 5, "said": said, "message": f"{kind} since 5 images: alike."}
        for kind, said in (("collapse", 10_048), ("critic won", 15_040))
    )
    path = out / "runs" / "second" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"warnings": [collapse, won], "stopped": won}))
    page = page_of(out)
    assert page.count("Early warning:") == 2
    assert "Early warning: collapse since 5 images: alike.</p>" in page
    assert "Early warning: critic won since 5 images: alike. It stopped there, at 15,040 images.</p>" in page
    assert not board_of(out).problems, "a warning is no failure"


def test_a_figure_for_a_dark_page_is_the_one_for_a_light_page_in_other_ink(tmp_path: Path) -> None:
    series = {"loss": [(0, 1.0), (1000, 20.0), (2000, 300.0)], "norm": [(0, 2.0), (1000, -1.0)]}
    found = {name: base64.b64decode(uri.split(",")[1]) for name, uri in report._twice(draw, series).items()}
    for name, theme in (("light", ON_LIGHT), ("dark", ON_DARK)):
        write_figure(draw(series, theme), tmp_path / "drawn.svg")
        marks = re.compile(rb"\bm[0-9a-f]{10}\b")  # names of marks, made from their colour
        assert marks.sub(b"m", found[name]) == marks.sub(b"m", (tmp_path / "drawn.svg").read_bytes())
    assert found["light"] != found["dark"]
