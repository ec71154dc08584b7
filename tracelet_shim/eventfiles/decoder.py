"""Event proto -> typed events: the only translation there is.

The live path and the replay of event files share it, so whatever works live works for an old log directory too. Live
records bring hints that the proto has lost (the exact float64, the key of `add_scalars`, ...); a replayed record has
none, and the layout of the log directory is read instead.

Newer TensorFlow programs write scalars, images, audio and histograms as tensors with a plugin name; both forms become
the same events.
"""

from __future__ import annotations

import contextlib
import io
import math
import os.path
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles import add_scalars
from tracelet_shim.eventfiles.writer_names import WriterNames

__all__ = ["Decoder"]

_TEXT_SUFFIX = "/text_summary"
_MOST_CURVES = 20_000
_MOST_REPEATED = 1 << 26  # numbers that a tensor may have for which one stands
_DOUBLE = struct.Struct("<d")
_TIME_KEY, _STEP_KEY, _VALUE_KEY = 0x09, 0x10, 0x15
"""Of an event's time and step, and of a summary value's number (``event.proto``, ``summary.proto``)."""

_Curve = tuple[str, str, str, "str | None", str]
"""What is the same for all values of a scalar: event file, writer, tag, series, suffix."""

_NOTHING_OPEN: tuple[int, set[str], str | None] = (-1, set(), None)

_tuple = tuple.__new__  # RecordId's own takes three times as long


