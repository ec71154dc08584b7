"""Event proto -> typed events: the only translation there is.

The live path and the replay of event files share it, so whatever works live works for an old log directory too. Live
records bring hints that the proto has lost (the exact float64, the key of `add_scalars`, ...); a replayed record has
none, and the layout of the log directory is read instead.

Newer TensorFlow programs write scalars, images, audio and histograms as tensors with a plugin name; both forms become
the same events.
"""

from __future__ import annotations

import contextlib
import os.path
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfiles import add_scalars, own_records, plugins, transformers_texts
from tracelet_shim.eventfiles.paths import Paths
from tracelet_shim.eventfiles.tensors import array_of, texts_of
from tracelet_shim.eventfiles.trials import Trials
from tracelet_shim.eventfiles.writer_names import WriterNames

__all__ = ["Decoder"]

_MOST_CURVES = 20_000
_DOUBLE = struct.Struct("<d")
_TIME_KEY, _STEP_KEY, _VALUE_KEY = 0x09, 0x10, 0x15
"""Of an event's time and step, and of a summary value's number (``event.proto``, ``summary.proto``)."""

_Curve = tuple[str, str, str, "str | None", str, str]
"""What is the same for all values of a scalar: event file, writer, tag, series, suffix, log directory."""

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
        self._trials = Trials(lambda source: self._home(source) if source.replay else source.logdir)
        self._paths = Paths()
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
            file, writer, tag, series, suffix, logdir = curve
            add(scalar(
                writer=writer, tag=tag, step=step, wall_time=unpack(data, 1)[0],
                record=_tuple(record_id, (file, record.position, 0)), suffix=suffix, logdir=logdir, source=data, value=value,
                series=series,
            ))  # fmt: skip
            count(1)
        return events, counts

    def _events_of(self, record: msg.Record) -> tuple[ev.Event, ...]:
        source = self._sources[record.source]
        hint = record.hint
        logdir = source.parent or source.logdir
        if isinstance(hint, msg.Embedded):
            return (plugins.embedding(hint, self._names(logdir), logdir, ev.RecordId(source.path, record.position)),)
        data = record.data
        if data is None:
            return ()
        try:
            event = _event_class().FromString(data)
        except Exception:  # protobuf's DecodeError has no stable import path across its implementations
            broken = ev.RecordId(source.path, record.position)
            base = {"writer": self._names(logdir), "logdir": logdir, "tag": "", "step": 0, "wall_time": 0.0}
            return (ev.Blob(**base, record=broken, source=data, data=data, name="damaged_event.pb"),)  # type: ignore[arg-type]
        if source.replay and record.position > 1:  # before, it is not known yet, and there is book-keeping only
            logdir = self._trials.home(source) or logdir
        writer = self._names(logdir)
        events = tuple(self._paths.distinct(e) for e in self._events(record, event, source, writer, logdir, data))
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
        curve = scalar.record.file, scalar.writer, scalar.tag, scalar.series, scalar.suffix, scalar.logdir
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

    def _events(
        self, record: msg.Record, event: Any, source: msg.Source, writer: str, logdir: str, data: bytes
    ) -> Iterator[ev.Event]:
        what = event.WhichOneof("what")

        def base(tag: str, index: int = 0) -> dict[str, Any]:
            return {
                "writer": writer, "tag": tag, "step": event.step, "wall_time": event.wall_time, "logdir": logdir,
                "record": ev.RecordId(source.path, record.position, index), "source": data,
            }  # fmt: skip

        if what == "summary":
            values = event.summary.value

            def item(tag: str, index: int, number: int) -> dict[str, Any]:
                return base(f"{tag}/{number}" if number else tag, index + number * len(values))

            parts = {i: v for i, v in enumerate(values) if v.metadata.plugin_data.plugin_name == "mesh"}
            try:
                meshes = {event.record.index: event for event in plugins.meshes(parts, base)} if parts else {}
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
                        if value.metadata.plugin_data.plugin_name != own_records.PLUGIN and isinstance(found[0], ev.Text):
                            params = transformers_texts.parameters(found[0])
                            if params:
                                about = base(found[0].tag, index + len(values))
                                found.append(ev.HParams(**about, params=params, metrics={}))
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
        texts = texts_of(value.tensor)
        if plugin == "images":  # width, height, image, image, ...
            return partial(plugins.each, plugins.image, texts.reshape(-1)[2:].tolist())
        # WAV files, alone or each with a label, which TensorBoard does not show either
        return partial(plugins.each, plugins.audio, (texts[:, 0] if texts.ndim == 2 else texts.reshape(-1)).tolist())

    def _value(self, record: msg.Record, value: Any, source: msg.Source, base: dict[str, Any]) -> ev.Event:
        hint = record.hint
        if isinstance(hint, msg.Nested):
            return ev.Marker(**base, what="hparams")
        if isinstance(hint, msg.Frames):
            return plugins.video(hint, base)
        form = value.WhichOneof("value")
        plugin = value.metadata.plugin_data.plugin_name
        if plugin == own_records.PLUGIN:
            return own_records.event(value.metadata.plugin_data.content, base)
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
            return plugins.image(value.image.encoded_image_string, base, figure=isinstance(hint, msg.Figure))
        if form == "audio":
            a = value.audio
            about = {"sample_rate": a.sample_rate, "channels": a.num_channels, "frames": a.length_frames}
            return ev.Audio(**base, **about, data=a.encoded_audio_string, content_type=a.content_type or "audio/wav")
        if form == "tensor":
            return plugins.tensor(value, plugin, base)
        return ev.Blob(**base, data=value.SerializeToString(), name=f"{plugin or 'summary'}_value.pb")

    def _scalar(self, record: msg.Record, value: Any, source: msg.Source, base: dict[str, Any]) -> ev.Event:
        if record.value is not None:
            number = record.value
        elif value.WhichOneof("value") == "simple_value":
            number = value.simple_value
        else:
            numbers = array_of(value.tensor)
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
