"""The journal of a run: an append-only file that is the truth; MLflow gets a copy of it (shipper.py).

    <folder>/journal.jsonl   one JSON object per line: kind, time (ms since 1970), and what the kind needs
    <folder>/files/          pictures, artifacts and weights, under the hash of their content

An incomplete last line is cut off when the journal is opened again. NaN and infinities are spelt as Python's json
module spells them. There is one writer at a time; reading needs no lock.
"""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pipeline.errors import UserError
from pipeline.files import atomic_file, locked, sha256_of

Record = dict[str, Any]
Status = Literal["FINISHED", "FAILED", "KILLED"]

NAME = "journal.jsonl"
LOCK = "journal.lock"

# What MLflow takes as the name of a metric, a param or an image.
_ALLOWED = re.compile(r"[\w.\- :/]{1,250}", re.ASCII)
_LOCK_WAIT = 5.0


class BusyError(UserError):
    """Another process, such as a training, has the journal in its hands, and will send it."""


class Journal:
    """The only writer of a run's journal, from ``open`` to ``close`` or the end of a with block."""

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder = folder
        self._handle = handle
        self._held = ExitStack()
        self._start: Record | None = None
        self._params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._values: dict[tuple[str, int], float] = {}
        self._rows: dict[int, dict[str, float]] = {}
        self._images: dict[tuple[str, int], Record] = {}
        self._files: dict[tuple[str, str], str] = {}
        for record, _ in read(folder / NAME):
            self._remember(record)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open or create the journal of a folder; cut off a last line that a crash left incomplete.

        Waits up to 5 seconds for another writer.

        Args:
            folder: The journal's folder, created if absent.

        Returns:
            The journal, locked against other writers.

        Raises:
            BusyError: Another process is writing it.
            UserError: It is damaged before its end.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(folder / LOCK, _LOCK_WAIT))
            except BlockingIOError:
                raise BusyError(
                    f"{folder}: another process is writing this run's journal. Wait until it ends, or stop it."
                ) from None
            _repair(folder / NAME)
            handle = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            stack.callback(os.close, handle)
            journal = cls(folder, handle)
            journal._held = stack.pop_all()
            return journal

    def start(
        self,
        *,
        name: str,
        key: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        dataset: Mapping[str, Any] | None = None,
        restored: bool = False,
    ) -> None:
        """Record what the run is, or that it goes on; return when that is on disk.

        Args:
            name: The run's name in params.yaml.
            key: The hash of all that determines the run.
            params: A param that is journaled already keeps its first value.
            tags: A tag that is journaled already takes the new value.
            dataset: The content of out/data/spec.json.
            restored: What follows up to ``finish`` is read from published files: another machine trained.

        Raises:
            ValueError: The journal is of another run, or MLflow would refuse the name of a param.
        """
        if self._start and (self._start["name"], self._start["key"]) != (name, key):
            raise ValueError(f"{self.folder} is the journal of {self._start['name']} {self._start['key']}")
        new = {key: value for key, value in params.items() if key not in self._params}
        for param in new:
            _check_name(param)
        content = {"params": new, "tags": self._changed(tags)} | ({"restored": True} if restored else {})
        if self._start:
            self._append("resume", content)
        else:
            self._append("start", content | {"name": name, "key": key, "dataset": dict(dataset) if dataset else None})
        self.flush()

    def metrics(self, values: Mapping[str, Any], *, step: int, once: bool = False, time: int | None = None) -> None:
        """Record scalars; ValueError if MLflow would refuse one of the names.

        Args:
            values: Name to value.
            step: Images seen.
            once: Ignore a (name, step) that is already journaled: training replays steps after a resume. If False, add
                a point whenever the value differs from the last one.
            time: When they were measured, in ms since 1970; now if None.
        """
        new = {name: float(value) for name, value in values.items() if self._is_new(name, step, float(value), once)}
        for name in new:
            _check_name(name)
        if new:
            measured = {} if time is None else {"time": int(time)}
            self._append("metrics", {"step": int(step), "once": once, "values": new} | measured)

    def image(self, key: str, path: Path, step: int) -> None:
        """Record a picture at a step (images seen); the same key and step again replaces it.

        Args:
            key: The name of the series of pictures.
            path: A PNG, which is copied.
            step: Images seen.

        Raises:
            ValueError: It is no PNG, or MLflow would refuse the key.
        """
        _check_name(key)
        if path.suffix != ".png":
            raise ValueError(f"{path}: a journal's image is a PNG; use artifact() for other files")
        file, before = self._attach(path), self._images.get((key, step))
        if before is None or before["file"] != file:
            # The first time is kept: it is part of the picture's name in MLflow, so that it is overwritten there.
            kept = {"time": before["time"]} if before else {}
            self._append("image", {"key": key, "step": int(step), "file": file} | kept)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a copy of a file, or of all files of a folder, for MLflow's ``folder``; it replaces an earlier one."""
        if path.is_dir():
            for inner in sorted(file for file in path.rglob("*") if file.is_file()):
                place = Path(folder, path.name, inner.relative_to(path).parent)
                self.artifact(inner, place.as_posix())
            return
        file = self._attach(path)
        if self._files.get((folder, path.name)) != file:
            self._append("artifact", {"folder": folder, "file": file})

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Record tags; a later value replaces an earlier one."""
        if changed := self._changed(tags):
            self._append("tags", {"tags": changed})

    def known_tags(self) -> dict[str, str]:
        """Return all tags as they are now."""
        return dict(self._tags)

    def model(self, weights: Path) -> None:
        """Record the weights file (pipeline.inference.weights) to publish as a loadable logged model."""
        file = self._attach(weights, link=True)
        if self._files.get(("model", "")) != file:
            self._append("model", {"file": file})

    def finish(self, status: Status) -> None:
        """Record the run's end, which a later ``start`` revokes; return when that is on disk."""
        self._append("finish", {"status": status})
        self.flush()

    def rows(self) -> list[dict[str, float]]:
        """Return training's metrics (those journaled with once=True), one row per step, in the order of the steps."""
        return [{"step": step} | self._rows[step] for step in sorted(self._rows)]

    def flush(self) -> None:
        """Block until everything is on disk: call it before a checkpoint that must not be ahead of the journal."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Flush, and let another process write."""
        self.flush()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_new(self, name: str, step: int, value: float, once: bool) -> bool:
        before = self._values.get((name, int(step)))
        if before is None or once:
            return before is None
        return not (before == value or (math.isnan(before) and math.isnan(value)))

    def _changed(self, tags: Mapping[str, Any]) -> dict[str, str]:
        return {key: str(value) for key, value in tags.items() if self._tags.get(key) != str(value)}

    def _attach(self, path: Path, link: bool = False) -> str:
        """Keep the file's content; return its path relative to the journal's folder.

        link: make a hard link if the file system allows it, for files that are big and never written in place.
        """
        place = f"files/{sha256_of(path)[:16]}/{path.name}"
        target = self.folder / place
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (link and _try_link(path, target)):
                with atomic_file(target) as temporary:
                    shutil.copyfile(path, temporary)
        return place

    def _append(self, kind: str, content: Record) -> None:
        record = {"kind": kind, "time": time.time_ns() // 1_000_000} | content
        line = (json.dumps(record) + "\n").encode()
        size = os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, line) != len(line):
                raise OSError(28, "the disk is full", str(self.folder / NAME))
        except OSError:
            os.ftruncate(self._handle, size)
            raise
        self._remember(record)

    def _remember(self, record: Record) -> None:
        match record:
            case {"kind": "start" | "resume", "params": params, "tags": tags}:
                self._start = self._start or record
                self._params |= params
                self._tags |= tags
            case {"kind": "tags", "tags": tags}:
                self._tags |= tags
            case {"kind": "metrics", "step": step, "values": values, "once": once}:
                self._values |= {(name, step): value for name, value in values.items()}
                if once:
                    self._rows.setdefault(step, {}).update(values)
            case {"kind": "image", "key": key, "step": step}:
                self._images[key, step] = record
            case {"kind": "artifact", "folder": folder, "file": file}:
                self._files[folder, Path(file).name] = file
            case {"kind": "model", "file": file}:
                self._files["model", ""] = file


