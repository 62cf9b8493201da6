"""Brings journals to MLflow; the only module that imports it, and only where it is talked to.

Training writes a journal (journal.py) and never waits for MLflow: ``shipping`` starts a process that
follows the journal and sends it, with the journal's own times, so that sending anything twice changes
nothing. What could not be sent stays in the journal, for ``sync``. That process also samples the
machine it runs on, by MLflow's own monitors, into system.jsonl beside the journal: the training
process pays nothing for it, and a server that is down loses none of it.

Beside a run's journal: shipped.json (how far MLflow has it), system.jsonl, shipper.log.
"""

import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.config import PARAMS, Tracking
from pipeline.errors import UserError
from pipeline.files import locked, project_root, write_json
from pipeline.tracking import journal
from pipeline.tracking.journal import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from torch import Tensor

SYSTEM = "system.jsonl"
STATE = "shipped.json"
LOG = "shipper.log"

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "oracle", "http", "https", "databricks")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433, "oracle": 1521}
_KNOCK_SECONDS = 3.0
_SAMPLE_SECONDS = 10.0
_POLL_SECONDS = 1.0
_LONGEST_BACKOFF = 30.0
_LAST_ATTEMPTS = 3
_LAST_SECONDS = 8.0
# The server refused the content and will always do so; anything else may pass.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_DIGEST_LENGTH = 36
_DVC_VARIABLES = ("STAGE", "EXP_NAME", "EXP_BASELINE_REV")
_PACKAGES = ("genloom", "torch", "ray", "mlflow", "dvc")


@dataclass(frozen=True)
class Target:
    """Where runs go. uri: absolute; may hold a password, so it is never stored nor shown: see ``shown``."""

    uri: str
    experiment: str

    @property
    def shown(self) -> str:
        """The URI without what must stay secret."""
        return redacted(self.uri)

    @property
    def digest(self) -> str:
        """Tells one target from another without naming it."""
        return hashlib.sha256(f"{self.uri}\n{self.experiment}".encode()).hexdigest()[:16]

    @property
    def is_database(self) -> bool:
        """Whether this process opens the database itself, instead of asking a server."""
        return not self.uri.startswith(("http", "databricks"))


def resolve(tracking: Tracking) -> Target:
    """params.yaml's tracking, or MLFLOW_TRACKING_URI where that is set; a relative sqlite path made absolute."""
    from_environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = from_environment or tracking.uri
    if re.split(r"[+:]", uri, maxsplit=1)[0] not in _SCHEMES:
        where = "MLFLOW_TRACKING_URI" if from_environment else f"{PARAMS}: tracking.uri"
        raise UserError(
            f"{where}: '{redacted(uri)}' is no place that MLflow can write to. "
            "Use for example sqlite:///mlflow.db or http://localhost:5000."
        )
    prefix, _, path = uri.partition(":///")
    if prefix.startswith("sqlite") and not path.startswith("/"):
        uri = f"{prefix}:///{project_root() / path}"
    return Target(uri, tracking.experiment)


def redacted(text: str) -> str:
    """The text without the user names and passwords of the URIs in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


# ---- How far MLflow has a journal


@dataclass
class Shipped:
    """Kept in shipped.json. target: a digest of where; page: of the run, on a server; offsets: bytes sent, by file;
    refused: what MLflow would not take, and why."""

    target: str
    experiment: str
    run_id: str | None = None
    page: str | None = None
    offsets: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, target: Target) -> "Shipped":
        """What is known for the target: nothing, where the file is absent, damaged or of another target."""
        try:
            state = cls(**json.loads((folder / STATE).read_text()))
        except (OSError, ValueError, TypeError):
            return cls(target.digest, target.experiment)
        return state if state.target == target.digest else cls(target.digest, target.experiment)

    def is_complete(self, folder: Path) -> bool:
        """Whether MLflow has all that the journals hold."""
        sizes = {name: (folder / name).stat().st_size for name in (journal.NAME, SYSTEM) if (folder / name).exists()}
        return self.run_id is not None and all(self.offsets.get(name) == size for name, size in sizes.items())


def run_reference(folder: Path, tracking: Tracking) -> dict[str, str | None]:
    """The link from a run's files to MLflow, for mlflow.json; run_id is null as long as MLflow was not reached."""
    start = journal.started(folder) or {"name": None, "key": None}
    state = Shipped.of(folder, resolve(tracking))
    return {"run_id": state.run_id, "run": start["name"], "key": start["key"], "experiment": tracking.experiment}


