"""Weights & Biases (checked with 0.31).

Rows. Scalars that follow each other with one step and (to `WALL_TOLERANCE`) one wall time share a row, since a row costs twenty
times what a value in it costs. A row carries TensorBoard's step as a value (`run`). The rows of a batch are handed to W&B's
service together (`fast`).

Keys. What W&B does not accept is escaped (`limits`), and a tag that holds several types has several keys (`names`).

A trial of a sweep is a run of its own (`trials`). The user's process is left as it is (`process`, `opening`).

Delivered. W&B's service, a process of its own that ends with the relay, stores and uploads what it was handed some time later.
How far it is, the service or the server is asked (`settling`). What it had not stored when it dies, or stops to upload, is handed
over again, to a new one. A run that is continued does not write again what the logs before this one have (`resume`).
"""

from __future__ import annotations

import io
import logging
import os
import shlex
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends import base
from tracelet_shim.backends.base import Capability, Ending, Level, OpenedRun, RunInfo, Status, UnsettledLostError
from tracelet_shim.backends.render import files
from tracelet_shim.backends.shared.options import Parser
from tracelet_shim.backends.shared.rows import Keys
from tracelet_shim.backends.shared.versions import Versions
from tracelet_shim.backends.wandb import media, own_forms, settings
from tracelet_shim.backends.wandb.errors import lost, passes
from tracelet_shim.backends.wandb.names import RunNames
from tracelet_shim.backends.wandb.on_server import OnServer
from tracelet_shim.backends.wandb.opening import Opener
from tracelet_shim.backends.wandb.own_forms import OwnForms
from tracelet_shim.backends.wandb.probe import PROBE, own_hook
from tracelet_shim.backends.wandb.process import restart_service, unread_settings, wait_for_logs
from tracelet_shim.backends.wandb.resume import remove_begun
from tracelet_shim.backends.wandb.run import Run, rows_before, step_there
from tracelet_shim.backends.wandb.settling import MAX_UNSETTLED, Settling, on_disk
from tracelet_shim.backends.wandb.trials import TrialRuns
from tracelet_shim.backends.wandb.unasked import for_us
from tracelet_shim.backends.wandb.versions import NUMPY

__all__ = ["WandbBackend"]

_log = logging.getLogger(__name__)

MAX_REOPENED = 3
"""Times that the run is continued at once in a new service process; then, until something arrives, after `REOPEN_SECONDS`."""
REOPEN_SECONDS = 20.0


