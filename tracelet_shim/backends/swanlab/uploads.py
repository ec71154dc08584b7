"""What SwanLab's service has got: the SDK's uploads, watched.

The SDK hands records to a thread (`core_python.transport`) that gives up on every 4xx, 429 among them, and drops up to a whole
batch with a line in its log. Here such answers are judged by our own table, so what may pass stays in the SDK's own queue, and a
batch that is refused for good is divided until the one record is found.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Refusal
from tracelet_shim.backends.shared.transient import Patience

__all__ = ["REQUEST_SECONDS", "Uploads", "bound", "no_pages", "sync", "sync_command"]

REQUEST_SECONDS = 20
"""That a request may take; the SDK's own limit is 60."""
_NO_ENVELOPE = "unknown code"  # what the SDK calls the code of an answer that it cannot read

_log = logging.getLogger(__name__)


class Uploads:
    """The uploads of one run.

    Args:
        core: the run's, of the SDK.
        own: False for a run of the user's: the time that a request may take is his.
    """

    def __init__(self, core: Any, *, own: bool) -> None:
        self._transport = core._transport
        self._counter = core._counter
        self._patience = Patience()
        self._lock = threading.Lock()
        self._marks: deque[tuple[int, int]] = deque()  # number of the latest record, and events that were written with it
        self._whose: deque[tuple[int, int, Sequence[ev.Event | Refusal]]] = deque()  # numbers of records, and their events
        self._refused: dict[ev.RecordId, Refusal] = {}
        self._told: set[ev.RecordId] = set()
        sender = self._watch(self._transport._sender) if self._transport is not None else None
        if sender is not None:
            with contextlib.suppress(AttributeError):  # the sender for old servers, which has no session of its own
                session = sender._ensure_session()
                no_pages(session)
                if own:
                    bound(session)

    def _watch(self, sender: Any) -> Any:
        """Judge what a sender does; return it."""
        if sender is not None:
            self._result, self._failure = _classes()
            sender.upload = self._judged(sender.upload)
        return sender

    def _first_pending(self, default: int) -> int:
        """Return the number of the first record that the service may not have."""
        return min((record.num for record in self._transport.pending_records()), default=default)

    def _problem(self) -> str | None:
        """Return what the service says of what waits."""
        failures = self._transport.last_failures()
        return str(failures[0].message) if failures else None

    def waiting(self) -> int:
        """Return the number of records that the service has not taken yet."""
        transport = self._transport
        return 0 if transport is None else len(transport._buf) + len(transport._pending)

    def missing(self) -> str | None:
        """Return what the service has not got when the run has ended."""
        return None if self._transport is None else str(self._transport.finish_summary())

    def mark(self, events: int) -> None:
        """So many events have been handed over since the last time."""
        if self._transport is not None and events:
            self._marks.append((self._counter.value, events))

    def handed(self, before: int, events: Sequence[ev.Event]) -> None:
        """The records since number `before` are of these events: one of each, or all of the only one."""
        last = self._counter.value
        if self._transport is None or last == before:
            return
        # a scalar as it is, of others no more than will be told of them
        names = [e if type(e) is ev.Scalar else Refusal.of(e) for e in events]
        with self._lock:
            self._whose.append((before + 1, last, names))

    def unsettled(self) -> int:
        """Return how many of the latest events the service may not have."""
        if not self._marks:
            return 0
        first = self._first_pending(sys.maxsize)
        while self._marks and self._marks[0][0] < first:
            self._marks.popleft()
        with self._lock:
            while self._whose and self._whose[0][1] < first:
                self._whose.popleft()
        return sum(events for _, events in self._marks)

    def behind(self) -> str | None:
        """Return why the service does not take what waits; None if nothing is wrong."""
        problem = self._problem() if self._transport is not None and self._marks else None
        return None if problem is None else f"the service does not take uploads: {problem}"

    def take_refused(self) -> list[Refusal]:
        """Return which events the service has refused for good, with a record or more of each, since the last time."""
        with self._lock:
            refused = [refusal for record, refusal in self._refused.items() if record not in self._told]
            self._told |= self._refused.keys()
            self._refused.clear()
        return refused

    # -- in the SDK's thread -----------------------------------------------------------------------------------------

    def _judged(self, upload: Callable[[str, Sequence[Any]], Any]) -> Callable[[str, Sequence[Any]], Any]:
        def call(kind: str, records: Sequence[Any]) -> Any:
            try:
                result = upload(kind, records)
            except Exception as error:  # the SDK would drop all of it, if it is an OSError
                _log.warning("swanlab: uploading failed", exc_info=True)
                result = self._unknown(records, error)
            if not result.failures:
                self._patience.reset()
                return result
            return self._judge(call, kind, records, result)

        return call

    def _judge(self, again: Callable[[str, Sequence[Any]], Any], kind: str, records: Sequence[Any], result: Any) -> Any:
        """Return what becomes of records of which some failed: the SDK's `UploadResult`, but patient."""
        given_up = {record.num for record in result.confirmed_records}
        waiting = {record.num for record in result.remaining_records}
        for failure in result.failures:
            failed = [record for record in failure.records if record.num in given_up]
            if not failed or failure.status is None:  # the SDK keeps them, or nothing was asked: a file that is gone
                self._note(kind, failed, failure)
            elif self._patience.passes(failure.status, own=failure.code != _NO_ENVELOPE):
                waiting |= {record.num for record in failed}
            elif len(records) > 1:
                middle = len(records) // 2
                first, second = again(kind, records[:middle]), again(kind, records[middle:])
                return self._result(
                    confirmed_records=first.confirmed_records + second.confirmed_records,
                    remaining_records=first.remaining_records + second.remaining_records,
                    failures=first.failures + second.failures,
                )
            else:
                self._note(kind, failed, failure)
        return self._result(
            confirmed_records=[record for record in records if record.num not in waiting],
            remaining_records=[record for record in records if record.num in waiting],
            failures=result.failures,
        )

    def _unknown(self, records: Sequence[Any], error: Exception) -> Any:
        """Return a result for an upload that was not made, nobody knows why: a refusal that may pass."""
        name = type(error).__name__
        problem = self._failure(message=f"{name}: {error}", records=list(records), status=403, code=name)
        return self._result(confirmed_records=list(records), failures=[problem])

    def _note(self, kind: str, records: Sequence[Any], failure: Any) -> None:
        reason = str(getattr(failure, "message", failure))
        with self._lock:
            for record in records:
                event = self._event_of(record.num)
                if event is not None:
                    refusal = Refusal(event.record, event.kind, event.path, event.step, reason)
                    self._refused.setdefault(event.record, refusal)
                else:  # of the run itself, or of the user's own
                    _log.warning("swanlab: a record (%s) was refused: %s", kind, reason)

    def _event_of(self, number: int) -> ev.Event | Refusal | None:
        for first, last, events in self._whose:
            if first <= number <= last:
                return events[number - first if len(events) > 1 else 0]
        return None


