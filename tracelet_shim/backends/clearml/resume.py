"""What a task that is continued has already: of an offline session its log, of others what the server says.

Two things hang on it. A step that was logged in an earlier session goes to a place beside that one (`places`), for the server
would overwrite what is there. And a batch that was written already, but whose process was killed before it could say so, comes
again: it is recognised by title, series, iteration, time and value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tracelet_shim.backends.clearml.session import send_once

__all__ = ["OfflineLog", "Place", "ServerEvents", "Stored"]

_SCALAR, _PLOT, _FILE = "training_stats_scalar", "plot", "training_debug_image"
_PAGE = 5000  # events in an answer; the server has no more than 10,000
_FILE_OF_SEVERAL = re.compile(r" ·(?! |2\Z|step -?\d+\Z)[^·]*\Z")
"""The end of the series of a file that is one of several of an event: ``emb · train ·tensors.tsv``."""


class Place(NamedTuple):
    """Where one event for each iteration may be."""

    scalar: bool
    title: str
    series: str


class Stored(NamedTuple):
    """An event that the store has."""

    kind: str
    title: str
    series: str
    iteration: int
    time: int | None
    value: float | None

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Stored:
        """Return an event of the SDK's or the server's in this form."""
        kind, title, series = (str(event.get(field) or "") for field in ("type", "metric", "variant"))
        value = event.get("value") if kind == _SCALAR else None
        return cls(kind, title, series, int(event.get("iter") or 0), event.get("timestamp"), value)

    @property
    def place(self) -> Place:
        series = _FILE_OF_SEVERAL.sub("", self.series) if self.kind == _FILE else self.series
        return Place(self.kind == _SCALAR, self.title, series)


class OfflineLog:
    """The events of an offline session: all that its log has, read once.

    Args:
        path: the log, with the events of a write in each line.
    """

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path

    def look(self, place: Place, iteration: int, *, plot: bool) -> Iterator[Stored]:
        """As of `ServerEvents`."""
        if self._path is None:
            return
        if self._path.exists():
            with open(self._path, "rb") as file:
                for line in file:
                    if line.endswith(b"\n"):  # the user's own session may be writing the next one
                        yield from (Stored.of(event) for event in json.loads(line) if event["type"] != "log")  # see `console`
        self._path = None


class ServerEvents:
    """The events that the server has of a task, asked for as far as need be: nothing, as long as steps go on where they ended.

    Args:
        task: the ``clearml.Task``.
        session: for requests, instead of the task's own.
    """

    def __init__(self, task: Any, session: Any = None) -> None:
        from clearml.backend_api.services import tasks

        self._task, self._session = task.id, session or task.session
        found = self._ask(tasks.GetByIdRequest(task=task.id)).get("task") or {}
        self._last: int | None = found.get("last_iteration")
        self._scalars_known = False

    def look(self, place: Place, iteration: int, *, plot: bool) -> Iterator[Stored]:
        """Yield events that nobody was told of yet; those of the place, up to the iteration, are among them.

        Args:
            place: where an event is to go.
            iteration: its iteration.
            plot: whether it may be a plot. Files are not asked for: the server has their names in their identity.
        """
        # The machine's own series (``services.events.ignore_iteration`` of clearml-server) do not count for the last iteration.
        if self._last is not None and iteration > self._last and not place.title.startswith(":monitor:"):
            return
        if place.scalar and not self._scalars_known:
            yield from self._scalars()
            self._scalars_known = True
        elif plot:
            yield from self._plots(place.title, iteration)

    def _scalars(self) -> Iterator[Stored]:
        """All of the task's, as `Task.get_all_reported_scalars` asks for them: nothing else says iteration and time."""
        from clearml.backend_api.services import events

        scroll = None
        while True:
            page = self._ask(
                events.GetTaskEventsRequest(task=self._task, event_type=_SCALAR, batch_size=_PAGE, scroll_id=scroll)
            )
            found = page.get("events") or ()
            yield from map(Stored.of, found)
            scroll = page.get("scroll_id")
            if len(found) < _PAGE or not scroll:
                return

    def _plots(self, title: str, iteration: int) -> Iterator[Stored]:
        from clearml.backend_api.services import events

        sample = getattr(events, "GetPlotSampleRequest", None)
        if sample is not None:  # since version 2.20 of the API: all of a title in the latest iteration up to this one
            found = self._ask(sample(task=self._task, metric=title, iteration=iteration)).get("events") or ()
            yield from (Stored.of({"type": _PLOT, **event}) for event in found)

    def _ask(self, request: Any) -> Mapping[str, Any]:
        return send_once(self._session, request).response_data or {}
