"""The record of a search: an append-only file that is the truth; searcher, scheduler and report are made from it.

    <folder>/trials.jsonl   one JSON object per line, in the order in which things happened, each with its time:
        begun   trial, params, key: the searcher gave a trial; key: of its training's course
        value   trial, images, values by objective, seconds: it was scored at a rung
        ended   trial, state, reason, images, seconds: it will not go on
        spent   seconds: of searching, in all calls so far
    and of a population:
        fell    trial, state, reason, images, seconds: it ended before a rung, where it may take over from another
        handed  trial, donor, images, before, after, key: it goes on from the donor's checkpoint, with other params;
                key: of its training from there on
        judged  images: all that is handed over at this rung is above

A trial that has begun and not ended goes on with the next call. An incomplete last line is cut off.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.files import locked

NAME = "trials.jsonl"
State = Literal["finished", "pruned", "failed", "diverged", "stopped"]
Event = dict[str, Any]


@dataclass(frozen=True)
class Handover:
    """A trial goes on from another one's checkpoint, with other params.

    Attributes:
        trial: the number of the one that takes over.
        donor: of the other one.
        images: seen at the checkpoint.
        before: the params of the one that takes over, until then.
        after: from then on.
        key: of its training from then on.
    """

    trial: int
    donor: int
    images: int
    before: dict[str, Any]
    after: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Fall:
    """How a member of a population ended before a rung."""

    state: State
    reason: str


@dataclass
class Trial:
    """What is known of a trial.

    Attributes:
        number: from 0, in the order of their beginning.
        params: those that were searched for, by name; of a population's member, those that it has now.
        key: of its training's course.
        values: of the objectives, by images seen.
        state: how it ended; None: it goes on.
        reason: why, if not because it was finished.
        seconds: of training and scoring.
        images: that it was trained on.
        times: when it was scored, in ms since 1970, by images seen.
        begun: when, likewise.
        ended: when it was last heard of.
        handovers: those by which it took over from others, in order.
        fallen: how it ended before a rung, until it takes over.
        keys: of its trainings, in order, the last of which is ``key``.
    """

    number: int
    params: dict[str, Any]
    key: str
    values: dict[int, dict[str, float]] = field(default_factory=dict)
    state: State | None = None
    reason: str = ""
    seconds: float = 0.0
    images: int = 0
    times: dict[int, int] = field(default_factory=dict)
    begun: int = 0
    ended: int = 0
    handovers: list[Handover] = field(default_factory=list)
    fallen: Fall | None = None
    keys: list[str] = field(default_factory=list)

    @property
    def first_params(self) -> dict[str, Any]:
        """The params with which it began."""
        return self.handovers[0].before if self.handovers else self.params

    @property
    def reached(self) -> int:
        """Images at the last rung that it has behind it, by itself or by taking over."""
        return max([0, *self.values, *(handover.images for handover in self.handovers)])

    @property
    def last(self) -> dict[str, float]:
        """The values at the last rung; none before the first."""
        return self.values[max(self.values)] if self.values else {}


class Record:
    """The record of one search, which one process writes (``Record.open``)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events, self.seconds = folder, list[Event](), 0.0
        self.trials: dict[int, Trial] = {}
        self.judged: set[int] = set()
        for event in _read(folder / NAME):
            self._remember(event)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, name: str) -> Iterator["Record"]:
        """Hold a search's record; another process that searches the same waits.

        Args:
            folder: of the search; made if absent.
            name: the run's, for the message.

        Yields:
            The record.

        Raises:
            UserError: it is damaged before its end.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", wait=None, announce=f"{name}: another process does this very search; waiting"):
            _repair(folder / NAME)
            yield cls(folder)

    def begin(self, params: Mapping[str, Any], key: str) -> Trial:
        """Record that a trial begins; return it when that is on disk."""
        number = len(self.trials)
        self._append({"event": "begun", "trial": number, "params": dict(params), "key": key})
        return self.trials[number]

    def value(self, number: int, images: int, values: Mapping[str, float], seconds: float) -> bool:
        """Record a trial's values at a rung.

        Args:
            number: the trial's.
            images: that it was trained on.
            values: of the objectives.
            seconds: that the trial has taken so far.

        Returns:
            Whether they are new: a worker that died may say them twice.
        """
        if images in self.trials[number].values:
            return False
        self._append({"event": "value", "trial": number, "images": images, "values": dict(values), "seconds": seconds})
        return True

    def end(self, number: int, state: State, reason: str = "", images: int = 0, seconds: float = 0.0) -> None:
        """Record that a trial will not go on, and why."""
        known = self.trials[number]
        content = {"state": state, "reason": reason, "images": max(images, known.images)}
        self._append({"event": "ended", "trial": number, **content, "seconds": max(seconds, known.seconds)})

    def fall(self, number: int, state: State, reason: str = "", images: int = 0, seconds: float = 0.0) -> None:
        """Record that a member of a population has ended before a rung, where it may take over from another."""
        known = self.trials[number]
        content = {"state": state, "reason": reason, "images": max(images, known.images)}
        self._append({"event": "fell", "trial": number, **content, "seconds": max(seconds, known.seconds)})

    def hand(self, handover: Handover) -> None:
        """Record that a trial takes over from another; that checkpoint is there already."""
        self._append({"event": "handed", **asdict(handover)})

    def judge(self, images: int) -> None:
        """Record that a population has been judged at a rung."""
        self._append({"event": "judged", "images": images})

    def spend(self, seconds: float) -> None:
        """Record how long has been searched, in all calls together."""
        self._append({"event": "spent", "seconds": seconds})

    @property
    def images(self) -> int:
        """Images on which all trials were trained."""
        return sum(trial.images for trial in self.trials.values())

    def _append(self, event: Event) -> None:
        event |= {"time": time.time_ns() // 1_000_000}
        self._remember(json.loads(json.dumps(event)))
        with (self.folder / NAME).open("ab") as file:
            file.write(json.dumps(event).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _remember(self, event: Event) -> None:
        self.events.append(event)
        if event["event"] == "spent":
            self.seconds = event["seconds"]
        elif event["event"] == "judged":
            self.judged.add(event["images"])
        elif event["event"] == "handed":
            known = {name: event[name] for name in ("trial", "donor", "images", "before", "after", "key")}
            trial = self.trials[event["trial"]]
            trial.handovers.append(Handover(**known))
            trial.params, trial.key, trial.fallen = event["after"], event["key"], None
            trial.keys.append(event["key"])
        elif event["event"] == "begun":
            at = event.get("time", 0)
            known = {"begun": at, "ended": at, "keys": [event["key"]]}
            self.trials[event["trial"]] = Trial(event["trial"], event["params"], event["key"], **known)
        else:
            trial = self.trials[event["trial"]]
            trial.seconds, trial.images, trial.ended = event["seconds"], event["images"], event.get("time", 0)
            if event["event"] == "value":
                trial.values[event["images"]], trial.times[event["images"]] = event["values"], event.get("time", 0)
            elif event["event"] == "fell":
                trial.fallen = Fall(event["state"], event["reason"])
            else:
                trial.state, trial.reason = event["state"], event["reason"]


def _read(path: Path) -> Iterator[Event]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for place, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            event["event"]
        except (ValueError, TypeError, KeyError):
            if place == len(lines):
                return
            raise UserError(f"{path}: line {place} is damaged. Repair it, or remove the file to search anew.") from None
        yield event


def _repair(path: Path) -> None:
    """Cut off a last line that a crash left incomplete."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
