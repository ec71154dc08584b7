"""What ran, attached to a run that is made here."""

from __future__ import annotations

import logging
import time

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend
from tracelet_shim.provenance.what_ran import WhatRan
from tracelet_shim.relay.ending import LONGEST_DELAY, Ending
from tracelet_shim.relay.troubles import Troubles, text_of
from tracelet_shim.relay.watch import Watch

__all__ = ["Attachments"]

logger = logging.getLogger("tracelet_shim.relay")


class Attachments:
    """The files that say what ran, for one tracker.

    Args:
        name: the tracker.
        what_ran: finds them out.
        ending: says when time is up.
        watch: watches the tracker.
        troubles: are told.
    """

    def __init__(self, name: str, what_ran: WhatRan, ending: Ending, watch: Watch, troubles: Troubles) -> None:
        self._name = name
        self._what_ran = what_ran
        self._ending = ending
        self._watch = watch
        self._troubles = troubles
        self._left: list[ev.Blob] | None = None  # None: not known yet
        self._again_at = 0.0

    def skip(self) -> None:
        """The run has them, or is the user's."""
        self._left = []

    def ask(self) -> None:
        """The run is a new one after all."""
        self._left = None

    def attach(self, backend: Backend) -> bool:
        """Attach what ran, as soon as that is known; return whether it may be tried again. No event waits for a second try."""
        if self._left is None:
            self._left = self._what_ran.files()
        while self._left and time.monotonic() >= self._again_at:
            event = self._left[0]
            try:
                with self._watch.asking("write", f"attaching {event.tag}"):
                    backend.attach(event.tag, event.data, event)
            except Exception as error:
                logger.warning("%s: %s was not attached", self._name, event.tag, exc_info=True)
                if backend.is_transient(error):
                    self._again_at = time.monotonic() + LONGEST_DELAY
                    return True
                self._troubles.tell("what-ran", f"{event.tag} was refused: {text_of(error)}")
            self._left.pop(0)
        return bool(self._left)

    def attach_at_last(self, backend: Backend) -> None:
        """Everything else is delivered, or time is up: attach what is still to be attached."""
        if self._left is None:
            self._left = self._what_ran.files(self._ending.drain_until - time.monotonic())
        self._again_at = 0.0
        attempt = 0
        while self.attach(backend):
            attempt += 1
            if not self._ending.pause(attempt):
                break
            self._again_at = 0.0
        if self._left or self._left is None:
            self._troubles.tell("what-ran", "what ran was not attached to the run in time")