class WandbBackend(OwnForms):
    name = "wandb"
    module = "wandb"
    distribution = "wandb"
    versions = Versions("0.17.0", "0.31.0", (NUMPY,))
    probe = PROBE
    own_hook = staticmethod(own_hook)
    credentials = "check the API key (`wandb login`, WANDB_API_KEY) and WANDB_BASE_URL, or stay local with WANDB_MODE=offline"
    options: ClassVar[Mapping[str, str]] = settings.OPTIONS
    parsers: ClassVar[Mapping[str, Parser]] = settings.PARSERS
    acknowledged = base.Acknowledged(
        here="the service has written the record to the run's log",
        server=(
            "the server, asked for its history rows, samples, files, tables and parameters; what W&B's service has given up is "
            "handed to it again, and one that died, or has stopped to upload, is replaced"
        ),
        again="the rows that the server has are found in the run's logs on disk, and not written again",
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE,
            "history rows over global_step; float64, NaN and infinities kept; system metrics on the tab for them, unless W&B's "
            "own monitor is on",
        ),
        ev.Histogram: Capability(Level.NATIVE, f"wandb.Histogram; neighbouring buckets added up beyond {media.MAX_BINS}"),
        ev.Image: Capability(Level.NATIVE, "wandb.Image of TensorBoard's own file"),
        ev.Video: Capability(Level.NATIVE, "wandb.Video (GIF)"),
        ev.Audio: Capability(Level.NATIVE, "wandb.Audio of TensorBoard's own file"),
        ev.Text: Capability(Level.CONVERTED, "wandb.Html with the Markdown source, preformatted"),
        ev.PRCurve: Capability(Level.NATIVE, "line chart over a wandb.Table with all columns, one table a step"),
        ev.Mesh: Capability(Level.NATIVE, "wandb.Object3D: OBJ with vertex colours, point clouds as points"),
        ev.Embedding: Capability(Level.NATIVE, "wandb.Table for the 2D projection; a very large one also as files"),
        ev.Tensor: Capability(Level.FILE, "saved with the run as .npy"),
        ev.Graph: Capability(Level.FILE, "saved with the run as .pbtxt and .pb"),
        ev.HParams: Capability(Level.NATIVE, "config and summary; a further trial is a run in the run's group"),
        ev.CustomScalars: Capability(Level.FILE, "saved with the run as .json"),
        **own_forms.CAPABILITIES,
    }

    _lent: ClassVar[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
    """The user's active runs that `borrowed` has seen in this process, by id; `wandb.run` may be another one by now."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._names = RunNames()
        self._opener = Opener(self.given)
        self._trials = TrialRuns(self._opener)
        self._info: RunInfo | None = None
        self._run: Run | None = None
        self._settling: Settling | None = None
        self._disabled = False
        self._refused: list[base.Refusal] = []
        self._ended = False
        self._reopened = 0
        self._reopen_at = 0.0  # not before that (monotonic seconds)
        self._broken: str | None = None  # why the run is to be continued in a new service process, if that has not been done
        self._tmp: tempfile.TemporaryDirectory[str] | None = None

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        if (host := settings.missing_key(cls.parsed(options), offline=offline)) is not None:
            raise errors.BackendUnavailableError(
                cls.name,
                f"no API key for {host}; remedy: `wandb login`, WANDB_API_KEY=..., or WANDB_MODE=offline to stay local",
            )

    @classmethod
    def borrowed(cls) -> str | None:
        run = getattr(sys.modules.get("wandb"), "run", None)
        if run is None:
            return None
        run_id = str(run.id)
        cls._lent[run_id] = run
        return run_id

    @classmethod
    def borrowed_project(cls) -> str | None:
        run = getattr(sys.modules.get("wandb"), "run", None)
        return None if run is None else run.project or None

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        wandb = sys.modules["wandb"]
        run_class = sys.modules["wandb.sdk.wandb_run"].Run  # `wandb.Run` is not in older versions (0.19.11)
        names = ["_finish"] if hasattr(run_class, "_finish") else ["finish", "__exit__"]  # both of the others call the first
        endings = [Ending(run_class, name, lambda run, *_: str(run.id)) for name in names]
        return [*endings, Ending(wandb, "teardown", lambda *_: cls.borrowed())]  # it finishes what is not finished yet

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        self._info = run
        lent = self._lent.get(run.resume) if run.resume is not None else None
        joined = lent is not None and not lent._is_finished
        if run.borrowed and not joined:
            raise errors.BackendError(f"your W&B run {run.resume} has ended")
        before = None
        if joined:
            self._run = Run(lent, lent=True)
            _log.warning("joined the active W&B run %s: what it logs with step= may be dropped by W&B", run.resume)
        else:
            self.check(offline=run.offline, options=self.given)  # W&B would ask for a key on a terminal, and wait
            before = rows_before(self._run, run.resume)
            self._run = Run(self._opener.session(run))
        opened = self._run
        self._disabled = bool(opened.sdk.disabled)
        if self._disabled:
            return OpenedRun(opened.id, self._link(opened))
        settling = on_disk(opened) if opened.offline else OnServer(opened)
        self._settling = self._settling or settling  # the former as long as its events may have to be written again
        self._names.in_run(opened.id)
        opened.tell(self._params(opened, run.config), **settings.said_of(run, opened.sdk, lent=joined))
        opened.define()
        if not joined:
            with unread_settings():
                opened.accelerate()
            there = step_there(opened, before) if run.resume is not None or opened.was_there else None
            if run.resume is not None or (opened.id == run.session and opened.offline):
                samples = opened.samples.line if opened.samples is not None else 0
                opened.there = opened.end_of_logs(there, MAX_UNSETTLED + self.batch_events, samples)
        self._refused += self._settling.take_refused()
        self._settling = settling
        if opened.id == run.session:
            remove_begun(opened.folder, run.session)
        return OpenedRun(opened.id, self._link(opened))

    def abandon(self) -> None:
        self._opener.end_service()

    @staticmethod
    def _link(run: Run) -> str | None:
        return f"wandb sync {shlex.quote(run.folder)}" if run.offline else run.sdk.url

    def _opened(self) -> tuple[Run, Settling]:
        if self._run is None or self._settling is None:
            raise errors.BackendError("wandb: open() comes first")
        return self._run, self._settling

    def flush(self) -> None:
        if self._run is not None and self._settling is not None and not self._disabled:
            self._settling.flush()
            if not self._run.offline:
                self._settling.look(now=True)
            if (why := self._settling.given_up()) is not None:
                raise TimeoutError(why)  # it is handed over again; if the run ended now, that would be in vain

    def unsettled(self) -> int:
        if self._run is None or self._settling is None or self._disabled or (self._run.lent and self._run.offline):
            return 0
        if self._ended:
            return self._settling.look()
        if self._settling.left and (self._broken or self._opener.service_is_gone()):
            self._try_again(self._broken or "W&B's service has died")
        return self._look()

    def _look(self, *, now: bool = False) -> int:
        _, settling = self._opened()
        settling.look(now=now)
        if settling.arrived:
            self._reopened = 0
        if (why := settling.stuck()) is not None:
            self._try_again(f"W&B's service has stopped to upload ({why})")
        return settling.left

    def may_settle(self) -> bool:
        return self._settling is not None and self._settling.may_settle

    def take_refused(self) -> list[base.Refusal]:
        refused, self._refused = self._refused, []
        return refused + (self._settling.take_refused() if self._settling is not None else [])

    def behind(self) -> str | None:
        return self._broken or (self._settling.behind() if self._settling is not None else None)

    # -- a new service process in place of one that has died ----------------------------------------------------------

    def _try_again(self, why: str) -> None:
        """Continue the run in a new service process, if that is possible now, and raise an UnsettledLostError."""
        try:
            continued = self._reopen(why)
        except TimeoutError:
            _log.debug("the run cannot be continued yet", exc_info=True)
            return
        if continued:
            raise UnsettledLostError(why)

    def _mend(self) -> None:
        """Do what `_reopen` could not do so far, if there is something."""
        why = self._broken
        if why is not None and self._reopen(why):
            raise UnsettledLostError(why)

    def _reopen(self, why: str) -> bool:
        """Continue the run in a new service process; return False if that is impossible. What was unsettled is lost then.

        Raises:
            TimeoutError: it cannot be done yet, which says nothing of the events that wait; the next call tries again.
        """
        run, _ = self._opened()
        if self._broken is None:
            if run.lent or self._info is None:
                return False
            self._reopened += 1
            self._reopen_at = time.monotonic() + (REOPEN_SECONDS if self._reopened > MAX_REOPENED else 0.0)
            self._broken = why
            restart_service()
            self._trials.forget()
        if time.monotonic() < self._reopen_at:
            raise TimeoutError(why)
        assert self._info is not None
        try:
            self.open(msgspec.structs.replace(self._info, resume=run.id))
        except Exception as error:
            raise TimeoutError(f"{why}, and the run cannot be continued yet: {error}") from error
        self._broken = None
        return True

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self, status: Status) -> None:
        try:
            self._trials.end_all()
            unsent = self._trials.unsent[:]
            if self._run is not None and not self._disabled and not self._run.lent:
                folder = self._end(status)
                if not self._run.offline:
                    self._look(now=True)
                elif folder is not None:
                    unsent.append(folder)
                wait_for_logs(ours=self._info is None or self._info.program.pid != os.getpid())
                self._ended = True
                self._opened()[1].flushed()
        finally:
            if self._tmp is not None:
                self._tmp.cleanup()
                self._tmp = None
        if unsent:
            raise errors.BackendError(f"not stored in time; remedy for what is on disk: wandb sync {' '.join(unsent)}")

    def _end(self, status: Status) -> str | None:
        """End the run; in a new service process, if the former has died. Return as `Run.finish`."""
        self._mend()
        run, _ = self._opened()
        try:
            run.tell({}, status=status, ended=self.iso_time(self.ended_at()))
            return run.finish(status)
        except Exception as error:
            if lost(error) and self._reopen(why := f"W&B's service has died ({error})"):
                raise UnsettledLostError(why) from error
            raise

    @property
    def handle(self) -> Any:
        return self._run and self._run.sdk

    def is_transient(self, error: BaseException) -> bool:
        found = passes(error)
        return super().is_transient(error) if found is None else found

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        if self._disabled:  # the user switched W&B off (WANDB_MODE=disabled)
            self.written = len(events)
            return
        self._mend()
        while self.unsettled() > MAX_UNSETTLED:
            if not self._opened()[1].throttle():
                break
        run, settling = self._opened()
        try:
            with unread_settings(), for_us():
                super().write(events)
        except Exception as error:
            settling.put(events, self.written)
            some_waited = settling.left > 0
            if lost(error) and self._reopen(why := f"W&B's service has died ({error})") and some_waited:
                raise UnsettledLostError(why) from error
            raise
        settling.put(events, len(events))
        run.there.passed(len(events))
        self._names.note(run)

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        run, _ = self._opened()
        for count in run.scalars(events, Keys(lambda event: self._names.key(event.path, event.kind))):
            self.written += count

    def log_histogram(self, event: ev.Histogram) -> None:
        histogram = media.histogram(event)
        if histogram is None:
            self.attach_files(event)
        else:
            self._row(event, histogram)

    def log_image(self, event: ev.Image) -> None:
        import wandb

        self._media(event, lambda: wandb.Image(self._file(event)))

    def log_video(self, event: ev.Video) -> None:
        import wandb

        self._media(event, lambda: wandb.Video(io.BytesIO(event.data), format="gif"))

    def log_audio(self, event: ev.Audio) -> None:
        import wandb

        self._media(event, lambda: wandb.Audio(self._file(event)))

    def log_text(self, event: ev.Text) -> None:
        page, whole = media.page(event)
        self._media(event, lambda: media.html_of(page))
        if not whole:
            self.attach_files(event)

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        self._row(event, media.pr_curve(event), table=True)

    def log_mesh(self, event: ev.Mesh) -> None:
        self._media(event, lambda: media.objects(event))
        if event.config != "{}":
            self.attach(self.artifact_stem(event) + ".config.json", event.config.encode(), event)

    def log_embedding(self, event: ev.Embedding) -> None:
        shown = media.embedding(event)
        self._row(event, shown.table, table=True)
        if not shown.whole:
            self.attach_files(event)
        elif event.sprite is not None and not shown.pictures:
            self.attach(self.artifact_stem(event) + ".sprite.png", event.sprite, event)

    def log_hparams(self, event: ev.HParams) -> None:
        main, _ = self._opened()
        own = event.trial is None
        run = main if event.trial is None else self._trial(event.trial, main)
        params = self._params(run, event.params, event)
        if own:
            config = run.sdk.config
            for key in params:
                if key in config and config[key] != params[key]:  # W&B keeps one value a parameter
                    run.about.setdefault("earlier_values", {}).setdefault(key, []).append(config[key])
            if domain := {self._names.param(k): v for k, v in event.domain.items()}:
                run.about.setdefault("domain", {}).update(domain)
        run.tell(params, event)
        if event.metrics:
            keys = {k: self._names.key(k, ev.Scalar.kind) if own else self._names.plain(k) for k in event.metrics}
            run.row(event, {keys[k]: v for k, v in event.metrics.items()})

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        self._opened()[0].save(path, data, event)

    # -- help -------------------------------------------------------------------------------------------------------

    def _row(self, event: ev.Event, value: Any, *, table: bool = False) -> None:
        """Log one value in a row of its own."""
        self._opened()[0].row(event, {self._names.key(event.path, event.kind, table=table): value})

    def _media(self, event: ev.Event, make: Callable[[], Any]) -> None:
        """Log a media value; what the SDK cannot read as such is still attached as a file."""
        try:
            value = make()
        except (OSError, ValueError, SyntaxError, AssertionError) as error:  # Pillow's and the SDK's for bad data
            _log.warning("W&B cannot show %s %r (%s): attached as a file", event.kind, event.path, error)
            self.attach_files(event)
        else:
            self._row(event, value)

    def _file(self, event: ev.Image | ev.Audio) -> str:
        """Return a temporary file with the encoded data, which the SDK copies into the run, bytes unchanged."""
        if self._tmp is None:
            self._tmp = tempfile.TemporaryDirectory(prefix="tracelet-wandb-")
        suffix, data = next(files.render(event))
        path = Path(self._tmp.name, f"{event.kind}{suffix}")
        path.write_bytes(data)
        return str(path)

    def _params(self, run: Run, params: Mapping[str, Any], event: ev.Event | None = None) -> dict[str, Any]:
        return self._names.params(params, self._paths, lambda path, data: run.save(path, data, event))

    def _trial(self, trial: str, main: Run) -> Run:
        assert self._info is not None
        return self._trials.get(trial, main, self._info)
