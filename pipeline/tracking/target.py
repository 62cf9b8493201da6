"""Where MLflow is: a database or a server, its experiment, and how to connect without long waits.

The only subject here is the place; what is sent there is in sender.py, what is read from it in queries.py.
"""

import hashlib
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.config import PARAMS, Tracking
from pipeline.errors import UserError
from pipeline.files import locked, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient

NO_ANSWER = "no answer in time"
UI_PORT = 5000  # the default of `genloom ui`

_SERVERS = ("http", "https")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 3.0
_TABLES_SECONDS = 120.0
_LONGEST_REASON = 300
_NO_MLFLOW = re.compile(r"endpoint (\S+) failed with error code (\d+)")  # MLflow's words for an answer of another kind


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

    @property
    def pages(self) -> str | None:
        """The address of its pages, for a database while `genloom ui` serves them; None where it has none."""
        if self.is_database:
            return f"http://127.0.0.1:{UI_PORT}"
        return self.shown.replace("://***@", "://").rstrip("/") if self.uri.startswith("http") else None

    def page(self, run_id: str) -> str:
        """Return where a person sees a run: a URL, and for a database the command that serves it."""
        if self.pages is None:
            return f"run {run_id} of experiment '{self.experiment}' at {self.shown}"
        served = " (while `genloom ui` runs)" if self.is_database else ""
        return f"{self.pages}/#/runs/{run_id}{served}"


def resolve(tracking: Tracking) -> Target:
    """Return the target: MLFLOW_TRACKING_URI if set, else params.yaml's tracking.uri, with sqlite paths made absolute.

    Args:
        tracking: The section of params.yaml.

    Returns:
        The target; nothing has been contacted.

    Raises:
        UserError: MLflow cannot write there, whatever the network says: no such kind of address, or an incomplete one.
    """
    from_environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = from_environment or tracking.uri
    where = "MLFLOW_TRACKING_URI" if from_environment else f"{PARAMS}: tracking.uri"
    if problem := _find_mistake(uri):
        raise UserError(
            f"{where}: MLflow cannot write to '{redacted(uri)}': {problem}. "
            "Use for example sqlite:///mlflow.db or http://localhost:5000."
        )
    if not tracking.experiment.strip():
        raise UserError(f"{PARAMS}: tracking.experiment: name the experiment, for example 'genloom'.")
    prefix, _, path = uri.partition(":///")
    if prefix.startswith("sqlite") and not path.startswith("/"):
        uri = f"{prefix}:///{project_root() / path}"
    return Target(uri, tracking.experiment)


def _find_mistake(uri: str) -> str | None:
    """Return what is wrong with an address itself; None if it can be tried."""
    scheme = re.split(r"[+:]", uri, maxsplit=1)[0]
    if uri == "databricks" or uri.startswith("databricks://"):
        return None
    if scheme in _SERVERS:
        return _find_mistake_of_server(uri)
    if scheme not in _DATABASES:
        kinds = ", ".join(f"{kind}://" for kind in (*_DATABASES, *_SERVERS))
        return f"an address begins with one of {kinds} or is databricks"
    return _find_mistake_of_file(uri) if scheme == "sqlite" else _find_mistake_of_database(uri)


def _find_mistake_of_server(uri: str) -> str | None:
    if re.search(r"\s", uri):
        return "there is a space in it"
    try:
        address = urlsplit(uri)
        complete = address.hostname and "://" in uri and address.port != 0
    except ValueError as error:  # a port that is no number, or too large
        return redacted(str(error)).lower()
    return None if complete else "it lacks the server's name"


def _find_mistake_of_file(uri: str) -> str | None:
    prefix, slashes, path = uri.partition(":///")
    file = path.partition("?")[0]
    if not slashes or not re.fullmatch(r"sqlite(\+\w+)?", prefix):
        return "a file has three slashes before a relative and four before an absolute path"
    if file in ("", ":memory:"):
        return "it names no file, and runs in memory would be lost"
    if (project_root() / file).is_dir():
        return "that is a folder"
    return None


def _find_mistake_of_database(uri: str) -> str | None:
    """Say if the address is not SQLAlchemy's, or names a driver that is not installed."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        return f"its driver is not installed ({error}); `pip install` it, or name another (postgresql+psycopg://)"
    except (ArgumentError, ValueError) as error:
        return redacted(" ".join(str(error).split()))
    return None


def redacted(text: str) -> str:
    """Return the text without the user names and passwords of the URIs in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def reason(error: BaseException) -> str:
    """Return what went wrong on one line, redacted: for a connection that failed in a few words, else the error's."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ConnectionError | socket.gaierror) and cause.errno and cause.strerror:
            return cause.strerror.lower()
        if isinstance(cause, TimeoutError) or type(cause).__name__ in ("Timeout", "ReadTimeout", "ConnectTimeout"):
            return NO_ANSWER
    text = redacted(" ".join(str(error).split()))
    if found := _NO_MLFLOW.search(text):
        return f"what answers there is no MLflow, or refuses: error {found[2]} for {found[1]}"
    return shorten(f"{type(error).__name__}: {text}", _LONGEST_REASON, placeholder=" ...")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those behind it; urllib3 keeps some as ``reason``."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            waiting += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    yield from found


def find_outage(target: Target, seconds: float = _CONNECT_SECONDS) -> str | None:
    """Try to open a connection; return why that failed.

    Args:
        target: Where MLflow is.
        seconds: For how long to try.

    Returns:
        The reason in a few words; None if something listens, and also if the target has no address (a sqlite file).
    """
    address = urlsplit(target.uri)
    try:
        port = address.port or _PORTS.get(re.split(r"[+:]", target.uri, maxsplit=1)[0])
        if address.hostname and port:
            socket.create_connection((address.hostname, port), timeout=seconds).close()
    except OSError as error:
        return reason(error)
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
