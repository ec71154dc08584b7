"""The contract between the relay and a tracker.

A backend is created with its options, opened once, handed batches of events from one thread, and closed once:

    open(run) -> OpenedRun      write(events)      flush()      close(status)

`write` is already here: it sorts a batch into the ``log_*`` methods below, one for each event type, and counts what the
tracker has taken, so that after an error the relay goes on with the first event that is missing. A tracker needs `open`,
`log_scalars`, `log_hparams`, `attach` and `close`; each further ``log_*`` that it overrides is an event type that it can
show in a form of its own. What it does not override is rendered to an ordinary file (`tracelet_shim.backends.render.files`) and
attached to the run. So no event type is ever dropped.

Backends see events and nothing else: no writer, no proto, no other backend. They import their tracker's SDK inside
`open`, never when their own module is imported.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import groupby
from typing import Any, ClassVar, NamedTuple, cast

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.fetching import Fetched, Fetches, NoSuchArtifactError
from tracelet_shim.backends.installed import Installed
from tracelet_shim.backends.notices import Notices
from tracelet_shim.backends.render import files
from tracelet_shim.backends.run_info import WHAT_RAN, Ending, Job, OpenedRun, Part, Program, RunInfo, Status
from tracelet_shim.backends.shared.modules import remedy
from tracelet_shim.backends.shared.names import file_names
from tracelet_shim.backends.shared.options import Parser, parse
from tracelet_shim.backends.shared.probe import Probe
from tracelet_shim.backends.shared.transient import is_refusal
from tracelet_shim.common.suggestions import did_you_mean

__all__ = [
    "WHAT_RAN", "Acknowledged", "Backend", "Capability", "Ending", "Fetched", "Job", "Level", "NoSuchArtifactError", "OpenedRun",
    "Part", "Program", "Refusal", "RunInfo", "Status", "UnsettledLostError",
]  # fmt: skip

class Level(str, enum.Enum):
    """In which form a tracker gets an event type."""

    NATIVE = "native"  # the tracker's own type for this data
    CONVERTED = "converted"  # another native type of the tracker, that shows the same data
    FILE = "file"  # an ordinary file, attached to the run
    NONE = "none"  # not sent; the reason says why


class Capability(NamedTuple):
    """One cell of the fidelity matrix: the level, and how it is done (or, for NONE, why it is not)."""

    level: Level
    how: str


_AS_FILE = Capability(Level.FILE, "an ordinary file, attached to the run")


class Acknowledged(NamedTuple):
    """How it is known that an event is there: what makes it delivered, in words for the documentation.

    Attributes:
        here: in a store on this machine, or the log of an offline mode.
        server: on a server; empty if the tracker has none.
        again: how an event is recognised that is handed over again after a fault.
    """

    here: str = "`write` has returned"
    server: str = ""
    again: str = ""


class Refusal(NamedTuple):
    """An event that a tracker refused after `Backend.write` had returned for it.

    Attributes:
        record, kind, path, step: the event's.
        reason: what the tracker has to say.
    """

    record: ev.RecordId
    kind: str
    path: str
    step: int
    reason: str

    @classmethod
    def of(cls, event: ev.Event, reason: str = "") -> Refusal:
        """Return that of an event; what is kept of one that may be refused has no reason yet."""
        return cls(event.record, event.kind, event.path, event.step, reason)


class UnsettledLostError(Exception):
    """Raised by `Backend.write`, `unsettled` or `close`: besides this batch, what was `Backend.unsettled` before it is lost. Both
    are to be written again, and `write` recognises what has been stored all the same."""


class Backend(Installed, Fetches, Notices, ABC):
    """Base of all backends.

    Class attributes:
        name: the name in ``backend=``; lower case.
        module: the SDK's top-level module, looked for (not imported) to tell whether the tracker is installed.
        distribution: the SDK's name on PyPI, for the version and the installation hint.
        capabilities: event type -> `Capability`; what of `tracelet_shim.events.EVENT_TYPES` is not named becomes files.
        mirrors_event_files: True for a backend that wants every record, `Marker` events included.
        shares_process: True if runs of several sessions can be open in one process at a time, in threads of their own, with
            nothing of the process (working directory, environment variables, an active run) that only one can have.
        shared_variables: environment variables that such a process has, if they are not set, before the SDK is imported.
        batch_events, batch_seconds: a batch is written when it has so many events, or its first is so old; may change meanwhile.

    Args:
        options: the user's ``options={"<name>": {...}}``. An unknown option is a ConfigurationError.

    Attributes:
        written: number of leading events of the latest `write` that the tracker has taken.
        ended: for `close`, when the run ended, in seconds since the epoch: when the program ended or asked for the end, or, where
            the program is long gone, the time of the last event. None: now.
    """

    options: ClassVar[Mapping[str, str]] = {}
    """option name -> one line of documentation; also the list that unknown options are checked against."""
    parsers: ClassVar[Mapping[str, Parser]] = {}
    """What an option is, if not a text: of `tracelet_shim.backends.shared.options`. Any other value is a ConfigurationError."""
    probe: ClassVar[Probe] = Probe()
    """Where the tracker takes its server and its credentials from."""
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]]
    acknowledged: ClassVar[Acknowledged] = Acknowledged()
    credentials: ClassVar[str] = ""
    """What to do about a key or login that the tracker does not take."""
    mirrors_event_files: ClassVar[bool] = False
    shares_process: ClassVar[bool] = False
    shared_variables: ClassVar[Mapping[str, str]] = {}
    batch_events: int = 500
    batch_seconds: float = 0.5
    ended: float | None = None

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        given = dict(options or {})
        for key in given:
            if key not in self.options:
                known = ", ".join(sorted(self.options)) or "none"
                raise errors.ConfigurationError(
                    f"backend {self.name!r} has no option {key!r}{did_you_mean(key, self.options)}; its options: {known}"
                )
        self.given = self.parsed(given)
        self.written = 0
        self._paths = self._artifact_paths = file_names()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        table = cls.__dict__.get("capabilities")
        if isinstance(table, Mapping):
            cls.capabilities = {**{kind: table.get(kind, _AS_FILE) for kind in ev.EVENT_TYPES}, **table}

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def parsed(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that were given, typed by `parsers`.

        Raises:
            ConfigurationError: a value is none for its option.
        """
        try:
            return parse(options, cls.parsers)
        except ValueError as error:
            raise errors.ConfigurationError(f"backend {cls.name!r}: {error}") from None

    @classmethod
    def own_hook(cls) -> str | None:
        """Return how to switch off the tracker's own TensorBoard hook, or None if it is not on in this process. As `borrowed`."""
        return None

    @classmethod
    def borrowed(cls) -> str | None:
        """Return the id of a run that the user has active in *this* process, or None. Must not import the SDK: look in
        `sys.modules`. Called at `start_logging`, and when a writer is made, in its thread: must take no noticeable time."""
        return None

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        """Return the SDK's functions that end a run of the user's. A call of one first waits until what was logged into
        that run has arrived. Called when one of his runs has been joined, so the SDK is imported."""
        return ()

    @classmethod
    def borrowed_project(cls) -> str | None:
        """Return the project of that run, where its id alone does not find it again; None elsewhere."""
        return None

    @classmethod
    def borrowed_options(cls) -> Mapping[str, Any]:
        """Return the options by which another process finds that run; the session's may lead elsewhere."""
        return {}

    @classmethod
    def joins_from_outside(cls) -> bool:
        """True if a run that is active in the training process can be written to from another process by its id."""
        return False

    # -- the run ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, run: RunInfo) -> OpenedRun:
        """Open, resume or join the tracker's run."""

    def abandon(self) -> None:  # most trackers make a store of their own, and have to come to an end with that
        """The process ends, and `open` has not returned. Called from another thread, once, before `open` is waited for: end what
        would go on opening the run beside whoever resumes it, unless something half made would stay."""

    @abstractmethod
    def close(self, status: Status) -> None:
        """Flush and end the run with this status; a borrowed run is flushed and left open."""

    def flush(self) -> None:  # most trackers have nothing to flush
        """Hand everything that was written to the tracker's storage or server."""

    def unsettled(self) -> int:
        """Return how many of the latest written events would be lost if this process, or one that it has started, were killed
        now. They are written again after that. Asked after each batch, from time to time until it is 0, and after `close`:
        what is not 0 then counts as missing. For a tracker with a server: what that has not acknowledged.

        Raises:
            UnsettledLostError: they are lost, as of `write`. So may `close`.
        """
        return 0

    def behind(self) -> str | None:
        """Return why the tracker does not take what it was handed, as its SDK would say; None if nothing is wrong. Asked as long
        as something is unsettled."""
        return None

    def may_settle(self) -> bool:
        """True if what is unsettled after `close` may still settle by itself: a run of the user's, which he has not ended yet."""
        return False

    def take_refused(self) -> list[Refusal]:
        """Return what was refused after `write` had returned, since the last time, at the latest when it is not `unsettled`."""
        return []

    @property
    def handle(self) -> Any:
        """The tracker's own run object, for ``session.native[name]``."""
        return None

    def is_transient(self, error: BaseException) -> bool:
        """True if the same write may succeed later: connection lost, timeout, server busy, database locked."""
        if isinstance(error, errors.EventRejectedError):
            return False
        if isinstance(error, (ConnectionError, TimeoutError)):
            return True
        if (type(error).__module__, type(error).__name__) == ("sqlite3", "OperationalError"):
            return any(word in str(error) for word in ("locked", "busy", "disk I/O", "unable to open", "full"))
        if isinstance(error, OSError):  # a full disk gets room, a name that is too long stays too long
            lasting = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
            return not lasting and error.errno not in (errno.ENAMETOOLONG, errno.EINVAL)
        return False

    def advice(self, error: BaseException) -> str:
        """Return what can be done about an error that keeps a run from being opened; empty if that is not known."""
        if isinstance(error, ImportError):
            return remedy(error)
        return self.credentials if is_refusal(str(error)) else ""

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        """Deliver `events` in order. After an exception, ``self.written`` tells how many leading ones arrived.

        Scalars that follow each other are delivered in one `log_scalars`, which must be all or nothing, or raise with
        `written` advanced by what it has delivered.
        """
        self.written = 0
        for kind, group in groupby(events, key=type):
            if kind is ev.Scalar:
                scalars = cast("list[ev.Scalar]", list(group))
                before = self.written
                self.log_scalars(scalars)
                self.written = before + len(scalars)
            else:
                # A type that is younger than the backend becomes files.
                log = getattr(self, f"log_{cast('type[ev.Event]', kind).kind}", self.attach_files)
                for event in group:
                    log(event)
                    self.written += 1

    @abstractmethod
    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        """Deliver scalars: float64 values, any order of steps, repeated steps and NaN included."""

    @abstractmethod
    def log_hparams(self, event: ev.HParams) -> None:
        """Parameters and summary metrics; a `trial` is a child run of its own, opened on first sight, closed at once
        or with the session."""

    @abstractmethod
    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        """Attach a file to the run.

        Args:
            path: relative, ASCII, slashes for folders, unique within the run; the same event gives the same path.
            data: the file's content.
            event: what it shows.
        """

    def attach_path(self, path: str, file: str, event: ev.Event) -> None:
        """Attach a file that may be larger than memory: a tracker that takes files by their place overrides this.

        Args:
            path: as of `attach`.
            file: where the content is, absolute. Its name says nothing; it may be gone when this has returned.
            event: what it is a part of.
        """
        with open(file, "rb") as content:
            self.attach(path, content.read(), event)

    def log_histogram(self, event: ev.Histogram) -> None:
        self.attach_files(event)

    def log_image(self, event: ev.Image) -> None:
        self.attach_files(event)

    def log_video(self, event: ev.Video) -> None:
        self.attach_files(event)

    def log_audio(self, event: ev.Audio) -> None:
        self.attach_files(event)

    def log_text(self, event: ev.Text) -> None:
        self.attach_files(event)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        self.attach_files(event)

    def log_mesh(self, event: ev.Mesh) -> None:
        self.attach_files(event)

    def log_embedding(self, event: ev.Embedding) -> None:
        self.attach_files(event)

    def log_tensor(self, event: ev.Tensor) -> None:
        self.attach_files(event)

    def log_graph(self, event: ev.Graph) -> None:
        self.attach_files(event)

    def log_custom_scalars(self, event: ev.CustomScalars) -> None:
        self.attach_files(event)

    def log_table(self, event: ev.Table) -> None:
        self.attach_files(event)

    def log_artifact(self, event: ev.Artifact) -> None:
        """Attach the files of `event` under their names, in the folder ``artifacts``. A later artifact of a name replaces it."""
        folder = files.FOLDERS[ev.Artifact.kind]
        for file in event.files:
            self.check_kept(file)
            self.attach_path(f"{folder}/{self._artifact_paths(file.path)}", file.at, event)

    def log_model(self, event: ev.Model) -> None:
        """As `log_artifact`. A tracker with a registry of models registers it as well."""
        self.log_artifact(event)

    def log_tags(self, event: ev.Tags) -> None:
        self.attach_files(event)

    def log_alert(self, event: ev.Alert) -> None:
        self.attach_files(event)

    def log_blob(self, event: ev.Blob) -> None:
        self.attach_files(event)

    def log_marker(self, event: ev.Marker) -> None:
        """TensorBoard's own book-keeping; only a backend with `mirrors_event_files` gets it."""

    # -- help for backends ------------------------------------------------------------------------------------------

    def attach_files(self, event: ev.Event) -> None:
        """Render `event` to ordinary files and attach them."""
        for path, data in self.files_of(event):
            self.attach(path, data, event)

    def files_of(self, event: ev.Event) -> Iterator[tuple[str, bytes]]:
        """Yield (artifact path, content) of the files that show `event`: ``images/<tag>/step=00000007_1a2b3c4d.png``."""
        stem = self.artifact_stem(event)
        for suffix, data in files.render(event):
            yield stem + suffix, data

    def artifact_stem(self, event: ev.Event) -> str:
        """Return the artifact path of `event` without suffix: unique for each event, the same after a restart.

        ``=`` never stands in a mapped tag, so no tag can take the place of another tag's file or folder.
        """
        record = f"{event.record.file}\0{event.record.position}\0{event.record.index}"
        digest = hashlib.blake2s(record.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        return f"{files.FOLDERS[event.kind]}/{self._paths(event.path)}/step={event.step:08d}_{digest}"

    def ended_at(self) -> float:
        """Return when the run ended, in seconds since the epoch."""
        return time.time() if self.ended is None else self.ended

    @staticmethod
    def iso_time(seconds: float) -> str | None:
        """Return a time as ISO 8601 has it, UTC, to the second; None for one that a date cannot express."""
        try:
            return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
        except (ValueError, OverflowError, OSError):
            return None

    @staticmethod
    def check_kept(file: ev.ArtifactFile) -> None:
        if not os.path.exists(file.at):
            raise errors.EventRejectedError(f"{file.path} is kept no longer: every tracker of its session had it")

    @staticmethod
    def wall_time_ms(event: ev.Event) -> int:
        """Return the wall time in whole milliseconds since the epoch; 0 for NaN, infinities and negatives."""
        return round(event.wall_time * 1000) if math.isfinite(event.wall_time) and 0 < event.wall_time < 9e15 else 0
