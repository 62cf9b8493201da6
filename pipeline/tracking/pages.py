"""Where a person sees runs in MLflow: a page of all runs with the columns that compare them, and one of chosen runs.

MLflow 3.17 opens an experiment in its view for traces, which for trainings is empty; the address says that these are
models. Which columns the table shows is kept in the browser, or, as MLflow's button Share does it, in a tag of the
experiment that the address names; a person's own choice in the browser stays as it is at any other address.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from pipeline.config import Params
from pipeline.tracking.references import PUBLISHED, read_published
from pipeline.tracking.target import Target, connect, prepare, resolve

VIEW = "genloom"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_TRAININGS = {"workflowType": "machine_learning"}


@dataclass(frozen=True, kw_only=True)
class View:
    """What the table of runs shows.

    Attributes:
        metrics: their columns, in this order; the first one sorts.
        params: the columns before them.
        ascending: whether less of the first metric is better.
    """

    metrics: Sequence[str]
    params: Sequence[str] = ("method",)
    ascending: bool = True

    def content(self) -> str:
        """Return what MLflow keeps of a shared view."""
        columns = [f"params.`{name}`" for name in self.params] + [f"metrics.`{name}`" for name in self.metrics]
        order = {"orderByKey": f"metrics.`{self.metrics[0]}`", "orderByAsc": self.ascending} if self.metrics else {}
        return json.dumps({"selectedColumns": columns} | order)


def find_links(params: Params, published: Iterable[Path], view: View | None = None) -> dict[str, str]:
    """Return the addresses of MLflow's pages on the project, for a database while `genloom ui` serves it.

    Args:
        params: of the project.
        published: folders of trainings in out/runs.
        view: what the table shows to whom follows its link; None: what it showed before.

    Returns:
        Addresses by their titles: the table of all runs, and the comparison of the published ones. None before there is
        an experiment, or where MLflow has no pages of its own.
    """
    target = resolve(params.tracking)
    prepare(target)
    client = connect(target)
    found = client.get_experiment_by_name(target.experiment)
    if found is None:
        return {}
    experiment = str(found.experiment_id)
    if view and found.tags.get(VIEW_TAG) != view.content():
        client.set_experiment_tag(experiment, VIEW_TAG, view.content())
    known = (read_published(folder / PUBLISHED, params) for folder in published)
    ids = [reference.run_id for reference in known if reference and reference.run_id]
    shared = {"viewStateShareKey": VIEW} if view or VIEW_TAG in found.tags else {}
    links = {"Runs": _address(target, f"experiments/{experiment}/runs", _TRAININGS | shared)}
    if len(ids) > 1:
        lists = {"runs": json.dumps(ids), "experiments": json.dumps([experiment])}
        links["Comparison"] = _address(target, "compare-runs", lists | _TRAININGS)
    return {title: link for title, link in links.items() if link}


def _address(target: Target, path: str, query: dict[str, str]) -> str | None:
    return f"{target.pages}/#/{path}?{urlencode(query)}" if target.pages else None