class Decoder:
    """Turns records into events.

    Args:
        names: the naming rule of the session.

    Of an event file that is replayed (`messages.Source.replay`), keys of `add_scalars` (where its `parent` says that it has
    been made by that) and the nested directories of `add_hparams` are recognised by their names.
    """

    def __init__(self, names: WriterNames) -> None:
        self._names = names
        self._sources: dict[int, msg.Source] = {}
        self._plugins: dict[tuple[int, str], str] = {}
        self._trials = _Trials(lambda source: self._home(source) if source.replay else source.logdir)
        self._paths = _Paths()
        self._curves: dict[tuple[int, bytes, str | None], _Curve] = {}

    def add_source(self, source: msg.Source) -> None:
        """Take note of an event file; its writer gets its name now, in the order of creation."""
        self._sources[source.id] = source
        self._names(source.parent or source.logdir)
        self._curves.clear()

    def source(self, number: int) -> msg.Source:
        return self._sources[number]

    def learn(self, source: int, data: bytes) -> None:
        """Take note of what a record, that an earlier decoder has had, says about later ones: TensorFlow names the plugin
        of a tag in its first value only."""
        with contextlib.suppress(Exception):  # protobuf's DecodeError has no stable import path: a damaged record
            for value in _event_class().FromString(data).summary.value:
                if value.metadata.plugin_data.plugin_name:
                    self._plugins[source, value.tag] = value.metadata.plugin_data.plugin_name

    def new_paths(self) -> list[tuple[str, str, str, str | None, str]]:
        """Return the paths given since the last time, for the ledger: (path, writer, tag, series, suffix)."""
        return self._paths.take_new()

    def restore_paths(self, paths: list[tuple[str, str, str, str | None, str]]) -> None:
        """Take over the paths that an earlier decoder of this session had given."""
        for path in paths:
            self._paths.remember(*path)
        self._curves.clear()

    def new_trials(self) -> list[tuple[int, int, str | None, dict[str, Any]]]:
        """Return which hparams have been told apart since the last time: (source, position, trial, params)."""
        return self._trials.take_new()

    def restore_trials(self, trials: list[tuple[int, int, str | None, dict[str, Any]]]) -> None:
        """Take over what an earlier decoder of this session had told apart."""
        for trial in trials:
            self._trials.remember(*trial)

    def decode(self, records: Iterable[msg.Record]) -> tuple[list[ev.Event], list[int]]:
        """Return the events of records, in order, and how many each record has; decoding one again gives the same.

        A record that cannot be decoded becomes one `Blob` with its bytes. One without data has no events.

        Nearly everything that is logged differs from an earlier record in time, step and value only; that takes a tenth of the
        time of any other record.
        """
        events: list[ev.Event] = []
        counts: list[int] = []
        add, count, curve_of = events.append, counts.append, self._curves.get
        scalar, unpack, record_id = ev.Scalar, _DOUBLE.unpack_from, ev.RecordId
        end, step_bytes, step = 10, b"", 0  # of the record before: often it is the same step
        for record in records:
            data, value, hint = record.data, record.value, record.hint
            curve = None
            if value is not None and data and data[0] == _TIME_KEY:
                if data[9:end] != step_bytes or not step_bytes:
                    end = _behind_step(data)
                    step_bytes, step = data[9:end], _varint(data[10:end])
                if end:
                    curve = curve_of((record.source, data[end:-4], hint.key if type(hint) is msg.Series else None))
            if curve is None or data is None or value is None:
                others = self._events_of(record)
                events += others
                count(len(others))
                continue
            file, writer, tag, series, suffix = curve
            add(scalar(
                writer=writer, tag=tag, step=step, wall_time=unpack(data, 1)[0],
                record=_tuple(record_id, (file, record.position, 0)), suffix=suffix, source=data, value=value, series=series,
            ))  # fmt: skip
            count(1)
        return events, counts

    def _events_of(self, record: msg.Record) -> tuple[ev.Event, ...]:
        source = self._sources[record.source]
        hint = record.hint
        logdir = source.parent or source.logdir
        if isinstance(hint, msg.Embedded):
            return (_embedding(hint, self._names(logdir), ev.RecordId(source.path, record.position)),)
        data = record.data
        if data is None:
            return ()
        try:
            event = _event_class().FromString(data)
        except Exception:  # protobuf's DecodeError has no stable import path across its implementations
            broken = ev.RecordId(source.path, record.position)
            base = {"writer": self._names(logdir), "tag": "", "step": 0, "wall_time": 0.0}
            return (ev.Blob(**base, record=broken, source=data, data=data, name="damaged_event.pb"),)  # type: ignore[arg-type]
        if source.replay and record.position > 1:  # before, it is not known yet, and there is book-keeping only
            logdir = self._trials.home(source) or logdir
        writer = self._names(logdir)
        events = tuple(self._paths.distinct(e) for e in self._events(record, event, source, writer, data))
        if record.value is not None and not source.replay and len(events) == 1 and isinstance(events[0], ev.Scalar):
            self._remember(record, event, events[0])
        return events

    def _remember(self, record: msg.Record, event: Any, scalar: ev.Scalar) -> None:
        """Take note of what the bytes of a scalar say beside time, step and value, if they say nothing else."""
        if record.hint is not None and not isinstance(record.hint, msg.Series):
            return
        bare = _event_class()(wall_time=event.wall_time, step=event.step)
        bare.summary.value.add(tag=scalar.tag, simple_value=event.summary.value[0].simple_value)
        data = scalar.source
        end = _behind_step(data)
        if not end or data[0] != _TIME_KEY or data[-5] != _VALUE_KEY or bare.SerializeToString() != data:
            return
        if len(self._curves) >= _MOST_CURVES:  # a program that makes up tags
            self._curves.clear()
        curve = scalar.record.file, scalar.writer, scalar.tag, scalar.series, scalar.suffix
        self._curves[record.source, data[end:-4], scalar.series] = curve

    def _home(self, source: msg.Source) -> str | None:
        """Return the nearest directory, from that of `source` upwards, with the event file of a writer. None: there is
        none beside this one, so `add_hparams` has not made it."""
        writers = {
            s.logdir for s in self._sources.values()
            if s.id != source.id and self._trials.home(s) in (None, s.logdir)
        }  # fmt: skip
        directory = source.logdir
        while directory not in writers:
            parent = os.path.dirname(directory)
            if parent == directory:
                return None
            directory = parent
        return directory

    def _events(self, record: msg.Record, event: Any, source: msg.Source, writer: str, data: bytes) -> Iterator[ev.Event]:
        what = event.WhichOneof("what")

        def base(tag: str, index: int = 0) -> dict[str, Any]:
            return {
                "writer": writer, "tag": tag, "step": event.step, "wall_time": event.wall_time,
                "record": ev.RecordId(source.path, record.position, index), "source": data,
            }  # fmt: skip

        if what == "summary":
            values = event.summary.value

            def item(tag: str, index: int, number: int) -> dict[str, Any]:
                return base(f"{tag}/{number}" if number else tag, index + number * len(values))

            parts = {i: v for i, v in enumerate(values) if v.metadata.plugin_data.plugin_name == "mesh"}
            try:
                meshes = {event.record.index: event for event in _meshes(parts, base)} if parts else {}
            except Exception:
                parts, meshes = {}, {}  # each is kept as a value, below
            for index, value in enumerate(values):
                if index in parts:
                    if index in meshes:
                        yield meshes[index]
                    continue
                try:
                    items = self._items(record, value)
                    if items is None:
                        found = [self._value(record, value, source, base(value.tag, index))]
                    else:
                        found = items(partial(item, value.tag, index))
                except Exception:  # a summary that breaks its own plugin's layout: keep the bytes
                    found = [ev.Blob(**base(value.tag, index), data=value.SerializeToString(), name="summary_value.pb")]
                yield from found
            if not values:
                yield ev.Marker(**base(""), what="empty")
        elif what == "graph_def":
            yield ev.Graph(**base(""), graph_def=event.graph_def)
        elif what == "tagged_run_metadata":
            metadata = event.tagged_run_metadata
            yield ev.Blob(**base(metadata.tag), data=metadata.run_metadata, name="run_metadata.pb")
        elif what == "meta_graph_def":
            yield ev.Blob(**base("meta_graph"), data=event.meta_graph_def, name="meta_graph_def.pb")
        elif what == "log_message":
            yield ev.Text(**base("log_message"), text=event.log_message.message)
        else:
            yield ev.Marker(**base(""), what=what or "empty")

    def _items(self, record: msg.Record, value: Any) -> Callable[[Callable[[int], dict[str, Any]]], list[ev.Event]] | None:
        """Return what makes an event of each item of a value that may have several, given the base of the event of each; None
        for any other value.

        Raises:
            ValueError: it has none, or is no such value, whatever its plugin's name says.
        """
        if value.WhichOneof("value") != "tensor" or record.hint is not None:
            return None
        plugin = value.metadata.plugin_data.plugin_name or self._plugins.get((record.source, value.tag), "")
        if plugin not in ("images", "audio"):
            return None
        self._plugins[record.source, value.tag] = plugin
        texts = _strings(value.tensor)
        if plugin == "images":  # width, height, image, image, ...
            return partial(_each, _image, texts.reshape(-1)[2:].tolist())
        # WAV files, alone or each with a label, which TensorBoard does not show either
        return partial(_each, _wave, (texts[:, 0] if texts.ndim == 2 else texts.reshape(-1)).tolist())

    def _value(self, record: msg.Record, value: Any, source: msg.Source, base: dict[str, Any]) -> ev.Event:
        hint = record.hint
        if isinstance(hint, msg.Nested):
            return ev.Marker(**base, what="hparams")
        if isinstance(hint, msg.Frames):
            return _video(hint, base)
        form = value.WhichOneof("value")
        plugin = value.metadata.plugin_data.plugin_name
        if plugin:
            self._plugins[record.source, value.tag] = plugin
        elif form == "tensor":
            plugin = self._plugins.get((record.source, value.tag), "")
        if plugin == "hparams":
            return self._trials.decode(record, value, source, base)
        if form == "simple_value" or (plugin == "scalars" and form == "tensor"):
            return self._scalar(record, value, source, base)
        if form == "histo":
            h = value.histo
            sums = {"min": h.min, "max": h.max, "num": h.num, "sum": h.sum, "sum_squares": h.sum_squares}
            return ev.Histogram(**base, **sums, limits=tuple(h.bucket_limit), counts=tuple(h.bucket))
        if form == "image":
            return _image(value.image.encoded_image_string, base, figure=isinstance(hint, msg.Figure))
        if form == "audio":
            a = value.audio
            about = {"sample_rate": a.sample_rate, "channels": a.num_channels, "frames": a.length_frames}
            return ev.Audio(**base, **about, data=a.encoded_audio_string, content_type=a.content_type or "audio/wav")
        if form == "tensor":
            return _tensor(value, plugin, base)
        return ev.Blob(**base, data=value.SerializeToString(), name=f"{plugin or 'summary'}_value.pb")

    def _scalar(self, record: msg.Record, value: Any, source: msg.Source, base: dict[str, Any]) -> ev.Event:
        if record.value is not None:
            number = record.value
        elif value.WhichOneof("value") == "simple_value":
            number = value.simple_value
        else:
            numbers = _array(value.tensor)
            if numbers.size > 1:  # TensorBoard shows none of them
                return ev.Tensor(**base, value=ev.Array.of(numbers), plugin="scalars")
            number = float(numbers.reshape(-1)[0])
        series = record.hint.key if isinstance(record.hint, msg.Series) else None
        if source.replay and record.hint is None:
            metric = self._trials.metric(source, record, value.tag, number, base)
            if metric is not None:
                return metric
            if source.parent is not None:
                series = add_scalars.key(source.logdir, source.parent, value.tag)
                if series is None and self._trials.home(source) is None:
                    base["writer"] = self._names(source.logdir)
        return ev.Scalar(**base, value=number, series=series)


