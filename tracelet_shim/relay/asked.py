"""What a relay is asked: how far it is, and what it has."""

from __future__ import annotations

import os
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles.decoder import Decoder
from tracelet_shim.eventfiles.waiting import waiting
from tracelet_shim.relay.log import Log
from tracelet_shim.relay.own import Own
from tracelet_shim.relay.worker import Worker
from tracelet_shim.state.place import state_directory
from tracelet_shim.state.session import SessionState

__all__ = ["Asked"]


class Asked:
    """The part of `dispatcher.Relay` that changes nothing."""

    workers: list[Worker]
    _state: SessionState
    _log: Log
    _own: Own
    _decoder: Decoder
    _session: msg.Open | None
    _sources: set[int]
    _files: list[str]

    @property
    def directory(self) -> Path | None:
        """The state directory, once it is known and if it can be written."""
        return self._state.directory

    @property
    def state(self) -> SessionState:
        """What keeps the session's state."""
        return self._state

    @property
    def length(self) -> int:
        """The number of records so far, its own included."""
        return self._log.length

    def wake_workers(self) -> None:
        """Let the workers look at their own conditions."""
        self._log.wake()

    @property
    def owned(self) -> bool:
        """False if another process serves the session."""
        return self._state.owned

    @property
    def records(self) -> int:
        """The number of records of the training's so far."""
        return self._log.length - self._own.records

    @property
    def indexed(self) -> bool:
        """True if a successor finds all of them, should this process be killed."""
        return self._log.safe == self._log.length

    def sources(self) -> list[msg.Source]:
        """Return the event files of the training process, in order."""
        return [self._decoder.source(number) for number in sorted(self._sources) if number < msg.OWN_SOURCES]

    def waiting(self) -> list[tuple[str, str]]:
        """Return (file, root directory) of the records of this session that the program has not handed over: they wait for its
        first writer."""
        opened = self._session
        if opened is None or any(spec.borrowed for spec in opened.backends):
            return []
        places = {state_directory(opened.run.program.cwd, os.environ), *([self.directory] if self.directory is not None else [])}
        found = [each for place in places for each in waiting(place)]
        mine = [(path, known.root) for path, known in found if known.opened.run.session == opened.run.session]
        return [(path, root) for path, root in mine if path not in self._files]

    def ahead(self) -> int:
        """Return how many records the fastest tracker has still to take; 0 if none takes any now."""
        taking = [worker for worker in self.workers if worker.state.state in ("opening", "open")]
        return min((self._log.length - worker.cursor for worker in taking), default=0)

    def states(self) -> dict[str, msg.BackendState]:
        """Return where each tracker stands now."""
        return {worker.name: worker.report() for worker in self.workers}
