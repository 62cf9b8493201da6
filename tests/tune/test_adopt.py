"""Values of a trial in params.yaml: comments, order and form stay, and every reader reads the same number."""

from pathlib import Path

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.tune.adopt import adopt, as_yaml, read_best, with_values

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