def run_page(folder: Path, tracking: Tracking) -> str | None:
    """Where a person sees the run, once MLflow has it."""
    state = Shipped.of(folder, resolve(tracking))
    return state.run_id and (state.page or f"MLflow's run {state.run_id}: `genloom ui` shows it")


def last_reference(folder: Path) -> dict[str, str | None] | None:
    """The same, of wherever the journal was sent last; None where it was sent nowhere."""
    start = journal.started(folder)
    try:
        state = json.loads((folder / STATE).read_text())
        run = {"run_id": state["run_id"], "experiment": state["experiment"]}
    except (OSError, ValueError, KeyError):
        return None
    return run | {"run": start["name"], "key": start["key"]} if start and run["run_id"] else None


def code_tags() -> dict[str, str]:
    """What made a run: the commit, whether the tree differed from it, DVC's stage and experiment, the versions."""
    commit = _git("rev-parse", "HEAD")
    # dvc.lock is DVC's own output: it changes while `dvc repro` runs.
    dirty = str(bool(_git("status", "--porcelain", "--", ".", ":!dvc.lock"))).lower() if commit else ""
    tags = {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}
    tags |= {f"dvc.{name.lower()}": os.environ.get(f"DVC_{name}", "") for name in _DVC_VARIABLES}
    tags |= {f"version.{name}": _version(name) for name in _PACKAGES} | {"version.python": platform.python_version()}
    tags |= {"mlflow.source.name": "genloom", "mlflow.source.type": "LOCAL", "mlflow.user": getpass.getuser()}
    return {name: value for name, value in tags.items() if value}


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# ---- The training process's side


@contextmanager
def shipping(folder: Path, tracking: Tracking, wait: float = 60.0) -> Iterator[None]:
    """While the block runs, another process sends the folder's journal to MLflow.

    At the end waits up to ``wait`` seconds for it to send the rest, and says how to send what could not be.
    Never raises for MLflow's sake.
    """
    target = resolve(tracking)
    if problem := _unreachable(target):
        print(f"tracking: MLflow at {target.shown} does not answer ({problem}); training goes on.", file=sys.stderr)
    process = _start_shipper(folder, target)
    try:
        yield
    finally:
        _finish_shipper(process, folder, target, wait)


def _unreachable(target: Target) -> str | None:
    """Why nothing listens where the server or database should be; None also where there is no such address."""
    address = urlsplit(target.uri)
    try:
        port = address.port or _PORTS.get(re.split(r"[+:]", target.uri, maxsplit=1)[0])
        if address.hostname and port:
            socket.create_connection((address.hostname, port), timeout=_KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _start_shipper(folder: Path, target: Target) -> "subprocess.Popen[bytes] | None":
    folder.mkdir(parents=True, exist_ok=True)
    # MLflow's own variables, not arguments: other users can read a process's arguments.
    environment = {"MLFLOW_TRACKING_URI": target.uri, "MLFLOW_EXPERIMENT_NAME": target.experiment}
    # This code, from a folder that stays: a workspace of `dvc exp run --temp` is deleted when its command ends.
    environment |= {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "pipeline.tracking.shipper", str(folder.resolve())]
    try:
        with (folder / LOG).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                cwd=project_root(),
                start_new_session=True,  # Ctrl-C is for training; the shipper ends after it
            )
    except OSError as error:
        print(f"tracking: {error}; `genloom sync` sends this run later.", file=sys.stderr)
        return None


