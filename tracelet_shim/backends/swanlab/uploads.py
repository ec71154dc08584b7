"""What SwanLab's service has got: the SDK's uploads, watched.

The SDK hands records to a thread (`core_python.transport`) that gives up on every 4xx, 429 among them, and drops up to a whole
batch with a line in its log. Here such answers are judged by our own table, so what may pass stays in the SDK's own queue, and a
batch that is refused for good is divided until the one record is found.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim.backends.base import Refusal
from tracelet_shim.backends.shared.transient import Patience

__all__ = ["REQUEST_SECONDS", "Uploads", "bound", "no_pages", "sync", "sync_command"]

REQUEST_SECONDS = 20
"""That a request may take; the SDK's own limit is 60."""
_NO_ENVELOPE = "unknown code"  # what the SDK calls the code of an answer that it cannot read


class Uploads:
    """The uploads of one run.

    Args:
        core: the run's, of the SDK.
        own: False for a run of the user's: then its answers are not judged, only waited for.
    """

    def __init__(self, core: Any, *, own: bool) -> None:
        self._transport = core._transport
        self._counter = core._counter
        self._patience = Patience()
        self._lock = threading.Lock()
        self._marks: deque[tuple[int, int]] = deque()  # number of the latest record, and events that were written with it
        self._refused: list[Refusal] = []
        sender = self._transport._sender if self._transport is not None else None
        if sender is not None and own:
            self._result = _result_class()
            sender.upload = self._judged(sender.upload)
            with contextlib.suppress(AttributeError):  # the sender for old servers, which has no session of its own
                bound(sender._ensure_session())

    def mark(self, events: int) -> None:
        """So many events have been handed over since the last time."""
        if self._transport is not None and events:
            self._marks.append((self._counter.value, events))

    def unsettled(self) -> int:
        """Return how many of the latest events the service may not have."""
        if not self._marks:
            return 0
        first = min((record.num for record in self._transport.pending_records()), default=sys.maxsize)
        while self._marks and self._marks[0][0] < first:
            self._marks.popleft()
        return sum(events for _, events in self._marks)

    def behind(self) -> str | None:
        """Return why the service does not take what waits; None if nothing is wrong."""
        failures = self._transport.last_failures() if self._transport is not None and self._marks else ()
        return f"the service does not take uploads: {failures[0].message}" if failures else None

    def take_refused(self) -> list[Refusal]:
        """Return what the service has refused for good since the last time, one for each record."""
        with self._lock:
            refused, self._refused = self._refused, []
        return refused

    # -- in the SDK's thread -----------------------------------------------------------------------------------------

    def _judged(self, upload: Callable[[str, Sequence[Any]], Any]) -> Callable[[str, Sequence[Any]], Any]:
        def call(kind: str, records: Sequence[Any]) -> Any:
            result = upload(kind, records)
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

    def _note(self, kind: str, records: Sequence[Any], failure: Any) -> None:
        with self._lock:
            for record in records if kind in ("scalar", "media", "save") else ():
                part = getattr(record, kind)
                name = part.name if kind == "save" else f"{part.key[:80]!r} at step {part.step}"
                self._refused.append(Refusal(f"{kind} {name} was refused: {failure.message}"))


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
    """Upload a run that is on disk only."""
    import swanlab

    swanlab.sync(folder, settings=swanlab.Settings(run={"id": run_id}))


def sync_command(run_id: str, folder: Path) -> str:
    """Return the command that does so."""
    return f"swanlab sync --id {shlex.quote(run_id)} {shlex.quote(str(folder))}"


def _result_class() -> Any:
    from swanlab.sdk.typings.core_python.transport import UploadResult

    return UploadResult
