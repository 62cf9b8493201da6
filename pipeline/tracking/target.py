"""Where MLflow is: a database or a server, its experiment, and how to connect without long waits.

The only subject here is the place; what is sent there is in sender.py, what is read from it in queries.py.
"""

import hashlib
import logging
import os
import re
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.config import PARAMS, Tracking
from pipeline.errors import UserError
from pipeline.files import locked, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient

UI_PORT = 5000  # the default of `genloom ui`

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "oracle", "http", "https", "databricks")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433, "oracle": 1521}
_CONNECT_SECONDS = 3.0
_TABLES_SECONDS = 120.0
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Target:
    """The MLflow that runs are sent to.

    uri: absolute; it may hold a password, so it is never stored or printed: use ``shown``.
    """

    uri: str
    experiment: str

    @property
    def shown(self) -> str:
        """The URI without user name and password."""
        return redacted(self.uri)

    @property
    def digest(self) -> str:
        """A hash that tells targets apart without revealing the URI."""
        return hashlib.sha256(f"{self.uri}\n{self.experiment}".encode()).hexdigest()[:16]

    @property
    def is_database(self) -> bool:
        """Whether this process opens the database itself instead of asking a server."""
        return not self.uri.startswith(("http", "databricks"))

    def page(self, run_id: str) -> str:
        """Return where a person sees a run: a URL, and for a database the command that serves it."""
        if self.is_database:
            return f"http://127.0.0.1:{UI_PORT}/#/runs/{run_id} (while `genloom ui` runs)"
        if self.uri.startswith("http"):
            return f"{self.shown.replace('://***@', '://').rstrip('/')}/#/runs/{run_id}"
        return f"run {run_id} of experiment '{self.experiment}' at {self.shown}"


def resolve(tracking: Tracking) -> Target:
    """Return the target: MLFLOW_TRACKING_URI if set, else params.yaml's tracking.uri, with sqlite paths made absolute.

    Args:
        tracking: The section of params.yaml.

    Returns:
        The target; nothing has been contacted.

    Raises:
        UserError: The URI is of a kind that MLflow cannot write to.
    """
    from_environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = from_environment or tracking.uri
    if re.split(r"[+:]", uri, maxsplit=1)[0] not in _SCHEMES:
        where = "MLFLOW_TRACKING_URI" if from_environment else f"{PARAMS}: tracking.uri"
        raise UserError(
            f"{where}: MLflow cannot write to '{redacted(uri)}'. "
            "Use for example sqlite:///mlflow.db or http://localhost:5000."
        )
    prefix, _, path = uri.partition(":///")
    if prefix.startswith("sqlite") and not path.startswith("/"):
        uri = f"{prefix}:///{project_root() / path}"
    return Target(uri, tracking.experiment)


def redacted(text: str) -> str:
    """Return the text without the user names and passwords of the URIs in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def reason(error: Exception) -> str:
    """Return an error's type and message on one line, shortened and redacted."""
    text = redacted(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:_LONGEST_REASON]}"


def find_outage(target: Target) -> str | None:
    """Try to open a connection, for at most 3 seconds; return why that failed.

    Returns None if something listens, and also if the target has no address (a sqlite file).
    """
    address = urlsplit(target.uri)
    try:
        port = address.port or _PORTS.get(re.split(r"[+:]", target.uri, maxsplit=1)[0])
        if address.hostname and port:
            socket.create_connection((address.hostname, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def prepare(target: Target) -> None:
    """Set up MLflow in this process: short timeouts, no retries, no chatter, synchronous logging, the target's URI."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    for name, value in limits.items() | {("MLFLOW_DISABLE_TELEMETRY", "true")}:
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"  # what is counted as sent must have arrived
    import mlflow

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    named = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(target.uri)
    mlflow.set_registry_uri(target.uri)
    if named is None:  # MLflow has just set it, and the next ``resolve`` would take it for the user's
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def connect(target: Target) -> "MlflowClient":
    """Return a client, after creating a database's tables if it has none.

    One process at a time does so, because MLflow's migrations race: another waits up to 120 seconds.
    """
    from mlflow import MlflowClient

    if not target.is_database:
        return MlflowClient(target.uri)
    database = target.uri.partition(":///")[2].partition("?")[0]
    local = target.uri.startswith("sqlite") and database
    lock = Path(f"{database}.lock") if local else Path(tempfile.gettempdir(), f"genloom-{target.digest}.lock")
    with locked(lock, wait=_TABLES_SECONDS):
        client = MlflowClient(target.uri)
        client.search_experiments(max_results=1)
    return client


def initialise(target: Target) -> None:
    """Create a database's tables, if it has none yet."""
    prepare(target)
    connect(target)


def find_or_create_experiment(client: "MlflowClient", target: Target) -> str:
    """Return the experiment's id; create the experiment if MLflow has none of that name.

    Args:
        client: A client of the target.
        target: The target, which names the experiment.

    Returns:
        MLflow's id of the experiment.

    Raises:
        UserError: The experiment is deleted in MLflow.
        MlflowException: MLflow refuses or does not answer.
    """
    from mlflow.exceptions import MlflowException

    # A server knows best where its artifacts go; without one MLflow would choose the current folder.
    location = (project_root() / "mlartifacts").as_uri() if target.is_database else None
    found = client.get_experiment_by_name(target.experiment)
    if found is None:
        try:
            return str(client.create_experiment(target.experiment, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(target.experiment)
    if found is None or found.lifecycle_stage != "active":
        raise UserError(
            f"{PARAMS}: tracking.experiment: MLflow's experiment '{target.experiment}' is deleted. "
            "Restore it in MLflow, or name another."
        )
    return str(found.experiment_id)
