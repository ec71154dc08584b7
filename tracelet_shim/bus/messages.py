"""What the training process and the relay say to each other.

Plain data, encoded with msgpack where the relay is a process of its own. The order of messages is the order of calls.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.events import Array

__all__ = [
    "OWN_SOURCES",
    "RECORD_BYTES",
    "BackendSpec",
    "BackendState",
    "Close",
    "Closed",
    "Continue",
    "Continued",
    "Counters",
    "Embedded",
    "Figure",
    "Flush",
    "Flushed",
    "Frames",
    "Hello",
    "Hint",
    "Hinted",
    "Message",
    "More",
    "Nested",
    "Open",
    "Opened",
    "Record",
    "Records",
    "Reply",
    "Rest",
    "Series",
    "Source",
    "Trial",
    "Trouble",
    "UseRing",
    "WhatRanFound",
    "Writer",
    "again",
]  # fmt: skip


# -- hints: what a call knew and the proto has lost -------------------------------------------------------------------


class Series(msgspec.Struct, tag="series", array_like=True):
    """One key of `add_scalars`; the record stands in a directory made for the key."""

    key: str


class Figure(msgspec.Struct, tag="figure", array_like=True):
    """The image came through `add_figure`."""


class Frames(msgspec.Struct, tag="frames", array_like=True):
    """The frames of `add_video`, which TensorBoard drops without moviepy: uint8, T x H x W x C."""

    frames: Array
    fps: float


class Trial(msgspec.Struct, tag="trial", array_like=True):
    """The dicts of `add_hparams`, as Python values."""

    run_name: str
    params: dict[str, Union[bool, int, float, str]]  # noqa: UP007
    metrics: dict[str, float]
    domain: dict[str, list[Any]]


class Nested(msgspec.Struct, tag="nested", array_like=True):
    """Written by `add_hparams` beside the record that has the `Trial`."""


class Embedded(msgspec.Struct, tag="embedded", array_like=True):
    """An `add_embedding`; there is no proto.

    Attributes:
        images: uint8, N x H x W x C, or None.
    """

    tag: str
    step: int
    wall_time: float
    matrix: Array
    metadata: list[list[str]] | None
    header: list[str] | None
    images: Array | None


Hint = Union[Series, Figure, Frames, Trial, Nested, Embedded]  # noqa: UP007


class Hinted(msgspec.Struct, tag="hinted"):
    """A hint by itself, beside the record in a ring."""

    hint: Hint


# -- to the relay -----------------------------------------------------------------------------------------------------


class BackendSpec(msgspec.Struct, tag="backend_spec"):
    """A backend to open.

    Attributes:
        name: its name.
        class_path: ``"module:Class"``; empty for a backend that was given as an object.
        options: its options.
        resume: the tracker's id of a run to continue or to join.
        borrowed: True if that is a run that the user has active.
        here: True if it must live in the training process, with a run of the user's that only that process can write.
    """

    name: str
    class_path: str
    options: dict[str, Any]
    resume: str | None = None
    borrowed: bool = False
    here: bool = False


class Open(msgspec.Struct, tag="open"):
    """The first message.

    Attributes:
        run: what the runs are opened with.
        backends: the trackers.
        memory: bytes of events that may be kept in memory; what is beyond is read again from the event files.
        root: the root directory, if the user named one.
        found: tags that nobody asked for, of the CI or SLURM job; for runs of our own, and where no tag of that name was given.
        system_metrics: seconds between samples of the system; None takes none.
        keeps_state: False for the second hosting of a session: the ledger is the other one's.
        restarted: True if an earlier relay of this session died. Its writers and sources follow, then `Continue`.
        linger: seconds that the relay goes on by itself after a program that is gone without a word.
        watch: directories (absolute) whose event files are read as they appear and grow.
        since: what was written there before this is not read; seconds since the epoch.
        forward_password: of the Redis at `RunInfo.forward`, where the address had one.
        continues: by tracker, the run of an earlier start of the job.
        what_ran_comes: what ran is found out by another process; `WhatRanFound` follows.
    """

    run: RunInfo
    backends: list[BackendSpec]
    memory: int
    root: str | None
    found: dict[str, str] = {}
    system_metrics: float | None = None
    keeps_state: bool = True
    restarted: bool = False
    linger: float = 0.0
    watch: list[str] = []
    since: float = 0.0
    forward_password: str | None = None
    continues: dict[str, str] = {}
    what_ran_comes: bool = False


def again(message: Message, root: str | None) -> Message:
    """Return what the successor of a relay is told instead of a message to that. A session that watches directories may have its
    `root` from a file that was found there, of which the program knows nothing."""
    if not isinstance(message, Open):
        return message
    return msgspec.structs.replace(message, restarted=True, root=message.root or (root if message.watch else None))


class Continue(msgspec.Struct, tag="continue"):
    """To a restarted relay: all writers and sources have been told; answered by `Continued`.

    Attributes:
        lost: of what is in the ring no more, how many records are in no index; for the relay's own process to say.
    """

    lost: int = 0


class UseRing(msgspec.Struct, tag="ring"):
    """What follows comes through a ring (`bus.ring`).

    Attributes:
        path: its file.
    """

    path: str


class WhatRanFound(msgspec.Struct, tag="what_ran"):
    """What ran, as another process has found it out (`provenance.what_ran.WhatRan.encoded`)."""

    data: bytes


class Writer(msgspec.Struct, tag="writer"):
    """A SummaryWriter was created on this log directory (absolute)."""

    logdir: str


OWN_SOURCES = 1 << 30
"""The numbers from here on are for sources that the relay makes by itself."""


class Source(msgspec.Struct, tag="source"):
    """An event file from which records will come.

    Attributes:
        id: number of the source, from 0, without gaps; from `OWN_SOURCES` for the relay's own.
        path: the event file, absolute.
        logdir: its log directory, absolute.
        parent: the log directory of the SummaryWriter that it belongs to, where that is another one: `add_scalars` and
            `add_hparams` write into directories of their own. Of a replayed file: `add_scalars` alone.
        replay: True if its records were not seen when they were written: what calls knew is then read off the names of
            directories (`tracelet_shim.eventfiles.decoder`).
    """

    id: int
    path: str
    logdir: str
    parent: str | None = None
    replay: bool = False


class Record(msgspec.Struct, tag="record", array_like=True):
    """One event of an event file.

    Attributes:
        source: the event file's number.
        position: index in that file.
        data: the serialised event; None = read it from the file, there was no memory for it.
        value: the exact float64 of a scalar, where the call had it.
        hint: what else the call knew.
    """

    source: int
    position: int
    data: bytes | None
    value: float | None = None
    hint: Hint | None = None


RECORD_BYTES = 300
"""What a record takes in memory beyond its data, measured."""


class Records(msgspec.Struct, tag="records"):
    records: list[Record]


class Flush(msgspec.Struct, tag="flush"):
    """Deliver what came before this; answered by `Flushed` with the same id."""

    id: int


class Close(msgspec.Struct, tag="close"):
    """The end: drain, then close every run with this status. After `deadline` seconds nobody waits for that any more; `linger`
    seconds later it is over. What comes behind this message is delivered as well, as long as there is a tracker that has not got
    so far as to ask for `More` and had its answer.

    Attributes:
        at_exit: True if nobody asked for the end and the status was read off the way the program ended.
        cut_off: True if the event files may have records that were never handed over: the program that wrote them is
            gone without a word.
        since: when the seconds began, by this machine's `time.monotonic`: the relay may be busy, or just starting. None: when
            this is read.
        ended: when the program ended or asked for the end, seconds since the epoch; None: with the last event.
        linger: answered by `Lingers` if there is more to do after `deadline`.
    """

    status: str
    deadline: float
    at_exit: bool = False
    cut_off: bool = False
    since: float | None = None
    ended: float | None = None
    linger: float = 0.0


class Rest(msgspec.Struct, tag="rest"):
    """The answer to `More`: this is behind all that had been logged then."""

    backend: str


Message = Union[Open, Continue, UseRing, WhatRanFound, Writer, Source, Records, Flush, Close, Rest]  # noqa: UP007


# -- from the relay ---------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, tag="hello"):
    """The relay is there."""


class Opened(msgspec.Struct, tag="opened"):
    backend: str
    run_id: str
    url: str | None


class Trouble(msgspec.Struct, tag="trouble"):
    """Something the user should hear of, at most once a `kind`.

    Attributes:
        backend: the backend, or None for the relay itself.
        kind: what sort of trouble, for telling repeats.
        message: one line, without secrets.
    """

    backend: str | None
    kind: str
    message: str


class BackendState(msgspec.Struct):
    """Where delivery to one tracker stands. Counts are events.

    Attributes:
        state: ``"opening"``, ``"open"``, ``"retrying"``, ``"failed"``, ``"closed"``, ``"abandoned"`` (missed the deadline).
        delivered: stored by the tracker, as far as that can be known.
        pending: on the way, wherever.
        failed: set aside, because the tracker refused them, or lost.
        error: the latest trouble.
        unconfirmed: how many of the pending ones the tracker has been handed, and has not acknowledged.
        lost: those of `failed` that their event file does not have, and that are nowhere else.
    """

    state: str = "opening"
    delivered: int = 0
    pending: int = 0
    failed: int = 0
    error: str | None = None
    unconfirmed: int = 0
    lost: int = 0

    @property
    def missing(self) -> int:
        """How many events the tracker has not got."""
        return self.pending + self.failed

    @property
    def refused(self) -> int:
        """How many events it has refused; they are set aside, and can be offered to it again."""
        return self.failed - self.lost

    @property
    def complete(self) -> bool:
        """True if the tracker has everything and its run was ended: nothing less is success, for whoever asks at the end."""
        return self.state == "closed" and not self.missing

    @property
    def shortfall(self) -> str:
        """What a tracker that is not complete lacks, in words."""
        if self.missing:
            text = f"{self.missing} events were not delivered"
        elif self.state == "opening":
            text = "its run was not opened in time"
        elif self.state == "failed" or not self.delivered:
            text = "nothing is missing, but its run was not opened, or not ended"
        else:
            text = "it has everything, but its run was not ended in time"
        return text + (f" ({self.error})" if self.error else "")


class Counters(msgspec.Struct, tag="counters"):
    """Sent about twice a second while something changes.

    Attributes:
        records: number of records of the training's that the relay has taken and could continue from.
        taken: number of records of the training's that the counts are of.
        spilled: True if events wait that are to be read from the event files.
        root: the root directory, where `tracelet-shim replay --resume` finds what is left to deliver; None if no state
            could be kept.
    """

    backends: dict[str, BackendState]
    records: int = 0
    spilled: bool = False
    root: str | None = None
    taken: int = 0


class Continued(msgspec.Struct, tag="continued"):
    """A restarted relay has this many records; the next one is wanted.

    Attributes:
        records: how many.
        lost: how many of those that the ring has no more are in no index.
    """

    records: int
    lost: int = 0


class Flushed(msgspec.Struct, tag="flushed"):
    """Everything before the flush is delivered, or never will be.

    Attributes:
        whole: True if every tracker has all of it.
    """

    id: int
    whole: bool = True


class Closed(msgspec.Struct, tag="closed"):
    """The last reply; `taken` as of `Counters`."""

    backends: dict[str, BackendState]
    taken: int = 0


class Lingers(msgspec.Struct, tag="lingers"):
    """After `Close`: the deadline is over, and the relay goes on by itself; nothing more is heard of it. `taken` as of
    `Counters`."""

    backends: dict[str, BackendState]
    taken: int = 0


class More(msgspec.Struct, tag="more"):
    """After `Close`: this tracker has everything that came before that. What has been logged meanwhile is wanted too, once."""

    backend: str


class HandedOver(msgspec.Struct, tag="handed_over"):
    """After `Close`: this tracker's SDK has everything, in a run of the user's; it is uploaded when he ends that."""

    backend: str


Reply = Union[Hello, Opened, Trouble, Counters, Continued, Flushed, Closed, Lingers, More, HandedOver]  # noqa: UP007
