"""The event files of a session that is continued: where they are now, and how far they were taken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tracelet_shim.bus import messages as msg
from tracelet_shim.common.inside import is_inside
from tracelet_shim.eventfiles.logdir import CREATED, PROJECTOR, is_event_file
from tracelet_shim.eventfiles.own_files import is_own
from tracelet_shim.eventfiles.waiting import waiting
from tracelet_shim.relay.watching import kept, outermost, position_at
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.rows import SessionRow

__all__ = ["SessionFiles"]

_LAST_LOOK = 10.0
"""Seconds after the last look of a session at what it watches, in which a new file may still be its own."""
_FIRST_MOMENT = 60.0  # seconds that the first writer's file may be older than the session, on a machine that is swamped


class SessionFiles:
    """The files of a session, where they are now, and how to tell whether another one is of this session too.

    Args:
        ledger: has the session.
        session: the session.
        root: where its root directory is now. Paths below the one that it had are moved.
        taken: by source, what the index has.

    Attributes:
        sources: the sources that the ledger has; what was not seen when it was written follows the rules of replay.
        writers: the log directories in the order in which they were named.
        taken: by path, the position behind the last record.
        places: the directories in which its files are.
    """

    def __init__(self, ledger: Ledger, session: SessionRow, root: str, taken: Mapping[int, int]) -> None:
        self.root = root
        self._session = session
        self.sources = [self.source(source) for source in ledger.sources(session.id)]
        self.writers = [self.moved(logdir) for logdir in ledger.writers(session.id)]
        ended = ledger.taken(session.id)
        self.taken: dict[str, int] = {}
        for source in self.sources:
            position = max(taken.get(source.id, 0), ended.get(source.id, 0))
            self.taken[source.path] = max(position, self.taken.get(source.path, 0))
        known = {source.path for source in self.sources}
        # A replay has what there is, whoever has it too.
        self._others = known if session.is_replay else known | {self.moved(path) for path in ledger.event_files()}
        # A session that was killed in its first moment knows no file. It begins with a writer, whose file is a moment older.
        self._since = session.started - (0 if known else _FIRST_MOMENT)
        self._directories = {source.logdir for source in self.sources}
        path = ledger.directory / f"{session.id}.watched"
        self._watched = kept(path)
        self._looked = path.stat().st_mtime if self._watched is not None else 0.0
        self._tops = [self.moved(top) for top in self._watched.tops] if self._watched is not None else []
        self.places = outermost([root, *self._tops])

    def add(self, source: msg.Source) -> None:
        """Take note of a source that the ledger has not got."""
        if all(source.id != known.id for known in self.sources):
            self.sources.append(self.source(source))
            self._others.add(self.sources[-1].path)
            self._directories.add(self.sources[-1].logdir)

    def waiting(self, directory: Path) -> list[msg.Source]:
        """Take note of the records that were waiting for a writer when the session was killed, in this state directory; return
        their sources."""
        found = [path for path, known in waiting(directory) if known.opened.run.session == self._session.id]
        first = 1 + max((source.id for source in self.sources if source.id < msg.OWN_SOURCES), default=-1)
        new = [path for path in found if path not in {source.path for source in self.sources}]
        sources = [msg.Source(number, path, self.root, None) for number, path in enumerate(new, first)]
        self.sources += sources
        return sources

    def source(self, s: msg.Source) -> msg.Source:
        """Return a source of the session as it is now."""
        replay = s.replay or s.parent is not None
        return msg.Source(s.id, self.moved(s.path), self.moved(s.logdir), s.parent and self.moved(s.parent), replay=replay)

    def moved(self, path: str) -> str:
        """Return where a path of the session is now."""
        old = self._session.root
        if path == old:
            return self.root
        return os.path.join(self.root, os.path.relpath(path, old)) if path.startswith(f"{old.rstrip('/')}/") else path

    def is_new(self, path: str) -> bool:
        """Return whether this file is the session's and not in the ledger: of a replay everything is; of a training process
        what its event writers, whose files have its host and process id in their names, have begun since the start."""
        session, name = self._session, os.path.basename(path)
        if path in self._others or not (is_event_file(name) or name == PROJECTOR):
            return False
        if not is_own(name) and self._was_watched(path):
            return True
        if not is_inside(path, self.root) or not os.path.isfile(path):
            return False  # it is never read
        if session.is_replay:
            return True
        if name == PROJECTOR:
            return os.path.dirname(path) in self._directories and os.path.getmtime(path) >= session.started
        named = CREATED.search(name)
        return (
            named is not None
            and int(named.group(1)) >= int(self._since)
            and f"{named.group(2)}.".startswith(f"{session.host}.{session.pid}.")
        )

    def _was_watched(self, path: str) -> bool:
        """Return whether a file lies where the session watched, and has appeared or grown since it began; not after its end."""
        if self._watched is None or not any(is_inside(path, top) for top in self._tops) or not os.path.isfile(path):
            return False
        about = os.stat(path)
        size = self._watched.sizes.get(path)
        if os.path.basename(path) == PROJECTOR:
            return os.path.dirname(path) in self._directories and about.st_mtime >= self._watched.since
        if size is not None:
            return about.st_size != size
        named = CREATED.search(os.path.basename(path))
        return (int(named.group(1)) if named is not None else about.st_mtime) <= self._looked + _LAST_LOOK

    def start_of(self, path: str) -> int:
        """Return the position of the first record of a new file that is the session's."""
        return position_at(path, self._watched.sizes.get(path) if self._watched is not None else None)