def bound(session: Any) -> None:
    """Bound the requests of one of the SDK's sessions in time."""
    for adapter in session.adapters.values():
        adapter.timeout = REQUEST_SECONDS


def no_pages(session: Any) -> None:
    """Take a proxy's page, where the service would have answered, for no answer: the SDK looks at the status alone."""

    def check(response: Any, *_: Any, **__: Any) -> None:
        if response.ok and "html" in response.headers.get("Content-Type", ""):
            from requests import ConnectionError as NoAnswerError  # what the SDK tries again

            raise NoAnswerError(f"{response.status_code} with a page, not an answer of the service")

    session.hooks["response"].append(check)


def sync(run_id: str, folder: Path) -> None:
    """Upload a run that is on disk only.

    Raises:
        ConnectionError: not all has arrived. The SDK says so at most in its log.
    """
    import swanlab
    from swanlab.sdk.internal.core_python.sync import CoreSyncPython
    from swanlab.sdk.internal.core_python.transport.sender import HttpRecordSender

    problems: list[str] = []
    confirm, upload = CoreSyncPython.confirm_sync_finish, HttpRecordSender.upload

    def confirmed(core: Any) -> Any:
        answer = confirm(core)
        if not answer.success:
            problems.append(str(answer.message))
        return answer

    def uploaded(sender: Any, kind: str, records: Sequence[Any]) -> Any:
        result = upload(sender, kind, records)
        given_up = {record.num for record in result.confirmed_records}
        failures = result.failures if sender._experiment_id == run_id else ()
        problems.extend(f.message for f in failures if any(record.num in given_up for record in f.records))
        return result

    CoreSyncPython.confirm_sync_finish, HttpRecordSender.upload = confirmed, uploaded
    try:
        swanlab.sync(folder, settings=swanlab.Settings(run={"id": run_id}))
    finally:
        CoreSyncPython.confirm_sync_finish, HttpRecordSender.upload = confirm, upload
    if problems:
        raise ConnectionError(problems[0])


def sync_command(run_id: str, folder: Path) -> str:
    """Return the command that does so."""
    return f"swanlab sync --id {shlex.quote(run_id)} {shlex.quote(str(folder))}"


def _classes() -> tuple[Any, Any]:
    from swanlab.sdk.typings.core_python.transport import UploadFailure, UploadResult

    return UploadResult, UploadFailure