def read(path: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Yield the complete records from a byte offset on, each with the offset after it.

    Args:
        path: A journal.jsonl; if absent, there are no records.
        offset: Where a record begins.

    Yields:
        (record, offset after it); a line without its newline is still being written and ends the iteration.

    Raises:
        UserError: A line is no record.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            record = _parsed(line)
            if record is None:
                raise UserError(
                    f"{path}: the line that ends at byte {offset} is damaged. "
                    "Move the folder aside; the next run begins a new journal."
                )
            yield record, offset


def started(folder: Path) -> Record | None:
    """Return the start record: name, key, params, tags, dataset; None if there is no journal yet."""
    first = next(read(folder / NAME), None)
    return first[0] if first and first[0]["kind"] == "start" else None


def summary(folder: Path) -> Record | None:
    """Return name, key, params, dataset, whether it was restored, and tags and status as they are now; or None."""
    start = started(folder)
    if start is None:
        return None
    now: Record = {name: start[name] for name in ("name", "key", "dataset")} | {"params": {}, "tags": {}}
    now["restored"] = start.get("restored", False)
    for record, _ in read(folder / NAME):
        now["params"] |= record.get("params", {})
        now["tags"] |= record.get("tags", {})
        if record["kind"] in ("start", "resume", "finish"):
            now["status"] = record.get("status", "RUNNING")
    return now


def end_of_restored(folder: Path) -> int:
    """Return the offset behind what was read from published files when the journal was begun; 0 if nothing was."""
    if not (started(folder) or {}).get("restored"):
        return 0
    return next((end for record, end in read(folder / NAME) if record["kind"] == "finish"), 0)


def is_open(folder: Path) -> bool:
    """Return whether a process holds the journal open for writing."""
    try:
        with locked(folder / LOCK):
            return False
    except BlockingIOError:
        return True


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record and "time" in record else None


def _repair(path: Path) -> None:
    """Cut off what a crash left after the last good line; only a journal's writer may call it."""
    if not path.exists():
        return
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    while lines and not (lines[-1].endswith(b"\n") and _parsed(lines[-1])):
        lines.pop()
    whole = sum(map(len, lines))
    if whole < len(content):
        os.truncate(path, whole)


def _try_link(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except OSError:
        return False
    return True


def _check_name(name: str) -> None:
    if not _ALLOWED.fullmatch(name):
        raise ValueError(f"{name!r}: MLflow takes letters, digits, '_', '-', '.', ':', '/' and spaces in a name")
