"""What decides a result is what its functions reach: no more, and never less than what really runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy_data import ROOT
from tracing import uncounted

from pipeline import methods, registry
from pipeline.config import Evaluate, read_params
from pipeline.config.pictures import Render
from pipeline.dependencies.closure import Closure
from pipeline.dependencies.entries import CHOSEN, COURSE, ENTRIES, METHODS, code_files

FILES = {
    "pipeline/__init__.py": "",
    "pipeline/a.py": """
from pipeline import watch
from pipeline.b import used as renamed
from pipeline.c import Table

LIMIT = 3

def entry(x):
    from pipeline import lazy
    watch.show(x)
    return renamed(x) + lazy.later(x) + LIMIT

def other(x):
    return Table(x)
""",
    "pipeline/b.py": """
FACTOR = 2

def used(x):
    return helper(x) * FACTOR

def helper(x):
    return x

def unused(x):
    return x - 1
""",
    "pipeline/c.py": "class Table:\n    size = 1\n",
    "pipeline/lazy.py": "TEMPLATE = 'page.html'\n\ndef later(x):\n    return TEMPLATE\n",
    "pipeline/page.html": "<p>",
    "pipeline/watch.py": "from pipeline.c import Table\nDECIDES_NOTHING = 'shows'\n\ndef show(x):\n    print(Table)\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edited(package: Path, name: str, before: str, after: str) -> bool:
    """Whether such an edit changes what decides the entry."""
    old = Closure(package).files(["pipeline.a:entry"])
    text = (package / name).read_text()
    assert before in text
    (package / name).write_text(text.replace(before, after))
    return Closure(package).files(["pipeline.a:entry"]) != old


def test_what_is_reached(package: Path) -> None:
    found = Closure(package).names(["pipeline.a:entry"])
    assert {name: names for name, names in found.items() if names} == {
        "pipeline.a": {"entry", "LIMIT"},
        "pipeline.b": {"used", "helper", "FACTOR"},
        "pipeline.lazy": {"later", "TEMPLATE"},
    }
    assert set(Closure(package).files(["pipeline.a:entry"])) == {
        "pipeline/a.py",
        "pipeline/b.py",
        "pipeline/lazy.py",
        "pipeline/page.html",
    }


@pytest.mark.parametrize(
    ("name", "before", "after", "matters"),
    [
        ("pipeline/a.py", "LIMIT = 3", "LIMIT = 4", True),
        ("pipeline/b.py", "FACTOR = 2", "FACTOR = 3", True),
        ("pipeline/b.py", "return x\n", "return -x\n", True),
        ("pipeline/b.py", "return x - 1", "return x - 2", False),
        ("pipeline/b.py", "def unused", "def new(x):\n    return x\n\ndef unused", False),
        ("pipeline/b.py", "FACTOR = 2", "FACTOR = 2\nprint('at import')", True),
        ("pipeline/lazy.py", "return TEMPLATE", "return TEMPLATE[1:]", True),
        ("pipeline/page.html", "<p>", "<p class=wide>", True),
        ("pipeline/watch.py", "print(Table)", "print(Table, x)", False),
        ("pipeline/c.py", "size = 1", "size = 2", False),
        ("pipeline/a.py", "from pipeline.c import Table", "from pipeline.c import Table as Sheet", False),
        ("pipeline/__init__.py", "", "import os\nos.environ['A'] = '1'", True),
    ],
)
def test_an_edit_matters_if_it_is_reached(package: Path, name: str, before: str, after: str, matters: bool) -> None:
    assert edited(package, name, before, after) == matters


def test_a_name_bound_twice_or_changed_at_the_top_level_counts_whole(package: Path) -> None:
    (package / "pipeline/b.py").write_text(
        "TABLE = {}\nTABLE['x'] = 1\n\nif TABLE:\n    def used(x):\n        return TABLE\n"
        "else:\n    def used(x):\n        return 0\n"
    )
    assert edited(package, "pipeline/b.py", "['x'] = 1", "['x'] = 2")
    assert edited(package, "pipeline/b.py", "return 0", "return 1")


@pytest.mark.parametrize(
    "code",
    [
        "from .zz import scale\n\ndef used(x):\n    return scale()\n",
        "from . import zz\n\ndef used(x):\n    return zz.scale()\n",
        "def used(x):\n    from .zz import scale\n    return scale()\n",
        "import pipeline.zz\n\ndef used(x):\n    return pipeline.zz.scale()\n",
        "import pipeline.lazy, pipeline.zz\n\ndef used(x):\n    return pipeline.zz.scale()\n",
        "import importlib\n\ndef used(x):\n    return importlib.import_module('pipeline.zz').scale()\n",
    ],
)
def test_every_form_of_import_is_followed(package: Path, code: str) -> None:
    (package / "pipeline/zz.py").write_text("def scale():\n    return 1.0\n")
    (package / "pipeline/b.py").write_text(code)
    assert edited(package, "pipeline/zz.py", "1.0", "0.0")


def test_two_statements_on_a_line_both_count(package: Path) -> None:
    (package / "pipeline/b.py").write_text("A = 1.0; B = 3.0\n\ndef used(x):\n    return A * B\n")
    assert edited(package, "pipeline/b.py", "A = 1.0", "A = 2.0")
    assert edited(package, "pipeline/b.py", "B = 3.0", "B = 2.0")


def test_what_a_decorator_registers_counts(package: Path) -> None:
    (package / "pipeline/b.py").write_text(
        "T = {}\n\ndef reg(f):\n    T[f.__name__] = f\n    return f\n\n@reg\ndef one():\n    return 1\n\n"
        "def used(x):\n    return T['one']()\n"
    )
    assert edited(package, "pipeline/b.py", "return 1\n", "return 2\n")


def test_a_file_that_is_no_python_is_compared_by_its_bytes(package: Path) -> None:
    (package / "pipeline/b.py").write_text("def used(x:\n    return x")
    assert edited(package, "pipeline/b.py", "return x", "return y")


def test_an_entry_that_is_not_there_is_said(package: Path) -> None:
    with pytest.raises(LookupError, match=r"pipeline\.gone"):
        Closure(package).files(["pipeline.gone:entry"])


def test_every_entry_is_there_and_its_stage_calls_it() -> None:
    closure = Closure(ROOT)
    for stage, (entries, _) in ENTRIES.items():
        script = (ROOT / "pipeline" / "stages" / f"{stage}.py").read_text()
        for entry in entries:
            module, _, name = entry.partition(":")
            assert name in closure.names([entry])[module], entry
            # The trainer is called by the launcher, which decides nothing.
            assert f"from {module} import" in script or module == "pipeline.training.trainer", (stage, entry)


def test_a_course_is_decided_by_less_than_a_training_with_all_that_it_leaves() -> None:
    """What draws snapshots and publishes may change, and interrupted trainings go on."""
    content = {
        name: dict(code["files"]) for name, code in code_files(ROOT, Evaluate(extractors=["inception"]), Render())
    }
    course, train = content["course-dcgan"], content["train-dcgan"]
    assert set(course) < set(train)
    assert "pipeline/core/loop.py" in course and "pipeline/nets/dcgan.py" in course
    left = {"pipeline/training/publish.py", "pipeline/training/trainer.py", "pipeline/render/grid.py"}
    left |= {"pipeline/watch/measures/diversity.py", "pipeline/watch/warnings/collapse.py"}
    assert left <= set(train) and not left & set(course)


@pytest.mark.parametrize(
    ("file", "redone"),
    [("pictures/saliency", {"render"}), ("pictures/film", set()), ("comparisons/pca", {"evaluate"})],
)
def test_a_pictures_file_redoes_what_draws_it_where_it_is_chosen(file: str, redone: set[str], tmp_path: Path) -> None:
    chosen = (Evaluate(extractors=["inception"]), Render(pictures=["saliency"]))
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    before = dict(code_files(tmp_path, *chosen))
    edited = tmp_path / "pipeline" / "render" / f"{file}.py"
    edited.write_text(edited.read_text().replace('title="', 'title="More on '))
    after = dict(code_files(tmp_path, *chosen))
    assert {name.partition("-")[0] for name in after if after[name] != before[name]} == redone


def test_choosing_a_picture_redoes_the_pictures_alone() -> None:
    evaluate = Evaluate(extractors=["inception"])
    few, more = (dict(code_files(ROOT, evaluate, Render(pictures=names))) for names in ([], ["saliency"]))
    assert {name.partition("-")[0] for name in few if few[name] != more[name]} == {"render"}


def test_who_decides_nothing_says_why() -> None:
    exempt = Closure(ROOT).exempt
    assert all(exempt.values())
    assert set(exempt) == {
        "pipeline.cluster",
        "pipeline.console",
        "pipeline.errors",
        "pipeline.session",
        "pipeline.storage",
        "pipeline.tracking",
    }


def test_no_exempt_file_is_counted() -> None:
    found = {
        path
        for _, content in code_files(ROOT, Evaluate(extractors=["efficientnet_lite0"]), Render())
        for path in content["files"]
        if any(
            path.startswith(f"pipeline/{room}")
            for room in ("cluster", "console", "errors", "session", "storage", "tracking")
        )
    }
    assert not found


TRACE = """
import json
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

