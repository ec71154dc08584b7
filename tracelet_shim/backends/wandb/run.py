"""One W&B run: the only code that writes to it.

Rows. W&B's own step may only grow: a lower ``step=`` is dropped with a warning (`wandb.Run.log`). So rows are logged
without ``step=`` and carry TensorBoard's step as the value ``global_step``, which `define_metric` makes the x axis of
every chart. ``_timestamp`` in a row replaces W&B's own (`sdk/interface/interface.py`, `publish_partial_history`).

Joined runs. In a run of the user's, each of our rows moves W&B's step on by one. Rows that the user then logs with a
``step=`` below it are dropped by W&B, with its own warning; without ``step=`` nothing is lost. Only our own keys get
global_step as x axis there.
"""

from __future__ import annotations

import glob
import math
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Status
from tracelet_shim.backends.shared.rows import Keys, rows
from tracelet_shim.backends.shared.values import plain
from tracelet_shim.backends.wandb import fast, needs
from tracelet_shim.backends.wandb.library import library
from tracelet_shim.backends.wandb.media import charted, table_of
from tracelet_shim.backends.wandb.needs import Artifact, File, Need, Params, Rows
from tracelet_shim.backends.wandb.opening import FINISH_SECONDS, TRIAL_SECONDS
from tracelet_shim.backends.wandb.process import restart_service
from tracelet_shim.backends.wandb.resume import There, end_of_logs, logs_of
from tracelet_shim.backends.wandb.samples import Samples
from tracelet_shim.backends.wandb.server import Server
from tracelet_shim.backends.wandb.service_log import ServiceLog
from tracelet_shim.backends.wandb.unasked import log_tables_unasked
from tracelet_shim.backends.wandb.versions import steps, writes_its_log
from tracelet_shim.eventfiles.own_files import is_sample

__all__ = ["Run", "Want", "rows_before", "step_there"]

_EXIT_CODES = {"finished": 0, "failed": 1, "killed": 255}  # 255 is what W&B itself sends after Ctrl-C (exit_hooks.py)
LATELY_SECONDS = 60.0
"""A server has taken in by then what it got: much more than it takes W&B's (wandb/wandb, pull request 12421: two to four)."""


Before = tuple[int, int]
"""Rows and samples."""


class Want(NamedTuple):
    """What an event needs to be there besides rows, and how many rows there are with it."""

    event: ev.Event
    need: Need
    rows: int


