"""One run through the public API, as the backend sees it: what `tracelet_shim.backends.swanlab.run.Run` is for the core."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Program, Refusal, Status
from tracelet_shim.backends.swanlab.public.link import Link
from tracelet_shim.backends.swanlab.public.writer import Begun, Point, State

__all__ = ["PublicRun"]

NAMES = "tracelet/names.jsonl"
UPLOAD_SECONDS = 30.0
"""That the end of a run waits for the service, of what the backend waits for the end."""


class PublicRun:
    """One run.

    Args:
        link: the way to its writer.
        begun: what the writer says of it.
        own: False for a run of the user's.

    Attributes:
        about: what the config has under ``tracelet``.
        config: what was set of the config.
        latest: the time of what a trial got last.
        project: the name of its project.
        long_tags: how many of the tags were longer than this version takes.
        uploads: what the service has of it.
    """

    def __init__(self, link: Link, begun: Begun, *, own: bool = True) -> None:
        self.link, self.begun = link, begun
        self.id, self.mode, self.url = begun.id, begun.mode, begun.url or ""
        self.dir = Path(begun.folder)
        self.sdk = None  # it is in another process
        self.config: dict[str, Any] = dict(begun.config)
        self.about: dict[str, Any] = dict(begun.config.get("tracelet") or {})
        self.latest = 0.0
        self.project: str | None = None
        self.long_tags = 0
        self.own = own
        self.uploads = PublicUploads(self)

    @property
    def alive(self) -> bool:
        return bool(self.link.call("alive"))

    @property
    def remedy(self) -> str:
        """The command that uploads what is on disk."""
        return f"swanlab sync {shlex.quote(str(self.dir))}"

    def watch_link(self) -> str:
        """Return the command that shows a run of `mode=local`."""
        return f"swanlab watch {shlex.quote(str(self.dir.parent))}"

    def limits(self) -> Iterator[tuple[str, str]]:
        """Yield (kind, text) of what this version of SwanLab cannot do, for the user."""
        if self.long_tags:
            yield "tags", f"{self.long_tags} of the tags are longer than the installed SwanLab takes: they are in the config only"
        if not self.begun.keeps_times:
            yield "times", "the installed SwanLab takes the time when a value is logged for the value's own"
        if self.mode == "online" and not self.begun.has_files:
            yield "files", f"the installed SwanLab uploads no files: they are in {self.dir / 'files'}"
        if self.begun.continues and (self.mode != "online" or not self.begun.has_ids):
            yield "resume", f"the installed SwanLab cannot go on with a run ({self.mode}): each session is one of its own"

    # -- points -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def of(self, event: ev.Event) -> Iterator[None]:
        """What is written within this is of this event."""
        before = self.uploads.count()
        yield
        self.uploads.handed(before, event)

    def scalars(self, points: Iterable[tuple[ev.Scalar, str, int]], taken: set[tuple[Any, ...]]) -> None:
        """As `Run.scalars` of the core."""
        given = list(points)
        batch = [Point(i, key, step, event.value, event.wall_time) for i, (event, key, step) in enumerate(given)]
        before = self.uploads.count()
        stored, problem = self.link.call("scalars", batch) if batch else ([], None)
        taken.update(given[index][0].record for index in stored)
        self.uploads.handed_all(before, [given[index][0] for index in stored])
        if problem is not None:
            raise problem

    def scalar(self, key: str, step: int, value: float, wall_time: float) -> None:
        self.link.call("scalar", key, step, value, wall_time)

    def media(self, key: str, kind: str, step: int, items: Sequence[tuple[str, bytes]], wall_time: float) -> bool:
        """Log media; return False if the installed SwanLab has no such type."""
        return bool(self.link.call("media", key, kind, step, list(items), wall_time))

    # -- config and files -------------------------------------------------------------------------------------------

    def set_config(self, values: Mapping[str, Any]) -> None:
        self.config.update(values)
        self.link.call("set_config", dict(values))

    def note_names(self, whole: Mapping[str, str]) -> None:
        """Keep the whole of each name that had to be cut, one JSON line each."""
        if whole:
            self.append(NAMES, "".join(json.dumps(pair) + "\n" for pair in whole.items()).encode())

    def save(self, path: str, data: bytes) -> None:
        self.link.call("save", path, data)

    def save_copy(self, path: str, file: str) -> None:
        self.link.call("save_copy", path, file)

    def append(self, path: str, data: bytes) -> None:
        self.link.call("append", path, data)

    def describe(self, program: Program) -> None:
        """SwanLab would take its own process for the program; it is not asked to look."""

    # -- the end ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        self.link.call("flush")

    def waiting(self) -> int:
        """Return the number of values that the service has not taken yet."""
        return self.uploads.waiting()

    def finish(self, status: Status, ended: float) -> str | None:
        """End the run; return what was not uploaded. Its own state is success or not: which, and when, is in the config."""
        self.about["ended"] = {"status": status, "at": Backend.iso_time(ended)}
        self.set_config({"tracelet": self.about})
        failed = None if status == "finished" else "the program failed" if status == "failed" else status
        problem = self.link.call("finish", failed, UPLOAD_SECONDS)
        self.uploads.ended()
        return None if problem is None else str(problem)


class PublicUploads:
    """What the service has of a run; see `tracelet_shim.backends.swanlab.uploads.Uploads`.

    Args:
        run: the run.
    """

    def __init__(self, run: PublicRun) -> None:
        self._run = run
        self._online = run.mode == "online"
        self._marks: deque[tuple[int, int]] = deque()  # number of the latest value, and events that were written with it
        self._whose: deque[tuple[int, int, ev.Event | Refusal]] = deque()  # numbers of values, and their event
        self._refused: dict[ev.RecordId, Refusal] = {}
        self._told: set[ev.RecordId] = set()
        self._last: State | None = None

    def count(self) -> int:
        return int(self._run.link.call("count")) if self._online else 0

    def mark(self, events: int) -> None:
        """So many events have been handed over since the last time."""
        if events and (self._online or self._pends()):
            self._marks.append((self.count(), events))

    def _pends(self) -> bool:
        """Offline, without a log that we know: what is written is there when the run has ended."""
        return self._run.own and self._run.mode == "offline" and not self._run.begun.keeps_log

    def handed(self, before: int, event: ev.Event) -> None:
        """The values since number `before` are of this event."""
        if self._online and (last := self.count()) > before:
            self._whose.append((before + 1, last, Refusal.of(event)))

    def handed_all(self, before: int, events: Sequence[ev.Event]) -> None:
        """The values since number `before` are of these events, in order: a few may have taken more than one."""
        if self._online and events:
            last = self.count()
            one_each = last - before == len(events)
            for i, event in enumerate(events):
                first = before + 1 + i
                self._whose.append((first, first, event) if one_each else (before + 1, last, event))

    def _ask(self) -> State | None:
        if self._online and self._marks:
            self._last = self._run.link.call("state")
            for number, reason in self._last.refused:
                for first, last, event in self._whose:
                    if first <= number <= last:
                        refusal = Refusal(event.record, event.kind, event.path, event.step, reason)
                        self._refused.setdefault(event.record, refusal)
                        break
        return self._last

    def unsettled(self) -> int:
        """Return how many of the latest events the service may not have."""
        state = self._ask()
        if state is not None:
            while self._marks and self._marks[0][0] < state.first:
                self._marks.popleft()
            while self._whose and self._whose[0][1] < state.first:
                self._whose.popleft()
        return sum(events for _, events in self._marks)

    def waiting(self) -> int:
        state = self._ask()
        return 0 if state is None else max(0, state.handed + 1 - state.first)

    def ended(self) -> None:
        """The run has ended: see what the service has got at last."""
        if self._pends():
            self._marks.clear()
        self.unsettled()

    def behind(self) -> str | None:
        """Return why the service does not take what waits."""
        return self._last.behind if self._last is not None and self._marks else None

    def take_refused(self) -> list[Refusal]:
        """Return which events the service has refused for good since the last time."""
        refused = [refusal for record, refusal in self._refused.items() if record not in self._told]
        self._told |= self._refused.keys()
        self._refused.clear()
        return refused
