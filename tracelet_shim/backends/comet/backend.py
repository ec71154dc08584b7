"""Comet (comet.com), online and offline.

Each event becomes messages of the SDK's (`messages`, `drawings`), which go into one experiment (`run`): into an archive
(`archive`), or to the server (`line`). Names of metrics, parameters and media have at most 100 characters.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Acknowledged, Capability, Ending, Level, OpenedRun, RunInfo, Status
from tracelet_shim.backends.comet import drawings, own_forms
from tracelet_shim.backends.comet.archive import pack_abandoned
from tracelet_shim.backends.comet.compat import experiment_class
from tracelet_shim.backends.comet.experiments import Experiments, archive_directory, key_of
from tracelet_shim.backends.comet.fetching import cannot_fetch, fetch
from tracelet_shim.backends.comet.line import CHUNK, RefusedError
from tracelet_shim.backends.comet.long_metrics import LongMetrics
from tracelet_shim.backends.comet.messages import Messages
from tracelet_shim.backends.comet.names import digest
from tracelet_shim.backends.comet.own_forms import OwnForms
from tracelet_shim.backends.comet.probe import PROBE, own_hook
from tracelet_shim.backends.comet.process import active, import_sdk
from tracelet_shim.backends.comet.resume import Left, left_behind
from tracelet_shim.backends.comet.run import RunExperiment
from tracelet_shim.backends.comet.settings import is_offline, setting
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.names import Names, Shortened
from tracelet_shim.backends.shared.options import Parser, switch
from tracelet_shim.backends.shared.seen import Seen
from tracelet_shim.backends.shared.transient import Patience, may_open
from tracelet_shim.backends.shared.trials import Trials
from tracelet_shim.backends.shared.values import flat
from tracelet_shim.backends.shared.versions import Versions
from tracelet_shim.common.text import as_utf8

__all__ = ["ILLEGAL", "CometBackend"]

_MAX_NAME = 100  # comet_ml.config.MAXIMAL_KEY_LENGTH
_MAX_GRAPH = 2_000_000  # characters of a graph shown on the page; the file is attached in any case
_OPEN_TRIALS = 4
ILLEGAL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff·]|^[\s~]|\s$"
"""Invisible characters; ``·`` joins a name and what is added here; a leading ``~`` is the home directory to the SDK."""
_RESERVED = r"|^(?:N(?=ame$)|C(?=reated from$)|o(?=ffline_experiment$)|g(?=roup$)|n(?=otes$)|t(?=racelet\.))"
"""Begin the names of Comet's and our own entries among the "others"."""