def _finish_shipper(process: "subprocess.Popen[bytes] | None", folder: Path, target: Target, wait: float) -> None:
    if process is None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        if process.wait(wait) == 0:
            return
        problem = f"MLflow at {target.shown} did not take all of this run ({_last_line(folder / LOG)})"
    except subprocess.TimeoutExpired:
        problem = f"MLflow at {target.shown} is slow; this run is still being sent"
    print(f"tracking: {problem}. It is complete on disk: `genloom sync` sends the rest.", file=sys.stderr)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return lines[-1] if lines else "no reason given"


# ---- The shipper's process


def follow(folder: Path, target: Target) -> bool:
    """Sends the folder's journal until the process that started this one is done or gone; True if all was sent.

    Its standard input is a pipe that nobody writes to: it ends when the other process closes it or dies.
    """
    os.nice(10)  # training comes first
    parent = os.getppid()
    with ExitStack() as stack:
        if not _entered(stack, locked(folder / "shipper.lock", wait=120)):
            _log("another shipper is at work on this run")
            return False
        _prepare(target)
        sampler = _SystemSampler(folder)
        sampler.start()
        sender, failures, over = _Sender(folder, target), 0, False
        while not over:
            over = _ended(parent, min(_POLL_SECONDS * 2**failures, _LONGEST_BACKOFF))
            if over:
                sampler.stop()
                break
            failures = 0 if _attempted(sender) else min(failures + 1, 10)
        return _delivered(sender)


def _delivered(sender: "_Sender") -> bool:
    """Sends the rest: a few attempts, none begun late, since the training process waits meanwhile."""
    latest = time.monotonic() + _LAST_SECONDS
    for attempt in range(_LAST_ATTEMPTS):
        if _attempted(sender, last=True):
            return True
        time.sleep(attempt + 1)
        if time.monotonic() > latest:
            break
    return False


def _entered(stack: ExitStack, lock: Any) -> bool:
    try:
        stack.enter_context(lock)
    except BlockingIOError:
        return False
    return True


def _ended(parent: int, seconds: float) -> bool:
    """Waits; True as soon as the pipe's other end is closed. The parent's id changes when it dies, whoever else
    may have inherited the pipe."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable) or os.getppid() != parent


def _attempted(sender: "_Sender", last: bool = False) -> bool:
    try:
        sender.send(last)
    except Exception as error:  # whatever MLflow, a database or a disk may raise: training must not notice
        _log(_reason(error))
        return False
    return True


def _reason(error: Exception) -> str:
    text = redacted(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:300]}"


def _log(message: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), redacted(message), file=sys.stderr, flush=True)


def _prepare(target: Target) -> None:
    """Sets MLflow up in this process: no long waits, no chatter, and the tables made by one process alone."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    for name, value in limits.items() | {("MLFLOW_DISABLE_TELEMETRY", "true")}:
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"  # what is counted as sent must have arrived
    import logging

    import mlflow

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(target.uri)
    mlflow.set_registry_uri(target.uri)


