"""The site: it builds without a warning and without network, its pages load nothing from elsewhere, and what they
name is there."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
# What a reader of docs/extend is asked to make.
TO_BE_MADE = {
    "pipeline/methods/hinge.py",
    "pipeline/evaluate/metrics/vendi.py",
    "pipeline/render/pictures/mean_image.py",
    "pipeline/evaluate/extractors/random_features.py",
    "pipeline/ingest/sources/shapes.py",
}


class Loaded(HTMLParser):
    """What a page makes a browser load: scripts, styles, icons, pictures and frames, but no links."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        known = (found.get("src"), found.get("data"), found.get("href") if tag == "link" else None)
        self.urls += [url for url in known if url]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # A proxy that nobody listens at: whatever asked the network would fail.
    environment = (
        os.environ | {"NO_MKDOCS_2_WARNING": "1"} | dict.fromkeys(("http_proxy", "https_proxy"), "127.0.0.1:9")
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode == 0 and not done.stdout, done.stdout
    return folder


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        loaded = Loaded()
        loaded.feed(text)
        assert len(loaded.urls) > 3
        for url in loaded.urls:
            assert not re.match(r"(\w+:)?//", url), f"{page.name}: {url}"
            if page.name != "404.html":  # which a server shows for any address
                assert (page.parent / url.split("?")[0].split("#")[0]).exists(), f"{page.name}: {url}"
        assert "https://fonts" not in text
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)[\"' ]*(https?:)?//", style.read_text()), style.name


def test_the_search_has_all_pages_and_works_from_the_disk(site: Path) -> None:
    index = (site / "search/search_index.js").read_text()
    found = {entry["location"].split("#")[0] for entry in json.loads(index.removeprefix("var __index = "))["docs"]}
    assert {"reruns.html", "extend/metric.html", "api/core.html"} <= found
    assert "iframe-worker.js" in (site / "reruns.html").read_text()


def test_the_reference_has_what_the_pages_rely_on(site: Path) -> None:
    for page, names in {
        "core": ("pipeline.core.method.Method.phases", "pipeline.core.loop.fit", "pipeline.core.state.State.fresh"),
        "evaluate": ("pipeline.evaluate.metric.Metric", "pipeline.evaluate.extractor.Extractor"),
        "inference": ("pipeline.inference.export.Sampler", "pipeline.inference.weights.load_weights"),
        "training": ("pipeline.training.trainer.train",),
        "dependencies": ("pipeline.dependencies.key.TrainingKey",),
    }.items():
        text = (site / f"api/{page}.html").read_text()
        assert not [name for name in names if f'id="{name}"' not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("it names what is gone")
    named = set(re.findall(r"\b(?:pipeline|tests|docs|infra|recipes|bench)/[\w./-]*\.\w+", page.read_text()))
    missing = {name for name in named - TO_BE_MADE if not (ROOT / name).exists()}
    assert not missing


def test_the_version_stands_once() -> None:
    import pipeline

    assert "version =" not in (ROOT / "pyproject.toml").read_text().split("[project]")[1].split("[project.")[0]
    assert f"\nversion: {pipeline.__version__}\n" in (ROOT / "CITATION.cff").read_text()