class Run:
    """One W&B run.

    Args:
        sdk: the SDK's object.
        lent: True for a run of the user's.
        parent: the session's run, if this is that of a trial.

    Attributes:
        id: its id.
        folder: its directory on disk, with the log.
        offline: True if it is not uploaded.
        about: what is worth knowing of it, beside its parameters; the config has it under ``tracelet/``.
        there: rows that come again, since an earlier log has them.
        fast: hands many rows over at a time, if `accelerate` was called and the SDK allows it.
        samples: hands over system metrics, likewise.
        told: its parameters, as they were last told.
        server: is asked what it has of it; None offline.
        log: what W&B's service says of it; None offline.
        ahead: by how many W&B's step is ahead of the number of rows, since the user has left out steps before.
        answered_ended: the server has said what it has of it since it was ended.
    """

    def __init__(self, sdk: Any, *, lent: bool = False, parent: Run | None = None) -> None:
        self.sdk = sdk
        self.lent = lent
        self.id = str(sdk.id)
        self.offline = bool(sdk.offline)
        self.folder = os.path.dirname(sdk.dir)
        self.about: dict[str, Any] = {}
        self.there = There()
        self.fast: fast.Rows | None = None
        self.samples: Samples | None = None
        self.told: dict[str, Any] = {}
        asks = not (self.offline or sdk.disabled)
        self.server = Server(sdk) if asks else None
        self.log = ServiceLog(sdk._settings.log_internal) if asks else None
        self.ahead = 0
        self.answered_ended = False
        self._ended_at: float | None = None
        self._parent = parent
        self._wants: list[Want] = []
        self._touched: set[Run] = set()
        self._defined: set[str] = set()
        if asks and not lent:
            log_tables_unasked(sdk)

    @property
    def ended(self) -> bool:
        return bool(self.sdk._is_finished)

    @property
    def was_there(self) -> bool:
        """True if W&B's service, when it opened the run, was told of something that the server has of it."""
        return bool(steps(self.sdk) or self.sdk.resumed)

    def ended_for(self) -> float:
        """Return for how many seconds it has been known here that it has ended."""
        now = time.monotonic()
        if self.ended and self._ended_at is None:
            self._ended_at = now
        return now - self._ended_at if self._ended_at is not None else 0.0

    @property
    def answers(self) -> bool:
        """True if the server has said what it has of the run when it was last asked."""
        return self.server is not None and self.server.problem is None

    def define(self) -> None:
        """Make global_step the x axis; in a run of the user's only for our keys, as they come."""
        self.sdk.define_metric("global_step", hidden=True)
        if not self.lent:
            self.sdk.define_metric("*", step_metric="global_step")

    def accelerate(self) -> None:
        """Have rows of numbers handed over many at a time, and system metrics as such, if the installed SDK is a known one."""
        self.fast = fast.Rows.of(self.sdk)
        self.samples = Samples.of(self.sdk)

    # -- rows -------------------------------------------------------------------------------------------------------

    def scalars(self, events: Sequence[ev.Scalar], keys: Keys) -> Iterator[int]:
        """Log scalars, in their order; yield how many have been handed over since the last time."""
        for are_samples, group in groupby(events, self._is_sample):
            some = list(group)
            if are_samples:
                self._log_samples(some)
                yield len(some)
            elif self.takes_many:
                self.rows(rows(some, keys))
                yield len(some)
            else:
                for first, values in rows(some, keys):
                    self.row(first, values)
                    yield len(values)

    def _is_sample(self, event: ev.Scalar) -> bool:
        own = event.writer and is_sample(event.record.file, event.writer)  # nearly all have none
        return bool(own and self.samples is not None and self.samples.takes(event.wall_time))

    def _log_samples(self, events: Sequence[ev.Scalar]) -> None:
        assert self.samples is not None
        for first, values in rows(events, Keys(lambda event: event.tag)):
            when = first.wall_time
            new = {key: value for key, value in values.items() if not (self.there and self.there.take_sample(key, value, when))}
            if new:
                self.samples.publish(when, new)
        self.want(events[-1], needs.Samples(self, self.samples.line))

    @property
    def takes_many(self) -> bool:
        """True if rows of numbers can be handed over many at a time."""
        return self.fast is not None and not self.there and not self.sdk._is_finished  # the last by the user: `row` raises then

    def rows(self, found: Iterable[tuple[ev.Scalar, Mapping[str, float]]]) -> None:
        """Log rows of numbers, each at the step and wall time of its first event, all or none of them."""
        assert self.fast is not None
        self.fast.publish([_row(first, values) for first, values in found])

    def step_there(self, before: Before | None = None) -> int | None:
        """At the beginning: return W&B's step behind that of the last row that the server has; None offline.

        Args:
            before: the rows and samples that it had before the run was opened, if that is known.

        Raises:
            ConnectionError: it does not say, or has more by now. W&B's service was told how many there are when it opened the
                run, and would write over what has come since.
        """
        if self.server is None:
            return None
        held = self.server.there()
        if before is not None and (held.rows, held.samples) != before:
            raise ConnectionError("W&B's server may still be taking in what it got before")
        if self.samples is not None:
            self.samples.line = held.samples
        self.ahead = steps(self.sdk) - held.rows
        return held.step

    def end_of_logs(self, there: int | None, most: int, samples: int = 0) -> There:
        """As `resume.end_of_logs`, of this run."""
        ask = self.server.rows if self.server is not None and not writes_its_log() else None
        return end_of_logs(self.folder, self.id, there, most, samples, ask=ask)

    def row(self, event: ev.Event, values: Mapping[str, Any]) -> None:
        """Log a row at the step and wall time of `event`."""
        if self.there:
            values = {key: value for key, value in values.items() if not self._is_there(key, event, value)}
        if values:
            self._define_new(values)
            if self.server is not None and any(table_of(value, key) is not None for key, value in values.items()):
                self.sdk._public_api()  # logs in, once; if it does that behind an artifact that was handed over, that comes twice
            self.sdk.log(_row(event, values))
            for value in values.values():
                self._want_media(event, value)
        if self._parent is not None:
            self.want(event, Rows(self, steps(self.sdk)))

    def _define_new(self, values: Mapping[str, Any]) -> None:
        for key in values.keys() - self._defined if self.lent else ():
            if not {".", "*"} & set(key):  # define_metric would take them for a path and for any text
                self.sdk.define_metric(key, step_metric="global_step")
            self._defined.add(key)

    def _is_there(self, key: str, event: ev.Event, value: Any) -> bool:
        """True if an earlier log has this value. Whether the server has its files is still to be seen."""
        table = table_of(value, key)
        found = self.there.take(key if table is None else table.key, event, value)
        if found is not None and self.server is not None:
            for name in found.files:
                self.want(event, File(self, name, found.folder / name))
            if table is not None:
                for client in found.artifacts:
                    self.want(event, Artifact(self, table.key, client, partial(_again, table, self.id, client), known=False))
        return found is not None

    # -- what must be on the server -----------------------------------------------------------------------------------

    def want(self, event: ev.Event | None, need: Need) -> None:
        """An event needs this to be there."""
        if self._parent is not None:
            self._parent._touched.add(self)
        if event is not None and self.server is not None:
            collecting = self._parent or self
            collecting._wants.append(Want(event, need, steps(collecting.sdk)))

    def take_wants(self) -> list[Want]:
        """Return what has been needed since the last time."""
        wants, self._wants = self._wants, []
        return wants

    def take_touched(self) -> set[Run]:
        """Return the runs of trials that have got something since the last time."""
        touched, self._touched = self._touched, set()
        return touched

    def _want_media(self, event: ev.Event, value: Any) -> None:
        if self.server is None or isinstance(value, (int, float)):
            return
        for part in _parts(value):
            path, target = getattr(part, "_path", None), getattr(part, "_artifact_target", None)
            if path is not None and (inside := os.path.relpath(path, self.sdk.dir)) and not inside.startswith(".."):
                self.want(event, File(self, inside.replace(os.sep, "/")))
            if target is not None:
                make = partial(_of_table, target)
                self.want(event, Artifact(self, event.path, target.artifact._client_id, make, known=True))

    # -- everything else --------------------------------------------------------------------------------------------

    def save(self, path: str, data: bytes, event: ev.Event | None = None) -> None:
        """Save a file of an event with the run."""
        target = Path(self.sdk.dir, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.give(target)
        self.want(event, File(self, path))

    def give(self, target: Path) -> None:
        """Have a file uploaded that is in the run's directory."""
        self.sdk.save(glob.escape(str(target)), base_path=self.sdk.dir, policy="now")

    def log_artifact(self, artifact: Any, aliases: Sequence[str] = ()) -> None:
        self.sdk.log_artifact(artifact, aliases=list(aliases) or None)

    def tell(self, params: Mapping[str, Any], event: ev.Event | None = None, **about: Any) -> None:
        """Set parameters, of an event, and what is worth knowing of the run."""
        self.about |= about
        self.told |= params
        if params:
            self.want(event, Params(self, params))
        if values := {**params, **{f"tracelet/{key}": plain(value) for key, value in self.about.items()}}:
            self.sdk.config.update(values, allow_val_change=True)

    def finish(self, status: Status) -> str | None:
        """End the run. Return its directory, quoted for a shell, if it is offline and not everything was stored in time. (Online,
        the server is asked.)"""
        try:
            seconds = FINISH_SECONDS if self._parent is None else TRIAL_SECONDS
            library().finish(self.sdk, _EXIT_CODES.get(status, 1), seconds=seconds)
        except TimeoutError:
            return shlex.quote(self.folder) if self.offline else None
        return None


def rows_before(run: Run | None, resume: str | None) -> Before | None:
    """Return how many rows and samples the server has, before `run` is opened once more; None if nobody knows.

    Raises:
        ConnectionError: it does not say.
    """
    if run is None or run.server is None or resume not in (None, run.id):
        return None
    held = run.server.there()
    return held.rows, held.samples


def step_there(run: Run, before: Before | None) -> int | None:
    """As of `Run.step_there`, of a run of ours; if an earlier process has written lately, `before` has to be known. After an
    error it is to be opened once more, by another service."""
    written = [log.stat().st_mtime for log in logs_of(run.folder, run.id)]
    if before is None and any(time.time() - when < LATELY_SECONDS for when in written):
        before = -1, -1
    try:
        return run.step_there(before)
    except ConnectionError:
        restart_service()
        raise


def _row(event: ev.Event, values: Mapping[str, Any]) -> dict[str, Any]:
    row = {**values, "global_step": event.step}
    if math.isfinite(event.wall_time):
        row["_timestamp"] = event.wall_time
    return row


def _of_table(target: Any) -> tuple[Any, Sequence[str]]:
    return target.artifact, ()


def _again(table: Any, run_id: str, client: str) -> tuple[Any, Sequence[str]]:
    return table.artifact(run_id, client), ()


def _parts(value: Any) -> Iterator[Any]:
    """Yield the media of a value."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _parts(each)
    else:
        table = charted(value)
        yield value if table is None else table