class _SystemSampler(threading.Thread):
    """Appends the machine's load to system.jsonl, under the names that MLflow's page of system metrics shows."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._path = folder / SYSTEM
        self._stopped = threading.Event()
        self._monitors = _monitors()
        journal.repair(self._path)
        self._step = sum(1 for _ in journal.read(self._path))

    def run(self) -> None:
        seconds = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or _SAMPLE_SECONDS)
        while not self._stopped.wait(seconds):
            self._sample()

    def stop(self) -> None:
        """Takes a last sample, so that the shortest run has one."""
        self._stopped.set()
        self.join()
        self._sample()

    def _sample(self) -> None:
        try:
            values = {f"system/{name}": value for name, value in self._measured()}
            record = {"kind": "metrics", "time": time.time_ns() // 1_000_000, "step": self._step, "values": values}
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            self._step += 1
        except OSError as error:
            _log(_reason(error))

    def _measured(self) -> Iterator[tuple[str, float]]:
        for monitor in self._monitors:
            monitor.collect_metrics()
            yield from monitor.aggregate_metrics().items()
            monitor.clear_metrics()


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    kinds: tuple[Any, ...] = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor)
    monitors = []
    for kind in kinds:
        with suppress(ImportError, RuntimeError):  # no pynvml, or no GPU
            monitors.append(kind())
    return monitors


# ---- Sending


class _Sender:
    """Brings one folder's journals to its MLflow run; every step may be repeated, in this or another process."""

    def __init__(self, folder: Path, target: Target) -> None:
        self._folder = folder
        self._target = target
        self._state = Shipped.of(folder, target)
        self._client: MlflowClient | None = None
        self._experiment = ""

    def send(self, last: bool = False) -> None:
        """Sends what is new. last: nobody will write more, so a run without its end was killed."""
        start = journal.started(self._folder)
        if start is None:
            return
        client = self._client or self._connect(start)
        self._client = client
        for name in (journal.NAME, SYSTEM):
            self._send_file(client, name)
        if last and not journal.is_open(self._folder) and self._unfinished():
            client.set_terminated(self._run_id, "KILLED", self._last_time())

    @property
    def _run_id(self) -> str:
        assert self._state.run_id is not None
        return self._state.run_id

    def _connect(self, start: Record) -> "MlflowClient":
        client = connect(self._target)
        self._experiment = _experiment_id(client, self._target)
        run = _existing_run(client, self._state.run_id) or _found_run(client, self._experiment, start)
        if run is None:
            run = _created_run(client, self._experiment, start)
        if run.info.run_id != self._state.run_id:
            self._state = Shipped(self._target.digest, self._target.experiment, run.info.run_id)
        if not self._target.is_database:
            where = self._target.shown.replace("://***@", "://")
            self._state.page = f"{where}/#/experiments/{self._experiment}/runs/{self._run_id}"
        self._save()
        return client

    def _save(self) -> None:
        write_json(self._folder / STATE, asdict(self._state))

    def _send_file(self, client: "MlflowClient", name: str) -> None:
        path = self._folder / name
        offset = self._state.offsets.get(name, 0)
        if path.exists() and offset > path.stat().st_size:
            offset = 0  # a crash of the machine cut the file: repeating is harmless, a gap is not
        batch: list[Record] = []
        for record, end in journal.read(path, offset):
            if record["kind"] == "metrics":
                batch.append(record)
            else:
                self._send_metrics(client, batch)
                batch = []
                self._try(record["kind"], partial(self._apply, client, record))
            offset = end
            if not batch or sum(len(item["values"]) for item in batch) >= _METRICS_PER_BATCH:
                self._send_metrics(client, batch)
                batch = []
                self._advance(name, offset)
        self._send_metrics(client, batch)
        self._advance(name, offset)

    def _advance(self, name: str, offset: int) -> None:
        if self._state.offsets.get(name) != offset:
            self._state.offsets[name] = offset
            self._save()

    def _try(self, what: str, action: Callable[[], Any]) -> None:
        """Lets pass what may succeed later; notes what MLflow will never take, or what is no longer on disk."""
        from mlflow.exceptions import MlflowException

        try:
            action()
        except FileNotFoundError as error:
            self._state.refused.append(f"{what}: {_reason(error)}")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another database, or the run is gone: begin anew
                self._client, self._state = None, Shipped(self._target.digest, self._target.experiment)
            if error.error_code not in _REFUSALS:
                raise
            self._state.refused.append(f"{what}: {_reason(error)}")
            _log(self._state.refused[-1])

    def _send_metrics(self, client: "MlflowClient", records: Iterable[Record]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, record["time"], record["step"])
            for record in records
            for key, value in record["values"].items()
        ]
        for part in _parts(points, _METRICS_PER_BATCH):
            self._try("metrics", partial(client.log_batch, self._run_id, metrics=part))

    def _apply(self, client: "MlflowClient", record: Record) -> None:
        match record:
            case {"kind": "start" | "resume", "params": params, "tags": tags}:
                client.update_run(self._run_id, status="RUNNING")
                self._send_tags(client, tags)
                self._send_params(client, params)
                if dataset := record.get("dataset"):
                    client.log_inputs(self._run_id, [_dataset_input(dataset)])
            case {"kind": "tags", "tags": tags}:
                self._send_tags(client, tags)
            case {"kind": "image"}:
                self._send_image(client, record)
            case {"kind": "artifact", "file": file, "folder": folder}:
                client.log_artifact(self._run_id, str(self._folder / file), folder or None)
            case {"kind": "model", "file": file}:
                self._send_model(client, self._folder / file)
            case {"kind": "finish", "status": status}:
                client.set_terminated(self._run_id, status, record["time"])

    def _send_tags(self, client: "MlflowClient", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _parts([RunTag(key, value) for key, value in tags.items()], _PARAMS_PER_BATCH):
            client.log_batch(self._run_id, tags=part)

    def _send_params(self, client: "MlflowClient", params: Mapping[str, Any]) -> None:
        """MLflow's params can't change, and one that differs would make it refuse them all."""
        from mlflow.entities import Param

        known = client.get_run(self._run_id).data.params
        for key in [key for key, value in params.items() if known.get(key, str(value)) != str(value)]:
            self._state.refused.append(f"param {key}: MLflow holds {known[key]}, the journal {params[key]}")
        new = [Param(key, str(value)) for key, value in params.items() if key not in known]
        for part in _parts(new, _PARAMS_PER_BATCH):
            client.log_batch(self._run_id, params=part)

    def _send_image(self, client: "MlflowClient", record: Record) -> None:
        """What MlflowClient.log_image does, with the journal's time and a name that a repetition overwrites."""
        from mlflow.tracking.multimedia import compress_image_size
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
        from PIL import Image

        key, step = record["key"], record["step"]
        unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{key} {step}")
        stem = f"{key.replace('/', '~')}+step+{step}+timestamp+{record['time']}+{unique}"
        with tempfile.TemporaryDirectory() as folder:
            full, small = Path(folder, f"{stem}.png"), Path(folder, f"{stem}+compressed.webp")
            shutil.copyfile(self._folder / record["file"], full)
            with Image.open(full) as image:
                compress_image_size(image).save(small)
            for file in (full, small):
                client.log_artifact(self._run_id, str(file), "images")
        client.set_tag(self._run_id, MLFLOW_LOGGED_IMAGES, True)

    def _send_model(self, client: "MlflowClient", weights: Path) -> None:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        tag = weights.parent.name  # the hash of the weights
        for model in _models_of(client, self._experiment, self._run_id):
            if model.tags.get("genloom.weights") == tag and model.status == LoggedModelStatus.READY:
                return
            client.delete_logged_model(model.model_id)  # half sent, or of former weights
        params = client.get_run(self._run_id).data.params
        tags = {"genloom.weights": tag}
        model = client.create_logged_model(self._experiment, "model", self._run_id, tags, params, "image generator")
        with tempfile.TemporaryDirectory() as folder:
            if not self._exported(weights, Path(folder, "model"), model.model_id):
                client.delete_logged_model(model.model_id)
                return
            client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step=0)])

    def _exported(self, weights: Path, folder: Path, model_id: str) -> bool:
        try:
            save_model(weights, folder, run_id=self._run_id, model_id=model_id)
        except OSError:
            raise
        except Exception as error:  # torch.export raises many kinds; trying again would not help
            self._state.refused.append(f"model: {_reason(error)}")
            _log(self._state.refused[-1])
            return False
        return True

    def _unfinished(self) -> bool:
        summary = journal.summary(self._folder)
        return summary is not None and summary["status"] == "RUNNING"

    def _last_time(self) -> int:
        return max(int(record["time"]) for record, _ in journal.read(self._folder / journal.NAME))