class CometBackend(OwnForms):
    """Comet; see the package's modules."""

    name = "comet"
    module = "comet_ml"
    distribution = "comet_ml"
    versions = Versions("3.40.0", "3.58.8")
    probe = PROBE
    own_hook = staticmethod(own_hook)
    cannot_fetch = staticmethod(cannot_fetch)
    fetch = staticmethod(fetch)
    credentials = "check the API key (`comet login`, COMET_API_KEY), or stay local with COMET_START_ONLINE=false"
    batch_events = 2000
    parsers: ClassVar[Mapping[str, Parser]] = {"offline": switch}
    options: ClassVar[Mapping[str, str]] = {
        "api_key": "API key; default: COMET_API_KEY, then .comet.config",
        "workspace": "workspace of the project; default: COMET_WORKSPACE, then the account's own",
        "offline": "write an archive for `comet upload`, whatever the session's offline setting; default: COMET_START_ONLINE",
        "offline_directory": "where archives are written; default: COMET_OFFLINE_DIRECTORY, then .cometml-runs",
    }
    acknowledged = Acknowledged(
        here="the message is in the offline archive's directory",
        server="the answer to the request: messages do not go through the SDK's queue, which drops what is refused",
        again=(
            "the server is asked for the points and files that it has, before any are sent again; offline, the messages "
            "are read"
        ),
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "metric: float64, step, time in whole ms; NaN and infinities as Comet's 'NaN', 'Infinity', '-Infinity'; "
            "also all points as CSV where there are more than the 15,000 that Comet keeps",
        ),
        ev.Histogram: Capability(
            Level.NATIVE, "3D histogram on Comet's own bins (10 % wide), same total; exact buckets as JSON asset"
        ),
        ev.Image: Capability(Level.NATIVE, "image at its step, the unchanged file; figures too"),
        ev.Video: Capability(Level.NATIVE, "video (GIF) at its step"),
        ev.Audio: Capability(Level.NATIVE, "audio (WAV) at its step"),
        ev.Text: Capability(Level.NATIVE, "text at its step, the tag in its metadata"),
        ev.PRCurve: Capability(Level.NATIVE, "curve at its step; counts and thresholds as CSV asset"),
        ev.Mesh: Capability(Level.NATIVE, "3D points with colours, faces as lines; exact as PLY asset"),
        ev.Embedding: Capability(Level.NATIVE, "embedding projector with labels and sprite (its files are assets)"),
        ev.Tensor: Capability(Level.FILE, "NPY asset at its step"),
        ev.Graph: Capability(Level.NATIVE, "graph definition as text (up to 2 MB, the latest); pbtxt and pb as assets"),
        ev.HParams: Capability(
            Level.NATIVE, "parameters and metrics; a trial is an experiment of its own; types and domains as JSON asset"
        ),
        ev.CustomScalars: Capability(Level.FILE, "JSON asset; Comet's panels are laid out in its UI"),
        **own_forms.CAPABILITIES,
        ev.Blob: Capability(Level.FILE, "asset"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._names = Names(ILLEGAL, _MAX_NAME)
        self._labels = Names(ILLEGAL + _RESERVED, _MAX_NAME)  # of what stands among Comet's own "others"
        self._shortened = Shortened(self._names, self._labels, self._paths)
        self._trials: Trials[RunExperiment] = Trials(_OPEN_TRIALS, lambda trial: trial.end("finished", trial.latest))
        self._earlier = Left(Seen(), frozenset())  # the end of a killed session's archive
        self._long = LongMetrics()
        self._patience = Patience()
        self._opened = False
        self._directory: str | None = None  # of archives; None online
        self._info: RunInfo

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        given = cls.parsed(options)
        if not (is_offline(given, default=offline) or given.get("api_key") or setting("api_key")):
            raise errors.BackendUnavailableError(
                cls.name,
                "no API key (COMET_API_KEY, or api_key in ~/.comet.config); remedy: run `comet login`, or use offline "
                "mode (COMET_START_ONLINE=false)",
            )

    @classmethod
    def borrowed(cls) -> str | None:
        theirs = active()
        return str(theirs.id) if theirs is not None else None

    @classmethod
    def borrowed_project(cls) -> str | None:
        theirs = active()
        return None if theirs is None else theirs.project_name or None

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        experiment = experiment_class()  # an experiment that is begun ends the one before, not by `end`
        names = ["_on_end"] if hasattr(experiment, "_on_end") else ["end"]
        return [Ending(experiment, name, lambda experiment, *_: str(experiment.id)) for name in names]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        import_sdk(of_training=run.program.pid == os.getpid())
        self._info = run
        theirs = active()
        if theirs is not None and run.resume == theirs.id:
            project, self._directory = theirs.project_name, getattr(theirs, "offline_directory", None)
            self._experiments = Experiments(self.given, project, self._directory)
            self._run = RunExperiment(theirs, own=False)
        elif run.borrowed:
            raise errors.BackendError(f"your Comet experiment {run.resume} has ended")
        else:
            project, self._directory = self._names(run.project) if run.project else None, self._archives(run)
            self._experiments = Experiments(self.given, project, self._directory)
            self._run = self._experiments.make(key_of(run, self.given))
        self._messages = self._messages_of(self._run)
        try:
            self._describe(run, project)
        except BaseException:
            self._run.discard()
            raise
        if run.resume or run.run_id:
            self._long.expect_earlier()
        self._run.stored.known, self._run.known = self._earlier
        if run.resume and self._run.own:
            self._run.doubt()
        self._opened = True
        if self._run.queued and (self._run.own or self._directory is None):
            self.notice(
                "queue",
                "this version of comet_ml is sent to through its own queue: what it has not sent is lost if the process is "
                "killed, and what the server refuses stands in its log alone; remedy: pip install 'comet_ml<="
                f"{self.versions.newest}'",
            )
        return OpenedRun(str(self.handle.id), self._url())

    def _archives(self, run: RunInfo) -> str | None:
        """Return where archives are written, or None online."""
        if not is_offline(self.given, default=run.offline):
            return None
        directory = archive_directory(self.given)
        if run.resume and not any(self._earlier):  # an earlier attempt to open may have packed it since
            self._earlier = left_behind(directory, run.resume)
        pack_abandoned(directory)
        return directory

    def _messages_of(self, run: RunExperiment) -> Messages:
        session = self._info.session, self._info.started
        return Messages(run, self._names, self.wall_time_ms, session, online=self._directory is None)

    def _describe(self, run: RunInfo, project: str | None) -> None:
        """Log what is known about the run."""
        from comet_ml.messages import FileNameMessage

        experiment = self.handle
        others: dict[str, Any] = {"group": run.group, "notes": run.notes, "tracelet.run_id": run.run_id}
        others |= {self._labels(name): value for name, value in run.tags.items() if value}
        labels = [self._names(name) for name, value in run.tags.items() if not value]
        config = flat(run.config, "|")  # as `log_parameters` names nested ones
        messages = self._messages.params(config, None)
        if self._run.own:
            program = run.program.readable()
            name = run.exp_name or setting("start_experiment_name") or setting("experiment_name")
            if name:
                experiment.name = name
            others |= {"Name": name, "tracelet.session": run.session, "tracelet.root": run.root and as_utf8(run.root)}
            others |= {"tracelet.command": shlex.join(program.argv), "tracelet.host": program.host}
            if run.project and run.project != project:
                others["tracelet.project"] = run.project
            labels += [label for label in (setting("start_experiment_tags") or "").split(",") if label.strip()]
            messages.append(FileNameMessage(program.script or program.module or "<console>"))
        for key, value in others.items():
            if value:
                messages += self._messages.other(key, value)
        self._run.send(messages)
        self._run.add_tags(labels)
        self._run.params |= config
        self._run.begun(run.started)

    def _url(self) -> str | None:
        experiment = self.handle
        if self._directory is None:
            return str(experiment.url) if experiment.url else None
        if not self._run.own:
            return None
        if self._run.queued:
            return f"comet upload {shlex.quote(self._directory)}/{experiment.id}-*.zip"
        return f"comet upload {shlex.quote(experiment.tmpdir.removesuffix('.part') + '.zip')}"

    def flush(self) -> None:
        for run in (self._run, *self._trials):
            run.flush()

    def close(self, status: Status) -> None:
        with contextlib.ExitStack() as stack:  # each is ended, whatever happens to another
            stack.callback(self._run.end, status, self.ended_at())
            for trial in self._trials:
                stack.callback(trial.end, status, trial.latest)
            self._trials.forget()
            stack.callback(self._long.close)
            self._publish_names()
            for path, data in self._long.files():
                self._attach_own(path, data)

    @property
    def handle(self) -> Any:
        return self._run.experiment

    def is_transient(self, error: BaseException) -> bool:
        if isinstance(error, RefusedError):
            return self._passes(error.status, own=error.own)
        response = getattr(error, "response", None)  # CometRestApiException, requests.HTTPError
        code = getattr(response, "status_code", None)
        return self._passes(code) if code is not None else super().is_transient(error)

    def _passes(self, code: int, *, own: bool = True) -> bool:
        """Doubt a refusal that may pass, but not of the run: there it is the key that is wrong."""
        return self._patience.passes(code, own=own) if self._opened else may_open(code, own=own)

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        super().write(events)
        self._patience.reset()
        for run in (self._run, *self._trials):
            run.done()  # only the first batch may be there already
        self._publish_names()

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        size = CHUNK if self._run.line is not None else len(events)
        for start in range(0, len(events), size):
            some = events[start : start + size]
            messages = [self._messages.point(e.path, e.value, e) for e in some]
            self._run.send_points(messages)
            self._long.add((e.path, e.step, self.wall_time_ms(e), e.value) for e in some)
            self.written += len(some)  # the server has them, whatever becomes of the rest

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._run.send([self._messages.asset(event, path, data)])

    def _attach_own(self, path: str, data: bytes) -> None:
        self._run.send([self._messages.own_asset(path, data, math.nan)], events=False)

    def _publish_names(self) -> None:
        """Attach the whole of each name that had to be cut."""
        with self._shortened.telling() as new:
            for key, name in new.items():
                said = json.dumps({"key": key, "name": name}, indent=1).encode()
                self._attach_own(f"shortened_names/{key[-16:]}.json", said)

    def _files(self, event: ev.Event, messages: Messages | None = None) -> list[Any]:
        return [(messages or self._messages).asset(event, path, data) for path, data in self.files_of(event)]

    def log_image(self, event: ev.Image) -> None:
        self._run.send([self._messages.image(event)])

    def _media(self, event: ev.Event, kind: str) -> None:
        suffix, data = next(files.render(event))
        self._run.send([self._messages.asset(event, self._names(event.path) + suffix, data, kind)])

    def log_video(self, event: ev.Video) -> None:
        self._media(event, "video")

    def log_audio(self, event: ev.Audio) -> None:
        self._media(event, "audio")

    def log_text(self, event: ev.Text) -> None:
        data = event.text.encode("utf-8", "surrogatepass")
        # The name is the one that `log_text` gives: the server makes its own.
        self._run.send([
            self._messages.asset(event, "auto-generated-in-the-backend", data, "text-sample", {"tag": event.path})
        ])  # fmt: skip

    def log_histogram(self, event: ev.Histogram) -> None:
        messages = self._files(event)
        bins = drawings.bins(event)
        if bins is not None:
            messages.append(self._messages.asset(event, self._names(event.path), json.dumps(bins).encode(), "histogram3d"))
        self._run.send(messages)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        name = self._names(event.path)
        x, y = ([v if math.isfinite(v) else None for v in values] for values in (event.recall, event.precision))
        data = json.dumps({"x": x, "y": y, "name": name}).encode()
        curve = self._messages.asset(event, name, data, "curve", {"x": "recall", "y": "precision"})
        self._run.send([curve, *self._files(event)])

    def log_mesh(self, event: ev.Mesh) -> None:
        self._run.send([*self._files(event), *drawings.points_3d(event, self._names(event.path), self.handle)])

    def log_embedding(self, event: ev.Embedding) -> None:
        messages = self._files(event)
        stem = self.artifact_stem(event)
        if event.metadata is None:  # the projector asks for labels
            numbers = "\n".join(map(str, range(drawings.row_count(event)))).encode()
            messages.append(self._messages.asset(event, f"{stem}.metadata.tsv", numbers))
        name = self._names(event.path)
        shown = drawings.embedding(
            event, name, self.handle, lambda suffix: self._messages.asset_id(event, f"{stem}.{suffix}")
        )
        template = json.dumps(shown).encode()
        self._run.send([*messages, self._messages.asset(event, f"{name}.json", template, "embeddings")])

    def log_graph(self, event: ev.Graph) -> None:
        from comet_ml.messages import ModelGraphMessage

        messages = self._files(event)
        text = next(files.render(event))[1].decode("utf-8", "replace")
        if text and len(text) <= _MAX_GRAPH:
            messages.append(ModelGraphMessage(text))
        self._run.send(messages)

    # -- hyperparameters --------------------------------------------------------------------------------------------

    def log_hparams(self, event: ev.HParams) -> None:
        run, trial = self._run, event.trial
        if trial is not None:
            run = self._trials.get(trial, lambda: self._trial(str(trial), event.wall_time))
        run.latest = event.wall_time
        made = self._messages if trial is None else self._messages_of(run)
        messages = self._files(event, made) + made.params(event.params, event)
        run.send_points([made.point(name, value, event) for name, value in event.metrics.items()], messages)
        run.params |= event.params

    def _trial(self, trial: str, started: float) -> RunExperiment:
        """Return the experiment of a trial; one that had to be closed is continued."""
        parent = self.handle.id
        run = self._experiments.make(digest("trial", parent, trial))
        if self._info.resume:
            run.doubt()
        try:
            others = {"Name": trial, "group": self._info.group or parent}
            others |= {"tracelet.parent": parent, "tracelet.trial": trial}
            run.experiment.name = trial
            messages = self._messages_of(run)
            run.send([message for key, value in others.items() for message in messages.other(key, value)])
            run.begun(started)
        except BaseException:
            run.discard()
            raise
        return run
