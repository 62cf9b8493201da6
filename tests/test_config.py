"""What a person gets for a mistake in params.yaml: one sentence with file, key and remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import PARAMS, read_params, read_run
from pipeline.errors import UserError
from pipeline.methods import configure
from pipeline.training.checks import spec_of

ROOT = Path(__file__).parent.parent


def params(tmp_path: Path, change: dict[str, Any]) -> Path:
    """The project's own params.yaml with ``section.key`` entries changed."""
    raw = yaml.safe_load((ROOT / PARAMS).read_text())
    for dotted, value in change.items():
        *sections, key = dotted.split(".")
        target = raw
        for section in sections:
            target = target[section]
        target[key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def read_all(path: Path) -> None:
    checked = read_params(path)
    for name in checked.runs:
        run, own = read_run(checked, name, path)
        configure(run, own, f"runs.{name}.", path)


def test_the_projects_params_are_right(tmp_path: Path) -> None:
    read_all(params(tmp_path, {}))


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipe_has_every_param_that_dvc_compares(recipe: Path) -> None:
    """DVC stops at one that is not there, default or not."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    named = {param for stage in stages for param in stage.get("do", stage).get("params", []) if "$" not in param}
    known = yaml.safe_load(recipe.read_text())
    for param in sorted(named):
        section, _, key = param.partition(".")
        assert section in known and (not key or key in known[section]), param


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipes_params_are_right_and_its_nets_can_be_built(recipe: Path) -> None:
    read = read_params(recipe)
    classes = {"mnist": 10, "cifar10": 10, "food101": 101}.get(read.data.source, 0)
    for name in read.runs:
        run, own = read_run(read, name, recipe)
        method = configure(run, own, f"runs.{name}.", recipe)
        assert method.build(spec_of(read.data, classes))


@pytest.mark.parametrize(
    ("change", "key", "remedy"),
    [
        ({"data.sourc": "mnist"}, "data.sourc", "Did you mean 'source'"),
        ({"dta": {}}, "dta", "Did you mean 'data'"),
        ({"data.channels": 2}, "data.channels", ""),
        ({"data.size": "big"}, "data.size", "a whole number from 8 to 1024, got 'big'"),
        ({"data.size": 4}, "data.size", "from 8 to 1024, got 4"),
        ({"data.classes": []}, "data.classes", "name at least one class, or null for all"),
        ({"data.classes": ["cat", "dog", "cat"]}, "data.classes", "cat stands there more than once"),
        ({"data.classes": [1, "1"]}, "data.classes", "1 stands there more than once"),
        ({"data.classes": "cat"}, "data.classes", "expected a list of whole numbers or text or null, got 'cat'"),
        ({"data.classes": [True]}, "data.classes", "got [True]"),
        ({"data.test_fraction": 1.5}, "data.test_fraction", "less than 1"),
        ({"cluster.workers": -1}, "cluster.workers", "a whole number of at least 0 or [a whole number"),
        ({"runs.dcgan.lrr": 1}, "runs.dcgan.lrr", "Did you mean 'lr'"),
        ({"runs.dcgan.lr": "fast"}, "runs.dcgan.lr", "number"),
        ({"runs.dcgan.lr": -1e-4}, "runs.dcgan.lr", "greater than 0"),
        ({"runs.dcgan.batch_size": 0}, "runs.dcgan.batch_size", "greater than 0"),
        ({"runs.dcgan.batchsize": 64}, "runs.dcgan.batchsize", "Did you mean 'batch_size'"),
        ({"runs.dcgan.method": "dcgam"}, "runs.dcgan.method", "Did you mean 'dcgan'"),
        ({"runs.dcgan.method": 3}, "runs.dcgan.method", "name the method"),
        ({"runs.wgan_gp.critic_norm": "batch"}, "runs.wgan_gp.critic_norm", "use layer"),
        ({"runs.vae.norm": "bach"}, "runs.vae.norm", "'batch', 'layer', 'group', 'instance' or 'none', got 'bach'"),
        ({"evaluate.extractors": []}, "evaluate.extractors", "at least 1"),
        ({"evaluate.metrics": ["fdi"]}, "evaluate.metrics", "Did you mean 'fid'"),
        ({"evaluate.extractors": ["a.b.pt2"]}, "evaluate.extractors", "name a file of evaluate.path"),
        ({"evaluate.statistics": {"inception": "a.npz"}}, "evaluate.statistics", "not in evaluate.extractors"),
        ({"evaluate.extractors": ["inceptoin"]}, "evaluate.extractors", "Did you mean 'inception'"),
        ({"data.source": "minst"}, "data.source", "Did you mean 'mnist'"),
        ({"runs.dcgan.stop_on": ["colapse"]}, "runs.dcgan.stop_on", "Did you mean 'collapse'"),
        ({"runs.dcgan.keep": "frechet_pixel"}, "runs.dcgan.keep", "Did you mean 'frechet_pixels'"),
        ({"runs.dcgan.keep": "lats"}, "runs.dcgan.keep", "Did you mean 'last'"),
        ({"runs.vae.watch_every": 0, "runs.vae.keep": "frechet_pixels"}, "runs.vae.watch_every", "keep needs looks"),
        ({"runs.vae.seeds": [0, 1]}, "runs.vae.seeds", "stands beside seed"),
        (
            {"runs.vae": {"method": "vae", "init_from": "scratch", "seeds": [-1, 2]}},
            "runs.vae.seeds",
            "expected a list of whole numbers of at least 0, got [-1, 2]",
        ),
        (
            {"runs.vae": {"method": "vae", "init_from": "scratch", "seeds": [2, 2]}},
            "runs.vae.seeds",
            "2 stands there more than once",
        ),
        ({"runs.vae": {"method": "vae", "init_from": "scratch", "seeds": []}}, "runs.vae.seeds", "at least one"),
        ({"evaluate.split": "dev"}, "evaluate.split", "'train' or 'test'"),
        ({"runs": {}}, "runs", "at least one run"),
        ({"runs": {"a b": {"method": "vae", "init_from": "scratch"}}}, "runs.a b", "letters, digits"),
        ({"runs": {"a;b": {"method": "vae", "init_from": "scratch"}}}, "runs.a;b", "letters, digits"),
        ({"runs": {"-a": {"method": "vae", "init_from": "scratch"}}}, "runs.-a", "letters, digits"),
        ({"runs": {"v1.5": {"method": "vae", "init_from": "scratch"}}}, "runs.v1.5", "A dot"),
        ({"runs": {"5a": {"method": "vae", "init_from": "scratch"}}}, "runs.5a", "a letter or '_'"),
        ({"runs": {"wgan/gp": {"method": "vae", "init_from": "scratch"}}}, "runs.wgan/gp", "letters, digits"),
        ({"runs": {64: {"method": "vae", "init_from": "scratch"}}}, "runs.64", "a letter or '_'"),
        ({"runs": {True: {"method": "vae", "init_from": "scratch"}}}, "runs.true", "a letter or '_'"),
        ({"runs": {"no": {"method": "vae", "init_from": "scratch"}}}, "runs.no", "YAML reads as something else"),
        ({"runs": {"a" * 101: {"method": "vae", "init_from": "scratch"}}}, f"runs.{'a' * 101}", "100 at most"),
        (
            {"runs": {name: {"method": "vae", "init_from": "scratch"} for name in ("Vae", "vae")}},
            "runs.vae",
            "differs from 'Vae' in case alone",
        ),
        ({"runs.vae": 3}, "runs.vae", "expected a mapping of settings, got 3"),
        ({"data": 3}, "data", "mapping"),
        ({"runs.vae.init_from": "dcgan"}, "runs.vae.init_from", "Did you mean 'runs/dcgan'"),
        ({"runs.vae.init_from": None}, "runs.vae.init_from", "scratch, or runs/<run>"),
        ({"runs.vae.init_from": "runs/vae"}, "runs.vae.init_from", "vae begins from vae"),
        (
            {"runs.vae.init_from": "runs/dcgan", "runs.dcgan.init_from": "runs/vae"},
            "runs.dcgan.init_from",
            "dcgan begins from vae begins from dcgan: name another",
        ),
        ({"runs.vae.init_from": "runs/dcgan", "runs.vae.weights": "a"}, "runs.vae.weights", "leave one out"),
        ({"derived": {}}, "derived", "init_from: runs/<run>"),
        ({"runs.vae.precision": "fp16"}, "runs.vae.precision", "'fp32' or 'bf16'"),
        ({"cluster.workers": [0, 2]}, "cluster.workers", "greater than 0"),
        ({"cluster.workers": [2]}, "cluster.workers", "got [2]"),
        ({"cluster.address": "auto"}, "cluster.address", "set cluster.workers to 1 or more"),
        ({"cluster.stream": True}, "cluster.stream", "needs cluster.storage to be a URL"),
        ({"runs.vae.domains": ["a"]}, "runs.vae.domains", "expected [text, text] or null, got ['a']"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, change: dict[str, Any], key: str, remedy: str) -> None:
    path = params(tmp_path, change)
    with pytest.raises(UserError) as caught:
        read_all(path)
    message = str(caught.value)
    assert str(path) in message and f" {key}:" in message and remedy in message
    assert "\n" not in message


def test_a_number_may_be_written_as_yaml_1_1_misreads_it(tmp_path: Path) -> None:
    path = params(tmp_path, {})
    path.write_text(path.read_text().replace("lr: 0.0002", "lr: 1e-4"))
    checked = read_params(path)
    run, own = read_run(checked, "dcgan", path)
    assert configure(run, own, "runs.dcgan.", path).lr == 1e-4


@pytest.mark.parametrize("content", ["[1, 2", "- a\n- b\n", "\xff\xfe"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"params\.yaml"):
        read_params(path)


def test_a_missing_file_and_a_missing_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        read_params(tmp_path / "params.yaml")
    path = params(tmp_path, {})
    with pytest.raises(UserError, match="Did you mean 'dcgan'"):
        read_run(read_params(path), "dcgam", path)


@pytest.mark.parametrize("name", ["a", "_x", "dcgan-v1_5", "A" * 100, "null_1", "key", "item"])
def test_a_name_that_dvc_and_file_systems_take_is_taken(tmp_path: Path, name: str) -> None:
    read_all(params(tmp_path, {"runs": {name: {"method": "vae", "init_from": "scratch"}}}))


def test_text_may_look_like_a_number(tmp_path: Path) -> None:
    checked = read_params(params(tmp_path, {"evaluate.weights": "2024", "tracking.experiment": "1e3"}))
    assert (checked.evaluate.weights, checked.tracking.experiment) == ("2024", "1e3")