from toy_job import job
from tracing import called

from pipeline import methods
from pipeline.core.world import World
from pipeline.data.dataset import open_dataset
from pipeline.training.course import fresh_state, iterations
from pipeline.training.publish import RunInfo, publish
from pipeline.training.trainer import train

small = {"width": 8, "latent": 6, "categories": 3, "continuous": 1, "blocks": 1, "levels": 2, "steps": 1}
small |= {"codes": 16, "embedding": 8, "grid": 4, "perceptual_weight": 1.0}
own = {field.name for field in fields(methods.find(sys.argv[2]))}
method = methods.load(sys.argv[2], **{name: value for name, value in small.items() if name in own})
work = job(Path(sys.argv[1]), images=32)
spec = Path(work.data) / "spec.json"
info = json.loads(spec.read_text()) | {"classes": list("0123456789")}
info["splits"]["test"] = info["splits"]["train"]
spec.write_text(json.dumps(info))
shutil.copyfile(spec.parent / "train-labels.npy", spec.parent / "test-labels.npy")
domains = ("0", "1") if "other" in method.needs else ("edges", "images") if "pair" in method.needs else None
work = replace(work, method=method, run=replace(work.run, method=sys.argv[2], domains=domains))

def whole():
    train(work, World(), lambda rows: None)
    about = RunInfo(name="toy", key="key", params={})
    publish(about, work, open_dataset(Path(work.data)), Path(sys.argv[1]) / "published")