def connect(target: Target) -> "MlflowClient":
    """A client; a database's tables are made on the way, by one process at a time (MLflow's migrations race)."""
    from mlflow import MlflowClient

    if not target.is_database:
        return MlflowClient(target.uri)
    database = target.uri.partition(":///")[2].partition("?")[0]
    local = target.uri.startswith("sqlite") and database
    lock = Path(f"{database}.lock") if local else Path(tempfile.gettempdir(), f"genloom-{target.digest}.lock")
    with locked(lock, wait=120):
        client = MlflowClient(target.uri)
        client.search_experiments(max_results=1)
    return client


def _experiment_id(client: "MlflowClient", target: Target) -> str:
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


def _existing_run(client: "MlflowClient", run_id: str | None) -> "Run | None":
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run and run.info.lifecycle_stage == "active" else None


def _found_run(client: "MlflowClient", experiment: str, start: Record) -> "Run | None":
    query = f"tags.`genloom.key` = '{start['key']}' and tags.`genloom.run` = '{start['name']}'"
    runs = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"], max_results=1)
    return runs[0] if runs else None


def _created_run(client: "MlflowClient", experiment: str, start: Record) -> "Run":
    tags = {"genloom.key": start["key"], "genloom.run": start["name"]}
    return client.create_run(experiment, start_time=start["time"], tags=tags, run_name=start["name"])


