"""One SwanLab run, written to through its core: the only code that writes to it.

Delivery. `Run.log` of the SDK queues a value for a thread that swallows every error and takes its own clock for the time. So
records go straight to the run's core, the interface that this thread calls too (`swanlab.sdk.protocol.CoreProtocol`):
they carry TensorBoard's wall time (to the nanosecond; one outside of the years 1 to 9999 becomes 0), they fail here if
they fail, and they are in the file before the backend's `write` returns.

Points. SwanLab keeps one value a key and step, the first, and drops later ones silently; steps are 0 to 2**48
(`core_python.metrics.BaseMetric`). So a repeated step goes to ``loss (repeat 1)``, and after `REPEATS` of them, as
well as for a step that SwanLab does not have, to ``loss (more)``, whose step counts the points, while
``loss (more: step)`` has TensorBoard's step (in ``(more: rest)`` what float64 cannot hold of it; for media it is the
caption). What is taken already is asked of the core, so this costs no memory, and a resumed run is continued rightly.
NaN and infinities are exact in the file, but the service is sent "nan" for all three (`transport.sender`):
``loss (infinity)`` has the sign.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import shlex
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Program, Status
from tracelet_shim.backends.shared.files import copy
from tracelet_shim.backends.shared.places import Places
from tracelet_shim.backends.shared.seen import Seen
from tracelet_shim.backends.swanlab.earlier_uploads import EarlierUploads
from tracelet_shim.backends.swanlab.limits import MAX_STEP, REPEATS
from tracelet_shim.backends.swanlab.process import one_at_a_time
from tracelet_shim.backends.swanlab.times import set_time, timestamp
from tracelet_shim.backends.swanlab.uploads import Uploads, sync_command
from tracelet_shim.backends.swanlab.versions import config_record, metadata_record, tells_results

__all__ = ["NAMES", "Run"]

BUFFER = 1 << 22  # holds more than one batch, so that a full disk shows when a batch is flushed, not within a record
TOGETHER = 500  # scalars handed to the core at a time: much less than BUFFER
NAMES = "tracelet/names.jsonl"

_STATES = {"finished": ("success", None), "failed": ("crashed", "the program failed"), "killed": ("aborted", "killed")}


class Run:
    """One SwanLab run.

    Args:
        run: the SDK's object.
        own: False for a run of the user's.

    Attributes:
        sdk, core: the SDK's objects.
        id, mode: what the SDK calls them.
        dir: the run's directory.
        about: what the config has under ``tracelet``.
        latest: the time of what a trial got last.
        long_tags: how many of the tags were longer than this version takes.
        seen: points that earlier sessions have stored, and that may come again.
        uploads: what the service has of it.
    """

    def __init__(self, run: Any, *, own: bool = True) -> None:
        from google.protobuf.timestamp_pb2 import Timestamp
        from swanlab.proto.swanlab.metric.column.v1.column_pb2 import ColumnType
        from swanlab.proto.swanlab.metric.data.v1 import data_pb2
        from swanlab.sdk.internal.pkg import adapter

        self.sdk = run
        self.core = core = run._core
        self.id, self.mode = str(run.id), str(run.mode)
        self.dir = Path(run.dir)
        self.about: dict[str, Any] = {}
        self.long_tags = 0
        self.latest = 0.0
        self.seen = Seen()
        self._types, self._data, self._timestamp, self._media = ColumnType, data_pb2, Timestamp, adapter.medium
        self._scalar = ColumnType.COLUMN_TYPE_SCALAR
        self._together = TOGETHER if own else 1
        self._places = Places(REPEATS)
        if not hasattr(core._metrics, "get") or not hasattr(core._store, "ensure_flushed"):
            raise errors.BackendError("this version of swanlab stores points in an unknown way; known: 0.10")
        self._lock = one_at_a_time(core)
        self.uploads = Uploads(core, own=own) if tells_results() else EarlierUploads(core, own=own)
        if own:
            name = core._store._fp.name
            core._store._fp.close()
            core._store._fp = open(name, "ab", buffering=BUFFER)  # noqa: SIM115 - the SDK closes it

    @property
    def url(self) -> str:
        return str(self.sdk.url)

    @property
    def alive(self) -> bool:
        return bool(self.sdk.alive)

    @property
    def config(self) -> Mapping[str, Any]:
        known: Mapping[str, Any] = self.sdk.config
        return known

    def limits(self) -> Iterator[tuple[str, str]]:
        """Return (kind, text) of what this version of SwanLab cannot do, for the user."""
        if self.long_tags:
            yield "tags", f"{self.long_tags} of the tags are longer than the installed SwanLab takes: they are in the config only"

    # -- points -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def of(self, event: ev.Event) -> Iterator[None]:
        """What is written within this is of this event."""
        with self._lock:
            before = self.core._counter.value
            yield
            self.uploads.handed(before, [event])

    def scalars(self, points: Iterable[tuple[ev.Scalar, str, int]], taken: set[tuple[Any, ...]]) -> None:
        """Store points, each with its key and step, in order; the records of what is stored go to `taken`.

        Raises:
            EventRejectedError: SwanLab did not take one. Points behind it may have been stored.
        """
        metrics, scalar = self.core._metrics, self._scalar
        make, number, stamp = self._data.ScalarRecord, self._data.ScalarValue, self._timestamp
        waiting: dict[tuple[str, int], tuple[ev.Scalar, Any, Any]] = {}  # (key, step) -> event, record, metric
        seen = bool(self.seen)
        with self._lock:
            for event, key, step in points:
                value, wall_time = event.value, event.wall_time
                metric = metrics.get(key)
                if (
                    not seen
                    and metric is not None
                    and metric.column_type == scalar
                    and metric.min_step < step <= MAX_STEP
                    and step >= 0
                    and step not in metric.steps
                    and (key, step) not in waiting
                    and not math.isinf(value)
                ):  # what `scalar` would do, for many at a time
                    seconds, nanos = timestamp(wall_time)
                    when = stamp(seconds=seconds, nanos=nanos)
                    record = make(key=key, step=step, type=scalar, value=number(number=value), timestamp=when)
                    waiting[key, step] = event, record, metric
                    if len(waiting) < self._together:
                        continue
                    self._put_all(waiting, taken)
                else:
                    self._put_all(waiting, taken)
                    with self.of(event):
                        self.scalar(key, step, value, wall_time)
                    taken.add(event.record)
                    seen = bool(self.seen)
                waiting = {}
            self._put_all(waiting, taken)

    def _put_all(self, waiting: Mapping[tuple[str, int], tuple[ev.Scalar, Any, Any]], taken: set[tuple[Any, ...]]) -> None:
        if not waiting:
            return
        records = [record for _, record, _ in waiting.values()]
        before = self.core._counter.value
        self.core.upsert_scalars(records)
        stored, refused = [], None
        for (key, step), (event, _, metric) in waiting.items():
            if step in metric.steps:
                taken.add(event.record)
                stored.append(event)
            elif refused is None:
                refused = key, step
        self.uploads.handed(before, stored)
        if refused is not None:
            self._check(*refused)
        self.sdk._callbacker.on_scalar_flush(records)

    def scalar(self, key: str, step: int, value: float, wall_time: float) -> None:
        """Store a point where SwanLab takes it."""
        when = timestamp(wall_time)
        if self.seen.take((key, *when, struct.pack("<d", value))):
            return
        place, at = self._place(key, self._types.COLUMN_TYPE_SCALAR, step)
        self._put(place, at, value, when)
        if place.endswith(" (more)"):
            near = float(step)
            self._put(f"{place[:-1]}: step)", at, near, when)
            if rest := step - int(near):
                self._put(f"{place[:-1]}: rest)", at, float(rest), when)
        if math.isinf(value):
            self._put(f"{place} (infinity)", at, math.copysign(1.0, value), when)

    def _put(self, key: str, step: int, value: float, when: tuple[int, int]) -> None:
        record = self._data.ScalarRecord(
            key=key, step=step, type=self._types.COLUMN_TYPE_SCALAR, value=self._data.ScalarValue(number=value),
            timestamp=self._timestamp(seconds=when[0], nanos=when[1]),
        )  # fmt: skip
        self.core.upsert_scalars([record])
        self._check(key, step)
        self.sdk._callbacker.on_scalar_flush([record])

    def media(self, key: str, kind: str, step: int, items: Sequence[tuple[str, bytes]], wall_time: float) -> bool:
        """Store a media record: `kind` is SwanLab's name of the type, `items` are (suffix, content). Return that there is one."""
        when = timestamp(wall_time)
        digests = [hashlib.sha256(data).hexdigest() for _, data in items]
        if self.seen.take((key, *when, *digests)):
            return True
        column = self._media[kind]
        place, at = self._place(key, column, step)
        folder = self.dir / "media" / kind
        entries = []
        for (suffix, data), digest in zip(items, digests, strict=True):
            entry = self._data.MediaItem(
                filename=f"{at:03d}-{digest[:16]}.{suffix}", sha256=digest, size=len(data),
                caption=f"step {step}" if place.endswith(" (more)") else "",
            )  # fmt: skip
            if getattr(self.core._ctx.config, "skip_store", False):  # a run of the user's that keeps nothing on disk
                entry.payload = data
            else:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / entry.filename).write_bytes(data)
            entries.append(entry)
        record = self._data.MediaRecord(
            key=place, step=at, type=column, value=self._data.MediaValue(items=entries),
            timestamp=self._timestamp(seconds=when[0], nanos=when[1]),
        )  # fmt: skip
        self.core.upsert_media([record])
        self._check(place, at)
        self.sdk._callbacker.on_media_flush([record])
        return True

    def put_again(self, folder: Path, point: Any) -> None:
        """Deliver a point of an earlier session, whose directory is `folder`, that the service has not got."""
        if not hasattr(point.value, "items"):
            self.core.upsert_scalars([point])
            return
        for item in point.value.items:
            name = Path("media", self._media[point.type], item.filename)
            if (folder / name).is_file():
                (self.dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, self.dir / name)
        self.core.upsert_media([point])

    def _place(self, key: str, column: int, step: int) -> tuple[str, int]:
        """Return the key and step where SwanLab will take a point of `key` at `step`."""
        if 0 <= step <= MAX_STEP:
            for n in self._places.candidates(key, step):
                place = f"{key} (repeat {n})" if n else key
                metric = self.core._metrics.get(place)
                if metric is None:
                    return place, step
                fits = metric.column_type in (column, self._types.COLUMN_TYPE_UNSPECIFIED)
                if fits and step > metric.min_step and step not in metric.steps:
                    return place, step
                self._places.took(key, step, n)
        place = f"{key} (more)"
        metric = self.core._metrics.get(place)
        if metric is None:
            return place, 0
        return place, max(metric.min_step, metric.steps.max() if metric.steps else -1) + 1

    def _check(self, key: str, step: int) -> None:
        """The core tells nobody what it has dropped."""
        metric = self.core._metrics.get(key)
        if metric is None or step not in metric.steps:
            raise errors.EventRejectedError(f"SwanLab did not take {key[:80]!r} at step {step}")

    # -- config and files -------------------------------------------------------------------------------------------

    def set_config(self, values: Mapping[str, Any]) -> None:
        """Set entries of the config. It is handed over here, as points are: the SDK's own thread does so some time later, and
        until then nobody would know that it is still to be uploaded."""
        self.sdk.config.update(values)
        self.core.upsert_saves([config_record(self.sdk)])

    def note_names(self, whole: Mapping[str, str]) -> None:
        """Keep the whole of each name that had to be cut, one JSON line each."""
        if whole:
            self.append(NAMES, "".join(json.dumps(pair) + "\n" for pair in whole.items()).encode())

    def save(self, path: str, data: bytes) -> None:
        """Save a file with the run: a real one, since `swanlab.save` makes a link to a place that may go."""
        target = self.dir / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self._record_file(path, target, "now")

    def save_copy(self, path: str, file: str) -> None:
        """As `save`, of a file that is not read into memory."""
        target = self.dir / "files" / path
        copy(file, str(target))
        self._record_file(path, target, "now")

    def append(self, path: str, data: bytes) -> None:
        """Save a file that grows; it is uploaded when the run ends."""
        target = self.dir / "files" / path
        known = target.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            file.write(data)
        if not known:
            self._record_file(path, target, "end")

    def save_again(self, save: Any) -> None:
        """Upload a file of an earlier session's."""
        self.core.upsert_saves([save])

    def _record_file(self, path: str, target: Path, policy: str) -> None:
        from swanlab.proto.swanlab.save.v1.save_pb2 import SaveRecord
        from swanlab.sdk.internal.pkg import adapter

        source = str(target.absolute())
        self.core.upsert_saves([SaveRecord(name=path, source_path=source, policy=adapter.policy[policy])])

    def describe(self, program: Program) -> None:
        """Tell SwanLab which program runs: it would take its own process for that (`probe_python`)."""
        from swanlab.sdk.internal.probe_python.typings import MetadataSnapshot, RuntimeSnapshot

        program = program.readable()
        runtime = RuntimeSnapshot(
            os=platform.platform(), hostname=program.host, pid=program.pid, cwd=program.cwd,
            python_version=platform.python_version(), python_executable=program.executable,
            command=shlex.join([program.executable, *(["-m"] if program.module else []), *program.argv]),
        )  # fmt: skip
        found = self.sdk._probe._metadta_snapshot or MetadataSnapshot()
        text = found.model_copy(update={"runtime": runtime}).model_dump_json(by_alias=True)
        self.core.upsert_saves([metadata_record(text, self.sdk._ctx.metadata_file)])

    # -- the end ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        store = self.core._store
        if store is not None:  # None once the program has finished a run that it shares
            store.ensure_flushed()

    def waiting(self) -> int:
        """Return the number of records that the service has not taken yet."""
        return self.uploads.waiting()

    @property
    def remedy(self) -> str:
        """The command that uploads what is on disk."""
        return sync_command(self.id, self.dir)

    def log_here(self) -> None:
        """Send SwanLab's own diagnostic log, one a process, to this run's directory."""
        from swanlab.sdk.internal.pkg import console

        console.init(bind_to=self.sdk._ctx.debug_dir)

    def finish(self, status: Status, ended: float) -> str | None:
        """End the run as of a time; return what was not uploaded. May wait for the service without end."""
        watcher, (state, problem) = self.core._watcher, _STATES.get(status, ("crashed", status))
        deliver = self.core.deliver_run_finish

        def as_of(request: Any) -> Any:
            set_time(request.finish_record.finished_at, ended)
            return deliver(request)

        self.core.deliver_run_finish = as_of  # the SDK takes the time of now
        self.sdk.finish(state=state, error=problem)
        if watcher is not None:
            watcher._observer.stop()  # the SDK stops it only if it was used; it has a thread and an inotify handle
        if self.core._transport is not None:
            return self.uploads.missing()
        return "the end of the run" if self.core._pending_online_finish_record is not None else None
