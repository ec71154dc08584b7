"""How a worker opens its tracker's run."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from tracelet_shim.backends.base import Backend, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.provenance.what_ran import WhatRan, with_tags
from tracelet_shim.relay.attachments import Attachments
from tracelet_shim.relay.ending import Ending
from tracelet_shim.relay.guest import backend_at
from tracelet_shim.relay.own_random import keep_apart
from tracelet_shim.relay.troubles import Troubles, text_of
from tracelet_shim.relay.watch import Watch

__all__ = ["Opening"]

_LONGEST_TURN = 10.0
_TAGS_SECONDS = 5.0

logger = logging.getLogger("tracelet_shim.relay")

_turn = threading.Lock()
_has_opened: set[type[Backend]] = set()
"""Of those that can be open several times in this process, those that have been: what they import is there."""


@contextlib.contextmanager
def _one_at_a_time(patience: Callable[[], float]) -> Iterator[None]:
    """Let one tracker open at a time: SDKs share libraries, and importing those in several threads at once can go wrong
    (partially initialised modules). A tracker that is stuck holds the others up for a few seconds only.

    Args:
        patience: seconds that the wait may take from its begin; asked again and again, since the end may come meanwhile.
    """
    since = time.monotonic()
    mine = _turn.acquire(blocking=False)
    while not mine and time.monotonic() - since < patience():
        mine = _turn.acquire(timeout=0.1)
    try:
        yield
    finally:
        if mine:
            _turn.release()


class Opening:
    """Opens one tracker's run, or one that is to be continued.

    Args:
        spec: which backend, with its options.
        run: what the run is opened with.
        what_ran: finds tags.
        attachments: are not made where the run has them.
        ending: says when time is up.
        watch: watches the tracker.
        troubles: are told.

    Attributes:
        run: what the run is opened with, with what has been found out since.
    """

    def __init__(
        self,
        spec: msg.BackendSpec,
        run: RunInfo,
        what_ran: WhatRan,
        attachments: Attachments,
        ending: Ending,
        watch: Watch,
        troubles: Troubles,
    ) -> None:
        self.run = msgspec.structs.replace(run, resume=spec.resume, borrowed=spec.borrowed) if spec.resume else run
        self._fresh: RunInfo | None = None  # for the case that the run to continue is gone
        self._attempts = 0
        self._spec = spec
        self._what_ran = what_ran
        self._attachments = attachments
        self._ending = ending
        self._watch = watch
        self._troubles = troubles
        self._making = threading.Lock()  # held while the tracker may be making its store

    def continue_run(self, run_id: str) -> None:
        """Continue this run, which this session has opened before."""
        self.run = msgspec.structs.replace(self.run, resume=run_id)

    def continue_job(self, run_id: str) -> None:
        """Continue this run of an earlier start if it is still there, unless another one was asked for."""
        if self.run.resume is None:
            self._fresh = self.run
            self.continue_run(run_id)

    def open(self) -> msg.Opened | None:
        """Open the run, trying again as long as that may help; return None if it is not open."""
        if self.run.resume is None:
            found = self._what_ran.tags(min(_TAGS_SECONDS, self._patience()))
            self.run = with_tags(self.run, found)
        else:
            self._attachments.skip()
        while not self._ending.give_up.is_set():
            try:
                backend = self._made()
                kind = type(backend)
                turn = contextlib.nullcontext() if kind in _has_opened else _one_at_a_time(self._patience)
                with turn, self._making, self._watch.asking("open", "opening its run"):
                    if self._ending.give_up.is_set():
                        return None
                    opened = backend.open(self.run)
                if kind.shares_process:
                    _has_opened.add(kind)
            except Exception as error:
                if not self._may_try_again(error):
                    return None
            else:
                return msg.Opened(self._spec.name, opened.run_id, opened.url)
        return None

    def _made(self) -> Backend:
        backend = self._watch.backend
        if backend is None:
            backend = self._watch.backend = backend_at(self._spec.class_path)(self._spec.options)
        if self.run.program.pid == os.getpid():
            keep_apart(backend.module)
        return backend

    def _may_try_again(self, error: Exception) -> bool:
        """Tell what is wrong; return whether, and when, to open once more."""
        backend = self._watch.backend
        transient = backend is not None and backend.is_transient(error)
        self._troubles.note("cannot open a run", error)
        if not transient and self._fresh is not None:
            gone = f"run {self.run.resume} of the job's earlier start cannot be continued ({text_of(error)})"
            self._troubles.tell("not-continued", f"{gone}; a new one is opened")
            self.run, self._fresh = self._fresh, None
            self._attachments.ask()
            return True
        if not transient:
            advice = backend.advice(error) if backend is not None else ""
            self._troubles.fail("open", f"cannot open a run: {text_of(error)}" + (f"; remedy: {advice}" if advice else ""))
            return False
        self._troubles.retrying("open", f"cannot open a run yet: {text_of(error)}")
        self._attempts += 1
        if not self._ending.pause(self._attempts):
            self._troubles.fail("open", f"no run could be opened: {text_of(error)}")
            return False
        return True

    def _patience(self) -> float:
        """Return how long to wait for another tracker that is being opened: at the end, a part of the time that is left."""
        return min(_LONGEST_TURN, (self._ending.drain_until - time.monotonic()) / 3)

    def let_open(self, until: float) -> None:
        """After the end: wait until the tracker is out of its `open`, at the latest until then (monotonic seconds). A store of
        which a part has been made may be unusable for ever."""
        if self._making.acquire(blocking=False):
            self._making.release()
            return
        if self._watch.backend is not None:
            self._watch.backend.abandon()
        if self._making.acquire(timeout=max(0.0, until - time.monotonic())):
            self._making.release()
        else:
            logger.warning("%s has not opened its run in time", self._spec.name)