def _models_of(client: "MlflowClient", experiment: str, run_id: str) -> "list[LoggedModel]":
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}' and name = 'model'"))


def _dataset_input(info: Mapping[str, Any]) -> Any:
    """spec.json as MLflow's dataset; its digest holds 36 characters, so the profile has all of it."""
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype("uint8"), (-1, info["channels"], info["size"], info["size"]), "images")
    labels = TensorSpec(np.dtype("int64"), (-1,), "labels")
    dataset = Dataset(
        name=str(info.get("source", "data")),
        digest=str(info["digest"])[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": "out/data"}),
        schema=json.dumps(TensorDatasetSchema(Schema([images]), Schema([labels])).to_dict()),
        profile=json.dumps(info),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def save_model(weights: Path, folder: Path, run_id: str | None = None, model_id: str | None = None) -> None:
    """The weights as an MLflow model: an exported program, no pickle, loadable without this project.

    mlflow.pytorch.load_model gives (seeds, labels) -> images, or images -> images for a method that
    translates; mlflow.pyfunc the same by name.
    """
    import mlflow
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from pipeline.inference.export import load_sampler

    sampler = load_sampler(weights)
    examples = sampler.examples(3)  # a batch of 1 would fix the size at 1
    example = tuple(examples.values())
    shape = (-1, *sampler(*example).shape[1:])
    inputs = Schema([_tensor_spec(name, tensor) for name, tensor in examples.items()])
    outputs = Schema([TensorSpec(np.dtype("float32"), shape)])
    model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
    # save_model leaves this flavor out for models of two inputs.
    pyfunc.add_to_model(
        model, "genloom_pyfunc", data="data", code="code", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    mlflow.pytorch.save_model(
        sampler,
        str(folder),
        mlflow_model=model,
        code_paths=[str(Path(__file__).parents[1] / "inference" / "genloom_pyfunc.py")],
        signature=ModelSignature(inputs, outputs),
        input_example=example,
        pip_requirements=[f"{name}=={_version(name)}" for name in ("mlflow", "numpy", "torch")],
        serialization_format="pt2",
    )


def _tensor_spec(name: str, tensor: "Tensor") -> Any:
    from mlflow.types import TensorSpec

    return TensorSpec(tensor.numpy().dtype, (-1, *tensor.shape[1:]), name)


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


# ---- The genloom command


def sync(folder: Path, tracking: Tracking, everything: bool = False) -> list[str]:
    """Sends what MLflow lacks of a journal, or all of it again, which changes nothing; returns what it refused.

    UserError where MLflow can't be reached or another process is sending this journal.
    """
    target = resolve(tracking)
    with ExitStack() as stack:
        if not _entered(stack, locked(folder / "shipper.lock", wait=10)):
            raise UserError(f"{folder}: a training's own shipper is sending this run; try again when it is done.")
        if everything:
            (folder / STATE).unlink(missing_ok=True)
        _prepare(target)
        try:
            _Sender(folder, target).send(last=True)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{folder}: MLflow at {target.shown} can't be reached: {_reason(error)}") from error
    return Shipped.of(folder, target).refused


def initialise(target: Target) -> None:
    """Makes a database's tables, if it has none yet."""
    _prepare(target)
    connect(target)


def is_synced(folder: Path, tracking: Tracking) -> bool:
    """Whether MLflow has all of a journal, as far as is known here."""
    return Shipped.of(folder, resolve(tracking)).is_complete(folder)


def fetch_runs(tracking: Tracking) -> list[dict[str, Any]]:
    """The experiment's runs as MLflow has them: run_id, run, key, status, params, tags. UserError if unreachable."""
    target = resolve(tracking)
    _prepare(target)
    try:
        client = connect(target)
        runs = client.search_runs([_experiment_id(client, target)])
    except Exception as error:
        raise UserError(f"MLflow at {target.shown} can't be reached: {_reason(error)}") from error
    return [
        {
            "run_id": run.info.run_id,
            "experiment": target.experiment,
            "run": run.data.tags.get("genloom.run"),
            "key": run.data.tags.get("genloom.key"),
            "status": run.info.status,
            "params": dict(run.data.params),
            "tags": dict(run.data.tags),
            "dataset": next((item.dataset.digest for item in run.inputs.dataset_inputs), None) if run.inputs else None,
        }
        for run in runs
    ]


def fetch_weights(uri: str, tracking: Tracking, folder: Path) -> Path:
    """The weights file of an MLflow model (models:/<id> or models:/<name>/<version>) or run (runs:/<id>), fetched.

    UserError where there is none, or MLflow can't be reached.
    """
    import mlflow

    target = resolve(tracking)
    _prepare(target)
    try:
        client = connect(target)
        artifacts = f"runs:/{_run_of(client, uri)}/weights.safetensors"
        return Path(mlflow.artifacts.download_artifacts(artifacts, dst_path=str(folder), tracking_uri=target.uri))
    except Exception as error:
        raise UserError(
            f"{PARAMS}: init_from: no weights of '{uri}' in MLflow at {target.shown}: {_reason(error)}"
        ) from error


def _run_of(client: "MlflowClient", uri: str) -> str:
    """The id of the run that made a model, or that the URI names."""
    kind, _, path = uri.partition(":/")
    parts = path.strip("/").split("/")
    if kind == "runs":
        return parts[0]
    if len(parts) == 1:
        return str(client.get_logged_model(parts[0]).source_run_id)
    return str(client.get_model_version(*parts[:2]).run_id)


def main() -> None:
    """The shipper's process: python -m pipeline.tracking.shipper <folder>; where to is in MLflow's own variables."""
    tracking = Tracking(uri=os.environ["MLFLOW_TRACKING_URI"], experiment=os.environ["MLFLOW_EXPERIMENT_NAME"])
    try:
        sent = follow(Path(sys.argv[1]), resolve(tracking))
    except Exception as error:
        _log(_reason(error))
        sent = False
    sys.exit(0 if sent else 3)


if __name__ == "__main__":
    main()
