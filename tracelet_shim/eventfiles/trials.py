"""Which hyperparameters are the run's, and which are those of a trial; what `add_hparams` writes is read here."""

from __future__ import annotations

import os.path
from collections.abc import Callable
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.bus import messages as msg

__all__ = ["Trials"]

_NOTHING_OPEN: tuple[int, set[str], str | None] = (-1, set(), None)


class Trials:
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
            params = {k: _hparam(v) for k, v in content.session_start_info.hparams.items()}
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


def _hparam(value: Any) -> bool | float | str:
    kind = value.WhichOneof("kind")
    if kind in ("number_value", "string_value", "bool_value"):
        plain: bool | float | str = getattr(value, kind)
        return plain
    return str(value)