def course():
    data = open_dataset(Path(work.data))
    for logs in iterations(work, fresh_state(work, data.spec, World()), data, World()):
        assert logs

print(json.dumps([sorted(called(whole)), sorted(called(course))]))
"""


def test_views_decide_the_runs_of_methods_that_take_them_and_of_no_other() -> None:
    params = read_params(ROOT / "params.yaml")
    views = "pipeline/data/views.py"
    found = {name for name, code in code_files(ROOT, params.evaluate, params.render) if views in code["files"]}
    takes = {name for name in methods.names() if methods.find(name).views}
    assert takes and found == {
        f"{stage}-{name}" for stage in ("train", "generate", "render", "course") for name in takes
    }


@pytest.mark.parametrize(
    "method",
    [
        name if name in ("dcgan", "vae") else pytest.param(name, marks=pytest.mark.slow)
        for name in methods.names()
        if not methods.find(name).starts_from
    ],
)
def test_whatever_a_training_executes_is_counted(tmp_path: Path, method: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRACE, str(tmp_path), method],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    calls, course = json.loads(done.stdout)
    assert len(calls) > len(course) > 40
    watched = [f"{kind}.{name}" for kind in CHOSEN["train"] for name in registry.names(kind)]
    assert not uncounted(ROOT, calls, [*ENTRIES["train"][0], *watched, f"{METHODS}.{method}"])
    assert not uncounted(ROOT, course, [*COURSE, f"{METHODS}.{method}"], wiring=("pipeline.training.job",))
