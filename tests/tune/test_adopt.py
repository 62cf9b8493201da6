"""Values of a trial in params.yaml: comments, order and form stay, and every reader reads the same number."""

from pathlib import Path

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.tune.adopt import adopt, as_yaml, read_best, searches, with_values

TEXT = """\
# A comment at the top.
runs:
  vae:   # the one that is searched
    method: vae
    lr: 0.001       # per image
    betas:
      - 0.5
      - 0.9
    beta: 4.0  # and this stays

  other: {method: vae, lr: 1}   # one line
data: {size: 16}
"""


def test_only_values_change() -> None:
    found = with_values(TEXT, "vae", {"lr": 2.5e-5, "latent": 8, "beta": 1.0})
    expected = TEXT.replace("lr: 0.001  ", "lr: 0.000025  ").replace("beta: 4.0  #", "beta: 1.0  #")
    assert found == expected.replace("and this stays\n", "and this stays\n    latent: 8\n")


def test_lists_and_runs_of_one_line() -> None:
    found = with_values(TEXT, "vae", {"betas": (0.0, 0.99)})
    assert yaml.safe_load(found)["runs"]["vae"]["betas"] == [0.0, 0.99]
    assert yaml.safe_load(found)["runs"]["vae"]["beta"] == 4.0 and "# and this stays" in found
    found = with_values(TEXT, "other", {"lr": 0.5, "net": "mlp"})
    assert "  other: {method: vae, lr: 0.5, net: mlp}   # one line\n" in found


@pytest.mark.parametrize("value", [1e-5, 0.0195, 1e-8, 12345.0, 3, True, None, "no", "resnet", [0.5, "a"]])
def test_numbers_are_read_as_they_were_written(value: object) -> None:
    text = as_yaml(value)
    assert yaml.safe_load(f"x: {text}")["x"] == value and "e-" not in text


def test_adopting_shows_a_diff_and_does_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    shown = adopt("vae", {"lr": 0.01}, path)
    assert "-    lr: 0.001       # per image" in shown and "+    lr: 0.01       # per image" in shown
    assert adopt("vae", {"lr": 0.01}, path) == ""
    with pytest.raises(UserError, match="no run 'vea'"):
        adopt("vea", {"lr": 0.01}, path)


def test_the_report_says_of_each_search_what_it_found_and_whether_it_was_adopted(tmp_path: Path) -> None:
    runs: dict[str, dict[str, object]] = {"vae": {"lr": 0.01}, "other": {}, "lost": {}, "taken": {}}
    runs["taken"] = {"lr": "2e-3", "betas": [0.5, 0.9], "beta": 4.0}
    assert searches(tmp_path / "tune", runs) == []
    best = {"trial": 7, "params": {"lr": 0.002, "betas": [0.5, 0.9]}, "values": {"elbo": 3.93912}, "images": 9}
    for run in ("vae", "lost", "taken", "gone"):
        folder = tmp_path / "tune" / run
        folder.mkdir(parents=True)
        (folder / "report.html").write_text("page")
        (folder / "best.yaml").write_text(yaml.safe_dump({"best": [] if run == "lost" else [best]}))
    found = {search.run: search for search in searches(tmp_path / "tune", runs)}
    assert list(found) == ["vae", "lost", "taken"]
    assert found["vae"].page == "tune/vae/report.html"
    assert found["vae"].said == "trial 7, elbo 3.9391; not adopted: `genloom adopt vae` takes it"
    assert found["taken"].said == "trial 7, elbo 3.9391; adopted"
    assert "no trial of this search is finished" in found["lost"].said


def test_what_comes_of_a_populations_values_is_said(tmp_path: Path) -> None:
    path = tmp_path / "vae/best.yaml"
    path.parent.mkdir()
    best: dict[str, object] = {"trial": 2, "params": {"lr": 0.2}, "values": {"x": 1.0}, "images": 9000}
    path.write_text(yaml.safe_dump({"best": [best]}))
    assert read_best(path).what_comes("vae") == "`dvc repro` publishes its training."
    path.write_text(yaml.safe_dump({"scheduler": "pbt", "best": [best]}))
    assert "from the start" in read_best(path).what_comes("vae")
    way = [{"images": 0, "trial": 1, "params": {"lr": 0.1}}, {"images": 3000, "trial": 2, "params": {"lr": 0.2}}]
    path.write_text(yaml.safe_dump({"scheduler": "pbt", "best": [best | {"schedule": way}]}))
    said = read_best(path).what_comes("vae")
    assert "from 0 images lr 0.1; from 3,000 images lr 0.2" in said and "trains anew" in said
    assert "out/tune/vae/weights/trial-2.safetensors" in said


def test_the_best_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vae/best.yaml"
    with pytest.raises(UserError, match="make tune RUN=vae"):
        read_best(path)
    path.parent.mkdir()
    path.write_text("best: []")
    with pytest.raises(UserError, match="no trial of this search is finished"):
        read_best(path)
    trials = [{"trial": n, "params": {"lr": n}, "values": {"x": 1.0}, "images": 9} for n in (3, 5)]
    path.write_text(yaml.safe_dump({"best": trials}))
    assert read_best(path).trial == 3 and read_best(path, 5).params == {"lr": 5}
    with pytest.raises(UserError, match="trial 4 is not among the best: 3, 5"):
        read_best(path, 4)
