"""What Redis has of a session, and under which keys.

    tracelet:sessions       the sessions that are to be delivered: sorted by the time at which they were announced
    tracelet:unfinished     those that collectors have ended with something left; `collect --retry` takes them again
    tracelet:hosts          the hosts that are there, by the time of their last sign
    tracelet:{S}:about      `About`
    tracelet:{S}:log        the stream of the session's messages
    tracelet:{S}:runs       where its trackers stand: what the program's side looks at
    tracelet:{S}:ledger     the rest of its ledger
    tracelet:{S}:lease      whose it is; goes by itself
    tracelet:{S}:told       troubles that the program is to hear of
    tracelet:{S}:alive      a sign of life of the program's side; goes by itself

The braces keep the keys of one session together in tools that know hash tags.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg

__all__ = ["HOSTS", "KEPT_SECONDS", "PART", "REMEMBERED_SECONDS", "SESSIONS", "UNFINISHED", "About", "Keys", "Position"]

SESSIONS, UNFINISHED, HOSTS = "tracelet:sessions", "tracelet:unfinished", "tracelet:hosts"
KEPT_SECONDS, REMEMBERED_SECONDS = 86_400, 90 * 86_400
"""How long what a delivered session was stays to be looked at, and how long it is remembered that it was delivered: to whoever
resumes it, so that it does not come twice."""
PART = 1 << 32
"""The second half of an entry's number from here on: a part of a message that comes whole with a later entry."""


class About(msgspec.Struct, tag="about"):
    """What a session is opened with, as `messages.Open`; no secret.

    Attributes:
        version: of this form.
        run: what the runs are opened with.
        backends: the trackers; options are those that the program gave.
        memory: bytes of events that a host may keep in memory for it.
        budget: bytes of records that it may have in Redis.
        root: the root directory on the program's machine, if it is known already.
        continues: by tracker, the run of an earlier start of the job.
    """

    version: int
    run: RunInfo
    backends: list[msg.BackendSpec]
    memory: int
    budget: int
    root: str | None
    continues: dict[str, str] = {}


class Position(NamedTuple):
    """Number of an entry of the stream: how many records there are up to there, and the how-manieth entry it is of those. A batch
    of records has the second half 0, and what comes between two batches counts from 1 on. So an entry that is appended again,
    because the answer was lost, is refused by Redis itself."""

    records: int
    nth: int = 0

    @classmethod
    def of(cls, entry: bytes | str) -> Position:
        text = entry.decode() if isinstance(entry, bytes) else entry
        records, _, nth = text.partition("-")
        return cls(int(records), int(nth))

    def __str__(self) -> str:
        return f"{self.records}-{self.nth}"


class Keys:
    """The keys of one session.

    Args:
        session: its id.
    """

    def __init__(self, session: str) -> None:
        self.session = session
        base = f"tracelet:{{{session}}}:"
        self.about, self.log, self.runs = base + "about", base + "log", base + "runs"
        self.ledger, self.lease, self.told, self.alive = base + "ledger", base + "lease", base + "told", base + "alive"
