"""TensorBoard: a second log directory, record for record the same as the first.

A record is copied, not made again: the serialised event goes unchanged into an event file of the same name, framed as
`tensorboard.summary.writer.record_writer` does it (length, masked CRC32C, data, masked CRC32C). So every plugin, known
or not, shows in the copy what it shows in the original.

* A run is one directory, ``<logdir>/<project>/<exp_name>``, with the session's id behind it where another run has that
  name; its absolute path is the run's id. An event file lies in it where the original lies under the session's root, or
  under the writer's name; so do the directories that `add_scalars` and `add_hparams` make.
* What TensorBoard keeps beside its event files is written again: the projector's files of `add_embedding`
  (`torch.utils.tensorboard._embedding`). What it could not write, the GIF of `add_video` without moviepy 1.x
  (`torch.utils.tensorboard.summary.make_video`), follows its empty record; another record, before it, makes the tag one
  of images.
* TensorBoard knows no run: ``run.json`` has names, tags, notes, configuration and status. Configuration, tags and notes,
  where somebody gave any, also stand in one small event file of ours, as an hparams session of the whole run and as texts
  under ``tracelet/``.
  No hparams ``Experiment`` goes with it, since TensorBoard shows the first that it finds, and would hide the user's.
* Every write has reached the operating system before it counts as delivered. Continuing a run after a crash needs no
  book: a record that comes again is found in the copy and skipped, a torn last record is overwritten.

The tensorboard package gives the protos; neither torch nor TensorFlow is imported.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, BinaryIO, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Backend, Capability, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.common.text import as_utf8, quoted
from tracelet_shim.eventfiles import tfrecord

__all__ = ["TensorBoardBackend"]

logger = logging.getLogger("tracelet_shim.backends.tensorboard")

RUN_FILE = "run.json"
EXTRA_FILES = "tracelet-files"
OPEN_FILES = 64

_STATE = ".tracelet"  # has event files of ours: they are named by their writer
_COMPONENT = r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[. ]+$"
_UNSAFE_TAG = re.compile(r"[%/\\\x00-\x1f\x7f\ud800-\udfff]|^\.+$")
_COPIED = Capability(Level.NATIVE, "the same record in the second event file, byte for byte")


class TensorBoardBackend(Backend):
    """Copies event files to a second log directory."""

    name = "tensorboard"
    module = "tensorboard"
    distribution = "tensorboard"
    options: ClassVar[Mapping[str, str]] = {
        "logdir": "directory that gets a directory for each run, <project>/<exp_name>; default: ./tracelet-runs",
        "flush_secs": "how often the copy is forced to disk, in seconds; default: 120, and at every flush",
    }
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        **dict.fromkeys(ev.EVENT_TYPES, _COPIED),
        ev.Scalar: Capability(Level.NATIVE, "the same record, byte for byte; TensorBoard itself rounds to float32"),
        ev.Video: Capability(Level.NATIVE, "the same record; the GIF as an image where TensorBoard wrote it empty"),
        ev.Embedding: Capability(Level.NATIVE, "the projector's files and its projector_config.pbtxt"),
        ev.HParams: Capability(Level.NATIVE, "the same records, trials in their own directories, in the HPARAMS tab"),
    }
    mirrors_event_files = True

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._logdir: str | None = self._path_option()
        self._flush_secs = self._seconds_option()
        self._dir = ""
        self._about: dict[str, Any] = {}
        self._own: _Copy | None = None
        self._root: str | None = None
        self._copies: dict[str, _Copy] = {}
        self._folders: dict[str, str] = {}
        self._taken: set[str] = set()
        self._handles: OrderedDict[str, BinaryIO] = OrderedDict()
        self._synced = time.monotonic()

    def _path_option(self) -> str | None:
        value = self.given.get("logdir")
        if value is None or value == "":
            return None
        path = os.fspath(value)
        if not isinstance(path, str) or "\0" in path or re.match(r"[A-Za-z][\w+.-]+://", path):
            raise errors.ConfigurationError(f"tensorboard: logdir={path!r} is no local directory")
        return os.path.expanduser(path)

    def _seconds_option(self) -> float:
        value = self.given.get("flush_secs", 120)
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = -1.0
        if not seconds >= 0:
            raise errors.ConfigurationError(f"tensorboard: flush_secs={value!r} is no number of seconds")
        return seconds

    # -- the run ------------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        import tensorboard.compat.proto.event_pb2  # noqa: F401 - fails here, not at the first write, if it is broken

        self._root = _normal(run.root) if run.root else None
        self._dir = self._run_directory(run)
        self._forbid_overlap(self._dir)
        os.makedirs(self._dir, exist_ok=True)
        before = _load(self._dir)
        given = {
            "exp_name": run.exp_name, "project": run.project, "run_id": run.run_id, "group": run.group,
            "tags": run.tags or None, "noticed": run.noticed or None, "notes": run.notes, "config": run.config or None,
        }  # fmt: skip
        self._about = {
            **before,
            **{key: value for key, value in given.items() if value is not None or key not in before},
            "status": "running",
            "sessions": [*(s for s in before.get("sessions", []) if s != run.session), run.session],
            "logdir": run.root and as_utf8(run.root),
            "program": run.program.readable().script or run.program.module,
            "started": before.get("started", run.started),
            "ended": None,
        }
        self._write_own()
        self._save()
        return OpenedRun(self._dir, f"tensorboard --logdir {quoted(self._dir)}")

    def _run_directory(self, run: RunInfo) -> str:
        """Return the directory of the run: the one to continue, or one that no other run has."""
        if run.resume:
            return os.path.abspath(run.resume)
        base = os.path.join(run.program.cwd, self._logdir or "tracelet-runs")
        if self._logdir is None and self._root is not None and _inside(base, self._root):  # SummaryWriter(".")
            base = os.path.join(os.path.dirname(self._root), "tracelet-runs")
        mapped = Names(_COMPONENT, 180, in_bytes=True)
        project = os.path.join(os.path.abspath(base), mapped(run.project or "default"))
        if run.run_id is not None:
            for name in sorted(os.listdir(project)) if os.path.isdir(project) else ():
                if _load(os.path.join(project, name)).get("run_id") == run.run_id:
                    return os.path.join(project, name)
        directory = os.path.join(project, mapped(run.exp_name or run.run_id or run.session))
        self._forbid_overlap(directory)  # before anything is made there
        try:
            os.makedirs(directory)
        except FileExistsError:
            about = _load(directory)
            same = run.run_id is not None and about.get("run_id") == run.run_id  # made by a parallel session just now
            if not same and run.session not in about.get("sessions", []):
                return f"{directory}-{run.session}"
        return directory

    def _forbid_overlap(self, directory: str) -> None:
        """Refuse a copy that lies in the original or round it: TensorBoard would show everything twice."""
        root = self._root
        if root is not None and (_inside(directory, root) or _inside(root, directory)):
            raise errors.ConfigurationError(
                f"tensorboard: the copy ({directory}) and the log directory that is copied ({root}) must not lie in"
                f" each other; remedy: options={{'tensorboard': {{'logdir': <a directory elsewhere>}}}}"
            )

    def flush(self) -> None:
        """Force what was written to disk."""
        for handle in self._handles.values():
            os.fsync(handle.fileno())
        self._synced = time.monotonic()

    def close(self, status: Status) -> None:
        if self._own is not None and self._about.get("config"):
            from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

            code = api_pb2.STATUS_SUCCESS if status == "finished" else api_pb2.STATUS_FAILURE
            end = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=self.ended_at())
            self._append(self._own, [_hparams("_hparams_/session_end_info", self.ended_at(), session_end_info=end)])
        self.flush()
        while self._handles:
            self._handles.popitem()[1].close()
        self._about.update(status=status, ended=self.ended_at())
        self._save()

    @property
    def handle(self) -> str:
        """The run's directory."""
        return self._dir

    def _save(self) -> None:
        _replace(os.path.join(self._dir, RUN_FILE), json.dumps(self._about, indent=1, default=str).encode())

    def _write_own(self) -> None:
        """Write the event file that shows configuration, tags and notes in TensorBoard; only if there are any.

        It is written anew when a run is continued: TensorBoard keeps the first hparams status of a directory, which
        would be that of the session that crashed.
        """
        about = self._about
        given = {name: value for name, value in (about.get("tags") or {}).items() if name not in (about.get("noticed") or ())}
        texts = {"tracelet/notes": about.get("notes"), "tracelet/tags": _table(given)}
        started = about["started"]
        records = [_text(tag, text, started) for tag, text in texts.items() if text]
        if about.get("config"):
            records.append(_session_start(about["config"], about.get("group") or "", started))
        if records:
            name = f"events.out.tfevents.{int(started):010d}.tracelet"
            self._own = _Copy(os.path.join(self._dir, name))
            data = tfrecord.joined([_file_version(started), *records])
            _replace(self._own.path, data)
            self._own.size = len(data)

    # -- records ------------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        """Copy the records of `events`, one system call for all that follow each other in one event file."""
        self.written = 0
        for file, group in groupby(events, key=attrgetter("record.file")):
            of_file = list(group)
            self._write_file(file, of_file)
            self.written += len(of_file)
        if time.monotonic() - self._synced > self._flush_secs:
            self.flush()

    def _write_file(self, file: str, events: list[ev.Event]) -> None:
        copy = self._copies.get(file)
        if copy is None:
            copy = self._copies[file] = self._new_copy(events[0])
        last = copy.last
        records: list[bytes] = []
        for event in events:
            position = event.record.position
            if event.source or isinstance(event, ev.Marker):
                empty = event if isinstance(event, ev.Video) and _is_empty(event) else None
                if position != last:
                    if last is None and position > 0 and copy.is_new:  # TensorBoard purges steps without a version
                        records.append(_file_version(event.wall_time))
                    if empty is not None:
                        records.append(_declared_image(empty))
                    records.append(event.source)
                    last = position
                if empty is not None:
                    records.append(_video(empty))
            elif isinstance(event, ev.Embedding):
                self._write_embedding(event)
            else:  # no other event lacks its record; nothing is dropped if one does
                self.attach_files(event)
        self._append(copy, records)
        copy.last = last

    def _append(self, copy: _Copy, records: list[bytes]) -> None:
        """Write records behind what the copy has. The copy grows only if all was written; a torn end is overwritten."""
        if not records:
            return
        handle = self._handle(copy)
        if copy.cursor is not None:
            records = _missing(handle, copy, records)
        data = memoryview(tfrecord.joined(records))
        handle.seek(copy.size)
        done = 0
        while done < len(data):
            done += handle.write(data[done:]) or 0
        copy.size += len(data)

    def _handle(self, copy: _Copy) -> BinaryIO:
        """Return the copy's open file; at most `OPEN_FILES` are open, whatever the number of writers."""
        handle = self._handles.get(copy.path)
        if handle is not None:
            self._handles.move_to_end(copy.path)
            return handle
        while len(self._handles) >= OPEN_FILES:
            self._handles.popitem(last=False)[1].close()
        os.makedirs(os.path.dirname(copy.path), exist_ok=True)
        descriptor = os.open(copy.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        handle = self._handles[copy.path] = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 - kept
        return handle

    def _new_copy(self, event: ev.Event) -> _Copy:
        file = os.path.basename(event.record.file)
        name = file if "tfevents" in file else f"events.out.tfevents.{file}"  # TensorBoard reads no other names
        copy = _Copy(os.path.join(self._dir, self._folder(event), name))
        if os.path.exists(copy.path):  # from an earlier session of this run
            with open(copy.path, "rb") as existing:
                copy.size = max((start + length + 4 for start, length in _spans(existing)), default=0)
            copy.is_new = copy.size == 0
            copy.cursor = 0
        return copy

    def _folder(self, event: ev.Event) -> str:
        """Return where the event's directory lies in the copy; no two directories share a place."""
        source = _normal(os.path.dirname(event.record.file))
        if source not in self._folders:
            parts = [part for part in self._place(source, event.writer).split("/") if part not in ("", ".", "..")]
            place = "/".join(parts)
            itself = os.path.realpath(os.path.join(self._dir, place)) == os.path.realpath(source)
            if itself or place in self._taken or place.startswith((RUN_FILE, EXTRA_FILES)):
                place = f"{place or 'root'}_{hashlib.blake2s(os.fsencode(source), digest_size=4).hexdigest()}"
            if _inside(self._dir, source):
                logger.warning("the copy %s lies in the original %s: TensorBoard shows both there", self._dir, source)
            self._folders[source] = place
            self._taken.add(place)
        return self._folders[source]

    def _place(self, source: str, writer: str) -> str:
        inside = self._root is not None and f"{source}/".startswith(f"{self._root.rstrip('/')}/")
        if inside and self._root is not None and _STATE not in source.split("/"):
            return source[len(self._root) :]
        if writer and source.endswith(f"/{writer}"):
            return writer
        # A directory that add_scalars or add_hparams made below the writer's.
        above = os.path.dirname(source)
        while above not in self._folders and above != os.path.dirname(above):
            above = os.path.dirname(above)
        if above in self._folders:
            return f"{self._folders[above]}/{source[len(above) :]}"
        below = source.rpartition(f"/{writer}/")[2] if writer and f"/{writer}/" in source else ""
        return f"{writer}/{below}"

    # -- what is no record --------------------------------------------------------------------------------------------

    def _write_embedding(self, event: ev.Embedding) -> None:
        from google.protobuf import text_format
        from tensorboard.plugins.projector import projector_config_pb2

        folder = os.path.join(self._dir, self._folder(event))
        step = str(event.step).zfill(5)
        relative = f"{step}/{_encode_tag(event.tag)}"
        os.makedirs(os.path.join(folder, relative), exist_ok=True)
        tag = _utf8(event.tag)
        info = projector_config_pb2.EmbeddingInfo(tensor_name=f"{tag}:{step}")
        for suffix, data in files.render(event):
            name = suffix.removeprefix(".")
            _replace(os.path.join(folder, relative, name), data)
            if name == "tensors.tsv":
                info.tensor_path = f"{relative}/{name}"
            elif name == "metadata.tsv":
                info.metadata_path = f"{relative}/{name}"
            elif name == "sprite.png":
                info.sprite.image_path = f"{relative}/{name}"
                info.sprite.single_image_dim.extend(event.sprite_size or ())
        path = os.path.join(folder, "projector_config.pbtxt")
        config = projector_config_pb2.ProjectorConfig()
        if os.path.exists(path):
            with open(path, encoding="utf-8") as existing:
                text_format.Parse(existing.read(), config)
        others = [other for other in config.embeddings if other.tensor_path != info.tensor_path]
        del config.embeddings[:]
        config.embeddings.extend([*others, info])
        _replace(path, text_format.MessageToString(config).encode())

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        target = os.path.join(self._dir, EXTRA_FILES, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _replace(target, data)

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        self.write(events)

    def log_hparams(self, event: ev.HParams) -> None:
        self.write([event])


class _Copy:
    """One event file of the copy.

    Attributes:
        path: where it is.
        size: bytes of whole records that it has.
        last: position in the original of the latest record; None before the first.
        cursor: how far records that come again were recognised; None if none can come again.
        is_new: True if no earlier session wrote to it.
    """

    __slots__ = ("cursor", "is_new", "last", "path", "size")

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.last: int | None = None
        self.cursor: int | None = None
        self.is_new = True


# -- the record format ------------------------------------------------------------------------------------------------


def _spans(file: BinaryIO, offset: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (offset of the data, length) of every whole record from `offset` on."""
    size = os.fstat(file.fileno()).st_size
    while offset + 16 <= size:
        file.seek(offset)
        start = file.read(12)
        (length,) = struct.unpack("<Q", start[:8])
        if offset + 16 + length > size or start != tfrecord.header(length):
            return
        yield offset + 12, length
        offset += 16 + length


def _missing(file: BinaryIO, copy: _Copy, records: list[bytes]) -> list[bytes]:
    """Return the records that the copy does not have yet.

    Records come again in the order in which the copy has them; so the first that is not found ends the search.
    """
    for done, record in enumerate(records):
        spans = ((start, length) for start, length in _spans(file, copy.cursor or 0) if start + length + 4 <= copy.size)
        for start, length in spans:
            if length == len(record):
                file.seek(start)
                if file.read(length) == record:
                    copy.cursor = start + length + 4
                    break
        else:
            copy.cursor = None
            return records[done:]
    return []


# -- protos -----------------------------------------------------------------------------------------------------------


def _event(wall_time: float, **what: Any) -> bytes:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event(wall_time=wall_time, **what).SerializeToString()  # type: ignore[no-any-return]


def _file_version(wall_time: float) -> bytes:
    return _event(wall_time, file_version="brain.Event:2")


def _is_empty(event: ev.Video) -> bool:
    from tensorboard.compat.proto import event_pb2

    values = event_pb2.Event.FromString(event.source).summary.value
    index = event.record.index
    return index < len(values) and values[index].WhichOneof("value") is None


def _declared_image(event: ev.Video) -> bytes:
    """Return a record without a value that makes its tag one of images.

    What TensorBoard shows of a tag is settled by its first record, and the empty one would settle on nothing.
    """
    from tensorboard.compat.proto import summary_pb2

    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="images")
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin, data_class=summary_pb2.DATA_CLASS_BLOB_SEQUENCE)
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=event.tag, metadata=metadata)])
    return _event(event.wall_time, step=event.step, summary=summary)


def _video(event: ev.Video) -> bytes:
    from tensorboard.compat.proto import summary_pb2

    size = {"width": event.width, "height": event.height, "colorspace": 3}
    image = summary_pb2.Summary.Image(**size, encoded_image_string=event.data)
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=event.tag, image=image)])
    return _event(event.wall_time, step=event.step, summary=summary)


def _text(tag: str, text: str, wall_time: float) -> bytes:
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2

    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
    tensor = tensor_pb2.TensorProto(
        dtype="DT_STRING", string_val=[_utf8(text).encode()], tensor_shape=shape
    )
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
    value = summary_pb2.Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
    return _event(wall_time, summary=summary_pb2.Summary(value=[value]))


def _utf8(text: str) -> str:
    """Return `text` with what UTF-8 cannot hold (lone surrogates) as escapes: a proto takes nothing else."""
    return text.encode("utf-8", "backslashreplace").decode()


def _table(tags: Mapping[str, str]) -> str:
    """Return tags as a Markdown table."""
    rows = [f"| {_cell(name)} | {_cell(value)} |\n" for name, value in tags.items()]
    return "".join(["| tag | value |\n|---|---|\n", *rows]) if rows else ""


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _hparams(tag: str, wall_time: float, **data: Any) -> bytes:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = plugin_data_pb2.HParamsPluginData(version=0, **data).SerializeToString()
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    value = summary_pb2.Summary.Value(tag=tag, metadata=summary_pb2.SummaryMetadata(plugin_data=plugin))
    return _event(wall_time, summary=summary_pb2.Summary(value=[value]))


def _session_start(config: Mapping[str, Any], group: str, started: float) -> bytes:
    """Return the hparams session of the whole run; what is neither a number nor a text becomes JSON text."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    info = plugin_data_pb2.SessionStartInfo(start_time_secs=started, group_name=group)
    for key, value in config.items():
        field = info.hparams[_utf8(str(key))]
        if isinstance(value, bool):
            field.bool_value = value
        elif isinstance(value, float) or (isinstance(value, int) and abs(value) <= 2**53):
            field.number_value = value
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            field.string_value = _utf8(text)
    return _hparams("_hparams_/session_start_info", started, session_start_info=info)


# -- paths ------------------------------------------------------------------------------------------------------------


def _normal(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _inside(path: str, directory: str) -> bool:
    """True if `path` is `directory` or lies in it, symbolic links resolved."""
    path, directory = os.path.realpath(path), os.path.realpath(directory)
    return path == directory or path.startswith(f"{directory.rstrip(os.sep)}{os.sep}")


def _encode_tag(tag: str) -> str:
    """Return the directory name that `SummaryWriter.add_embedding` gives a tag; where that is no safe name, a safe one.

    ``%`` stands in the result only where it begins an escape, so the names made here are those of no other tag.
    """

    def escape(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02x}" for byte in match.group().encode("utf-8", "surrogatepass"))

    name = _UNSAFE_TAG.sub(escape, tag)
    if not name:
        return "%empty"
    if len(name.encode()) <= 200:
        return name
    digest = hashlib.blake2s(tag.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{name.encode()[:160].decode(errors='ignore')}%h{digest}"


def _load(directory: str) -> dict[str, Any]:
    """Return the run.json of a directory, empty if there is none."""
    try:
        with open(os.path.join(directory, RUN_FILE), encoding="utf-8") as file:
            about = json.load(file)
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _replace(path: str, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)