def _behind_step(data: bytes) -> int:
    """Return the offset behind the step of a serialised event that begins with a key, eight bytes of time, a key and the step;
    0 if there is none."""
    if len(data) < 22 or data[9] != _STEP_KEY:
        return 0
    end = 11
    while data[end - 1] > 0x7F:
        end += 1
        if end > 20:
            return 0
    return end


def _varint(data: bytes) -> int:
    value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data)) & (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


@lru_cache(1)
def _event_class() -> Any:
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event


class _Paths:
    """Tells apart what joins to the same path: the root's tag ``a/b``, the tag ``b`` of the writer ``a``, and the series
    ``b`` of ``a``. Who came first has the plain path.

    Only paths with a slash can meet. A program that makes up a tag for each step is watched up to `_MOST` of them.
    """

    _MOST = 20_000

    def __init__(self) -> None:
        self._suffixes: dict[tuple[str, str, str | None], str] = {}
        self._owners: dict[str, int] = {}
        self._new: list[tuple[str, str, str, str | None, str]] = []

    def remember(self, path: str, writer: str, tag: str, series: str | None, suffix: str) -> None:
        self._suffixes[writer, tag, series] = suffix
        self._owners[path] = self._owners.get(path, 0) + 1

    def take_new(self) -> list[tuple[str, str, str, str | None, str]]:
        new, self._new = self._new, []
        return new

    def distinct(self, event: ev.Event) -> ev.Event:
        """Return the event, with a suffix if its path belongs to another one."""
        series = event.series if isinstance(event, ev.Scalar) else None
        if isinstance(event, (ev.Marker, ev.HParams)) and (event.writer, event.tag, series) not in self._suffixes:
            return event
        suffix = self.suffix(event.writer, event.tag, series)
        return msgspec.structs.replace(event, suffix=suffix) if suffix else event

    def suffix(self, writer: str, tag: str, series: str | None) -> str:
        """Return what is added to the path of an event: nothing, unless the path belongs to another one."""
        key = (writer, tag, series)
        suffix = self._suffixes.get(key)
        if suffix is None:
            path = f"{writer}/{tag}" if writer else tag
            path = path if series is None else f"{path}/{series}"
            if "/" not in path or len(self._suffixes) >= self._MOST:
                return ""
            owners = self._owners.get(path, 0)
            suffix = f"~{owners + 1}" if owners else ""
            self.remember(path, *key, suffix)
            self._new.append((path, *key, suffix))
        return suffix


class _Trials:
    """Which `add_hparams` is the run's own, and which is a trial of a sweep.

    The first of a session gives the run its parameters; a later one with other values is a child run.

    Args:
        home: finds the log directory of the writer whose `add_hparams` may have made an event file; None if there is
            none.
    """

    def __init__(self, home: Callable[[msg.Source], str | None]) -> None:
        self._find_home = home
        self._own: dict[str, Any] | None = None
        self._by_record: dict[tuple[int, int], str | None] = {}
        self._names: set[str] = set()
        self._homes: dict[int, str | None] = {}
        self._open: dict[int, tuple[int, set[str], str | None]] = {}  # replay: source -> next position, metrics, trial
        self._metrics: dict[int, set[str]] = {}
        self._metric_records: dict[tuple[int, int], str | None] = {}
        self._new: list[tuple[int, int, str | None, dict[str, Any]]] = []

    def remember(self, source: int, position: int, trial: str | None, params: dict[str, Any]) -> None:
        self._by_record[source, position] = trial
        if trial is None:
            self._own = params
        else:
            self._names.add(trial)

    def take_new(self) -> list[tuple[int, int, str | None, dict[str, Any]]]:
        new, self._new = self._new, []
        return new

    def home(self, source: msg.Source) -> str | None:
        """Return the log directory of the writer whose `add_hparams` made this event file; None for any other file."""
        return self._homes.get(source.id)

    def decode(self, record: msg.Record, value: Any, source: msg.Source, base: dict[str, Any]) -> ev.Event:
        from tensorboard.plugins.hparams import plugin_data_pb2

        content = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
        kind = content.WhichOneof("data")
        if kind == "session_start_info":
            params = {k: _plain(v) for k, v in content.session_start_info.hparams.items()}
            home = self.home(source)
            run_name = "hparams" if home is None else os.path.basename(source.logdir)
            if home is not None and home != source.logdir:
                run_name = os.path.relpath(source.logdir, home)
            metrics: dict[str, float] = {}
            domain: dict[str, list[Any]] = {}
            if isinstance(record.hint, msg.Trial):
                hint = record.hint
                params, metrics, domain, run_name = hint.params, hint.metrics, hint.domain, hint.run_name
            trial = self._trial(record, params, run_name)
            if home is not None and record.position >= self._open.get(source.id, _NOTHING_OPEN)[0]:  # else it is read again
                self._open[source.id] = (record.position + 1, self._metrics.get(source.id, set()), trial)
            return ev.HParams(**base, params=params, metrics=metrics, domain=domain, trial=trial)
        if kind == "experiment":
            if record.position == 1 and record.hint is None:
                # The first thing in an event file of its own: what add_hparams makes. Lightning and others write
                # theirs into the main file.
                if source.id not in self._homes:  # read again, it is what it was: there may be more files by now
                    self._homes[source.id] = self._find_home(source)
                self._metrics[source.id] = {info.name.tag for info in content.experiment.metric_infos}
        elif kind == "session_end_info" and source.id in self._open:
            expected, names, trial = self._open[source.id]
            self._open[source.id] = (max(expected, record.position + 1), names, trial)
        return ev.Marker(**base, what="hparams")

    def metric(
        self, source: msg.Source, record: msg.Record, tag: str, number: float, base: dict[str, Any]
    ) -> ev.HParams | None:
        """Return the event for a scalar that `add_hparams` wrote behind its frame, None for any other scalar."""
        key = (source.id, record.position)
        if key not in self._metric_records:
            expected, names, trial = self._open.get(source.id, _NOTHING_OPEN)
            if record.position != expected or tag not in names:
                return None
            self._open[source.id] = (expected + 1, names, trial)
            self._metric_records[key] = trial
        trial = self._metric_records[key]
        return ev.HParams(**base, params={}, metrics={tag: number}, trial=trial)

    def _trial(self, record: msg.Record, params: dict[str, Any], run_name: str) -> str | None:
        key = (record.source, record.position)
        if key not in self._by_record:
            name: str | None = None
            if self._own is not None and self._own != params:
                name, number = run_name, 2
                while name in self._names:
                    name, number = f"{run_name}-{number}", number + 1
            self.remember(*key, name, params)
            self._new.append((*key, name, params))
        return self._by_record[key]


def _plain(value: Any) -> bool | float | str:
    kind = value.WhichOneof("kind")
    if kind in ("number_value", "string_value", "bool_value"):
        plain: bool | float | str = getattr(value, kind)
        return plain
    return str(value)


def _image(data: bytes, base: dict[str, Any], *, figure: bool = False) -> ev.Image | ev.Video:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        width, height, channels = picture.width, picture.height, len(picture.getbands())
        frames = getattr(picture, "n_frames", 1)
        if picture.format == "GIF" and frames > 1:
            fps = 1000 / (picture.info.get("duration") or 250)
            return ev.Video(**base, data=data, width=width, height=height, frames=frames, fps=fps)
        form = (picture.format or "png").lower()
    return ev.Image(**base, data=data, format=form, width=width, height=height, channels=channels, figure=figure)


def _video(hint: msg.Frames, base: dict[str, Any]) -> ev.Video:
    """Encode the frames as GIF. Pillow drops a frame that equals the one before it and lengthens that one instead, so
    the file plays as it should; `frames` tells the true number."""
    from PIL import Image

    frames = hint.frames.numpy()
    pictures = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame[..., :3]) for frame in frames]
    out = io.BytesIO()
    duration = max(1, round(1000 / hint.fps)) if hint.fps > 0 else 250
    pictures[0].save(out, format="GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    height, width = frames.shape[1:3]
    return ev.Video(**base, data=out.getvalue(), width=width, height=height, frames=len(frames), fps=hint.fps)


def _tensor(value: Any, plugin: str, base: dict[str, Any]) -> ev.Event:
    decode = _PLUGINS.get(plugin)
    return decode(value, base) if decode else ev.Tensor(**base, value=_plain_array(value.tensor), plugin=plugin or "tensor")


def _text(value: Any, base: dict[str, Any]) -> ev.Text:
    """TensorFlow's texts may be lists, which become paragraphs, or tables; of more than two dimensions, one table after the
    other (TensorBoard shows the first)."""
    texts = _strings(value.tensor)
    base["tag"] = base["tag"].removesuffix(_TEXT_SUFFIX)
    parts = [part.decode("utf-8", "replace") for part in texts.reshape(-1)]
    if texts.ndim < 2 or not parts:
        return ev.Text(**base, text="\n\n".join(parts))
    columns = texts.shape[-1]
    rows = [_row(parts[at : at + columns]) for at in range(0, len(parts), columns)]
    head = [_row([""] * columns), _row(["---"] * columns)]
    tables = ["\n".join(head + rows[at : at + texts.shape[-2]]) for at in range(0, len(rows), texts.shape[-2])]
    return ev.Text(**base, text="\n\n".join(tables))


def _row(cells: list[str]) -> str:
    """Return a row of a table in Markdown, in which a cell has one line."""
    lines = ("<br>".join(cell.replace("|", "\\|").splitlines()) for cell in cells)
    return f"| {' | '.join(lines)} |"


def _pr_curve(value: Any, base: dict[str, Any]) -> ev.PRCurve:
    rows = _array(value.tensor)
    names = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")
    base.update((name, tuple(map(float, row))) for name, row in zip(names, rows, strict=True))
    return ev.PRCurve(**base)


def _custom_scalars(value: Any, base: dict[str, Any]) -> ev.CustomScalars:
    from tensorboard.plugins.custom_scalar import layout_pb2

    layout: dict[str, dict[str, tuple[str, list[str]]]] = {}
    (data,) = _strings(value.tensor).reshape(-1)
    for category in layout_pb2.Layout.FromString(data).category:
        charts = layout.setdefault(category.title, {})
        for chart in category.chart:
            if chart.WhichOneof("content") == "margin":
                tags = [tag for s in chart.margin.series for tag in (s.value, s.lower, s.upper)]
                charts[chart.title] = ("Margin", tags)
            else:
                charts[chart.title] = ("Multiline", list(chart.multiline.tag))
    return ev.CustomScalars(**base, layout=layout)


def _each(make: Callable[..., ev.Event], items: Sequence[bytes], base: Callable[[int], dict[str, Any]]) -> list[ev.Event]:
    """Make an event of each item.

    Raises:
        Exception: there is none, or the only one is no picture, or no sound.
    """
    if len(items) < 2:
        (data,) = items
        return [make(data, base(0))]
    events: list[ev.Event] = []
    for number, data in enumerate(items):
        try:
            events.append(make(data, base(number)))
        except Exception:  # keep its bytes
            events.append(ev.Blob(**base(number), data=data, name="summary_item.bin"))
    return events


def _wave(data: bytes, base: dict[str, Any]) -> ev.Audio:
    import wave

    with wave.open(io.BytesIO(data)) as sound:
        rate, channels, frames = sound.getframerate(), sound.getnchannels(), sound.getnframes()
    return ev.Audio(**base, data=data, sample_rate=rate, channels=channels, frames=frames)


def _histogram(value: Any, base: dict[str, Any]) -> ev.Histogram:
    """TensorFlow 2's histograms: k x 3, [left, right, count]; the samples themselves are not known."""
    buckets = _array(value.tensor)
    if buckets.shape[1:] != (3,):
        raise ValueError(f"a histogram of shape {buckets.shape}")
    left, right, count = buckets.T
    middle = (left + right) / 2
    return ev.Histogram(
        **base, min=float(left.min(initial=0)), max=float(right.max(initial=0)), num=float(count.sum()),
        sum=float(count @ middle), sum_squares=float(count @ middle**2),
        limits=(float(left[0]), *map(float, right)) if len(left) else (), counts=(0.0, *map(float, count)) if len(left) else (),
    )  # fmt: skip


_PLUGINS: dict[str, Callable[[Any, dict[str, Any]], ev.Event]] = {
    "text": _text,
    "pr_curves": _pr_curve,
    "custom_scalars": _custom_scalars,
    "histograms": _histogram,
}


def _meshes(values: dict[int, Any], base: Callable[[str, int], dict[str, Any]]) -> Iterator[ev.Event]:
    """Join the parts of each mesh: `add_mesh` writes vertices, faces and colours as values of one summary."""
    from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData

    parts: dict[tuple[str, int], dict[int, tuple[int, Any]]] = {}
    config: dict[tuple[str, int], str] = {}
    tags: dict[tuple[str, int], str] = {}
    for index, value in values.items():
        about = MeshPluginData.FromString(value.metadata.plugin_data.content)
        number = 0
        while about.content_type in parts.setdefault((about.name, number), {}):  # there is another mesh of this name
            number += 1
        key = about.name, number
        parts[key][about.content_type] = index, value.tensor
        config[key] = about.json_config or "{}"
        if about.content_type == MeshPluginData.VERTEX:  # the name is not the tag where that is None or bytes
            tags[key] = value.tag.removesuffix("_VERTEX")
    for key, tensors in parts.items():
        first = min(index for index, _ in tensors.values())
        if MeshPluginData.VERTEX not in tensors:
            for index, tensor in tensors.values():
                yield ev.Tensor(**base(key[0], index), value=_plain_array(tensor), plugin="mesh")
            continue
        vertices, faces, colors = (
            _array(tensors[part][1]) if part in tensors else None
            for part in (MeshPluginData.VERTEX, MeshPluginData.FACE, MeshPluginData.COLOR)
        )
        with np.errstate(all="ignore"):  # NaN as a colour
            yield ev.Mesh(
                **base(tags[key], first), config=config[key], vertices=ev.Array.of(np.asarray(vertices, np.float32)),
                faces=ev.Array.of(faces.astype(np.int32)) if faces is not None else None,
                colors=ev.Array.of(colors.clip(0, 255).astype(np.uint8)) if colors is not None else None,
            )  # fmt: skip


def _strings(tensor: Any) -> np.ndarray[Any, Any]:
    """Return the texts of a TensorProto, in its shape if it has as many, else as a list.

    Raises:
        ValueError: it has no texts.
    """
    from tensorboard.compat.proto import types_pb2

    if tensor.dtype != types_pb2.DT_STRING or tensor.tensor_content:
        raise ValueError("no tensor of texts")
    texts = np.empty(len(tensor.string_val), object)
    texts[:] = tensor.string_val
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    return texts.reshape(shape) if math.prod(shape) == len(texts) else texts


def _plain_array(tensor: Any) -> ev.Array:
    """Return a TensorProto as an Array; texts become a byte tensor of their UTF-8, one row a text."""
    array = _array(tensor)
    if array.dtype == object:
        array = np.array([x if isinstance(x, bytes) else str(x).encode() for x in array.reshape(-1)], dtype=np.bytes_)
        width = max(array.dtype.itemsize, 1)
        return ev.Array("uint8", (len(array), width), array.astype(f"S{width}").tobytes())
    return ev.Array.of(array)


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a TensorProto as a numpy array.

    torch's `add_tensor` stores float16 and bfloat16 as float32 bit patterns in ``half_val``, and uint8 in
    ``uint32_val``, where TensorBoard's own reader looks elsewhere; both are read here as torch wrote them.
    """
    from tensorboard.compat.proto import types_pb2
    from tensorboard.util import tensor_util

    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if math.prod(shape) > _MOST_REPEATED and len(tensor.SerializeToString()) < math.prod(shape):
        raise ValueError(f"there are not as many numbers as its shape says, {shape}")  # one may stand for all: a fill
    wide = bool(tensor.half_val) and (max(tensor.half_val) > 0xFFFF or min(tensor.half_val) < 0)
    if wide or (tensor.dtype == types_pb2.DT_BFLOAT16 and not tensor.tensor_content):
        # TensorBoard's reader knows no bfloat16; TensorFlow stores its 16 bits, which are the upper half of a float32.
        bits = [v & 0xFFFFFFFF if wide else v << 16 for v in tensor.half_val]
        floats = np.array(struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}I", *bits)), np.float32)
        return floats.reshape(shape).astype(np.float16 if tensor.dtype == types_pb2.DT_HALF else np.float32)
    if tensor.uint32_val and tensor.dtype == types_pb2.DT_UINT8:
        return np.array(tensor.uint32_val, np.uint8).reshape(shape)
    array: np.ndarray[Any, Any] = tensor_util.make_ndarray(tensor)
    return array


def _embedding(hint: msg.Embedded, writer: str, record: ev.RecordId) -> ev.Embedding:
    sprite = size = None
    if hint.images is not None:
        with contextlib.suppress(Exception):  # the points are worth more than their pictures
            sprite, size = _sprite(hint.images.numpy())
    return ev.Embedding(
        writer=writer, tag=hint.tag, step=hint.step, wall_time=hint.wall_time, record=record, matrix=hint.matrix,
        metadata=tuple(map(tuple, hint.metadata)) if hint.metadata is not None else None,
        metadata_header=tuple(hint.header) if hint.header else None, sprite=sprite, sprite_size=size,
    )  # fmt: skip


def _sprite(images: np.ndarray[Any, Any]) -> tuple[bytes, tuple[int, int]]:
    """Lay the label images (uint8, N x H x W x C) out row by row on a square grid, as the projector wants them."""
    from PIL import Image

    n, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(n)))
    sheet = np.zeros((columns * height, columns * width, channels), np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    out = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(out, format="PNG")
    return out.getvalue(), (width, height)
