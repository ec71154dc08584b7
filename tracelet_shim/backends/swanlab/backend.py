"""SwanLab (checked with 0.6.2 to 0.10.3): online, or offline into ``swanlog/run-*`` for `swanlab sync`.

Delivery. Which way the installed SDK is taken says `road`. From 0.8 on records go straight to the run's core (`run`), else values
through the public API (`public`); so they fail here if they fail, and are in the file before `write` returns. Online, the SDK
uploads from then on, at its own pace, watched (`uploads`): what the service has not taken is unsettled; when the run ends, it
stays in the file, for `swanlab sync`.

Keys. A key has one type. So scalars have the tag as key, other types the tag and their name: ``weights (histogram)``. What
SwanLab strips or refuses, and what we append, is escaped (`limits`); where a repeated or an odd step goes says `run`.

A trial of a sweep is a run of its own (`trials`). The user's process is left as it is (`process`).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim import events as ev
from tracelet_shim.backends.base import Acknowledged, Capability, Ending, Level, OpenedRun, Refusal, RunInfo, Status
from tracelet_shim.backends.render import files
from tracelet_shim.backends.render.tables import node_page
from tracelet_shim.backends.shared.names import Names, Shortened
from tracelet_shim.backends.shared.options import Parser
from tracelet_shim.backends.shared.rows import Keys
from tracelet_shim.backends.shared.transient import may_open
from tracelet_shim.backends.shared.values import plain, utf8
from tracelet_shim.backends.shared.versions import Versions
from tracelet_shim.backends.swanlab import charts, own_forms, settings
from tracelet_shim.backends.swanlab.limits import KEY, MAX_BYTES, MAX_ITEMS, MAX_KEY, MAX_OLD_KEY, MAX_PARAM, PARAM
from tracelet_shim.backends.swanlab.off import Off
from tracelet_shim.backends.swanlab.own_forms import OwnForms
from tracelet_shim.backends.swanlab.probe import PROBE, own_hook
from tracelet_shim.backends.swanlab.public.opening import PublicOpener
from tracelet_shim.backends.swanlab.public.sdk import active, active_id
from tracelet_shim.backends.swanlab.road import Road, Run, Uploads, core_lacks, find
from tracelet_shim.backends.swanlab.trials import TrialRuns
from tracelet_shim.backends.swanlab.uploads import sync_command

__all__ = ["SwanLabBackend"]

MAX_WAITING = 200_000
"""Records that wait for the service in the SDK's memory; more wait in the event file (the relay tries again)."""
FINISH_SECONDS = 40.0  # the SDK itself would wait for a dead service without end


class SwanLabBackend(OwnForms):
    name = "swanlab"
    module = "swanlab"
    distribution = "swanlab"
    versions = Versions("0.6.2", "0.10.3")  # 0.6.0 and 0.6.1 have no offline mode
    probe = PROBE
    own_hook = staticmethod(own_hook)
    cannot_fetch = staticmethod(own_forms.cannot_fetch)
    credentials = "check the API key (`swanlab login`, SWANLAB_API_KEY), or stay local with SWANLAB_MODE=offline"
    options: ClassVar[Mapping[str, str]] = settings.OPTIONS
    parsers: ClassVar[Mapping[str, Parser]] = settings.PARSERS
    acknowledged = Acknowledged(
        here="the record is in the run's log",
        server="the SDK's uploads, watched; what may pass stays in its queue; a trial of a sweep when it is uploaded, at its end",
        again="the server keeps the first point of a key and step; offline, the log is read",
    )
    capabilities: ClassVar[Mapping[type[ev.Event], Capability]] = {
        ev.Scalar: Capability(
            Level.NATIVE, "scalar, float64, wall time kept; repeated, negative and huge steps in keys of their own"
        ),
        ev.Histogram: Capability(
            Level.CONVERTED, f"ECharts bars, up to {charts.BINS} uniform bins; exact buckets in the same JSON"
        ),
        ev.Image: Capability(Level.NATIVE, "Image, TensorBoard's own file; beyond 10 MiB attached"),
        ev.Video: Capability(Level.NATIVE, "Video (GIF), the same bytes; beyond 10 MiB attached"),
        ev.Audio: Capability(Level.NATIVE, "Audio, the same bytes; beyond 10 MiB attached"),
        ev.Text: Capability(Level.NATIVE, "Text"),
        ev.PRCurve: Capability(Level.CONVERTED, "ECharts line, with thresholds and counts in its dataset"),
        ev.Mesh: Capability(Level.NATIVE, "Object3D: GLB with vertex colours, or a point cloud; PLY beyond 10 MiB"),
        ev.Embedding: Capability(
            Level.CONVERTED, f"ECharts scatter of two principal axes ({charts.CHART_POINTS} points), and exact TSV/PNG files"
        ),
        ev.Tensor: Capability(Level.FILE, "saved with the run as .npy"),
        ev.Graph: Capability(Level.CONVERTED, "Html table of the nodes, and .pbtxt and .pb files"),
        ev.HParams: Capability(Level.NATIVE, "config and scalars; a further trial is a run in the run's group"),
        ev.CustomScalars: Capability(Level.FILE, "saved with the run as .json; SwanLab keeps layouts on its server"),
        **own_forms.CAPABILITIES,
        ev.Blob: Capability(Level.FILE, "saved with the run"),
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._names = Names(KEY, MAX_KEY)
        self._param_names = Names(PARAM, 512)
        self._shortened = Shortened(self._names, self._paths, self._param_names)
        self._road: Road | None = None
        self._main: Run | None = None
        self._trials: TrialRuns | None = None
        self._taken: set[tuple[Any, ...]] = set()  # of scalars their records, of others (record, kind, part)
        self._uploads: Uploads | None = None  # outlives the run: it is asked after the end, too
        self._joined = self._disabled = self._writing = False

    # -- what can be known without importing the SDK ----------------------------------------------------------------

    @classmethod
    def check(cls, *, offline: bool, options: Mapping[str, Any]) -> None:
        super().check(offline=offline, options=options)
        if not settings.has_credentials(cls.parsed(options), offline=offline):
            raise errors.BackendUnavailableError(
                cls.name, "no API key; remedy: `swanlab login`, SWANLAB_API_KEY=..., or SWANLAB_MODE=offline"
            )

    @classmethod
    def borrowed(cls) -> str | None:
        run = active()
        return None if run is None else active_id(run)

    @classmethod
    def borrowed_project(cls) -> str | None:
        run = active()
        if run is None:
            return None
        name = getattr(getattr(run, "public", None), "project_name", None)
        return str(name) if name else run._ctx.config.settings.project.name

    @classmethod
    def ends(cls) -> Sequence[Ending]:
        run = active()
        return [] if run is None else [Ending(type(run), "finish", lambda *_: cls.borrowed())]

    # -- the run ----------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo) -> OpenedRun:
        self._joined = run.resume is not None and self.borrowed() == run.resume
        if run.borrowed and not self._joined:
            raise errors.BackendError(f"your SwanLab run {run.resume} has ended")
        if not self._joined:
            self.check(offline=run.offline, options=self.given)
        self._road = road = self._find_road(core_lacks())
        main = road.join() if self._joined else self._session(run)
        road = self._road
        if isinstance(main, Off):
            self._disabled = True
            return OpenedRun(main.id)
        self._main = main
        self._uploads = main.uploads
        self._trials = TrialRuns(main, run, road)
        earlier = road.take_up(main, begun=main.id == run.session) if not self._joined else False
        self._trials.continued |= earlier
        if main.mode == "online" and earlier:
            self._trials.take_up(road.unsent_trials(main))
        if not self._joined:
            main.describe(run.program)
        for kind, text in main.limits():
            self.notice(kind, text)
        self._say_of(main, run)
        self._set_params(main, run.config)
        main.flush()
        again = " --start-step 0" if earlier and road.trials_wait else ""  # adds to what is there, instead of what is beyond it
        links: dict[str, Callable[[], str]] = {
            "online": lambda: main.url,
            "local": lambda: f"swanlab watch {shlex.quote(str(main.dir.parent))}",
            "offline": lambda: f"{main.remedy}{again}",
        }
        return OpenedRun(main.id, links[main.mode]())

    def _session(self, run: RunInfo) -> Run | Off:
        """Open the session's run; through the public API, if a core that seemed to be the one we know is another one."""
        try:
            return self._opened_road().session(run)
        except (AttributeError, ImportError, TypeError) as error:
            if isinstance(self._road, PublicOpener):
                raise
            self._road = self._find_road(f"{type(error).__name__}: {error}")
            return self._road.session(run)

    def _find_road(self, lacking: str | None) -> Road:
        """Return the way that the installed SDK is taken, whose core lacks this; what goes with that is set, too."""
        if lacking is not None:
            self._names = Names(KEY, MAX_OLD_KEY)
            self._shortened = Shortened(self._names, self._paths, self._param_names)
            if lacking != "swanlab.sdk":
                self.notice("core", f"the core of the installed SwanLab is not as known ({lacking}): its public API is used")
        return find(self.given, lacking)

    def abandon(self) -> None:
        if self._road is not None:
            self._road.abandon()

    @staticmethod
    def _say_of(main: Run, run: RunInfo) -> None:
        """Put what is said of the run into its config; of tags that it has, `resume` goes on with what they were set to."""
        known, said = main.about.get("tags") or {}, settings.said_of(run)
        given = said.get("tags") or {}
        tags = {**given, **known} if run.resume else {**known, **given}
        main.about |= {**said, **({"tags": tags} if tags else {})}

    def _opened(self) -> tuple[Run, TrialRuns]:
        if self._main is None or self._trials is None:
            raise errors.BackendError("swanlab: open() comes first")
        return self._main, self._trials

    def _opened_road(self) -> Road:
        if self._road is None:
            raise errors.BackendError("swanlab: open() comes first")
        return self._road

    def flush(self) -> None:
        if self._main is not None and self._trials is not None:
            self._main.flush()
            self._trials.flush()

    def close(self, status: Status) -> None:
        main, trials = self._main, self._trials
        if main is None or trials is None:
            return
        self.flush()
        trials.end_all()
        self._main = None
        unsent = list(trials.unsent())
        remedies = [*([] if self._joined else [main.remedy]), *(sync_command(*each) for each in unsent[:10])]
        failed = self._finish(main, trials, status, unsent)
        if self._road is not None:
            self._road.end(main)
        if failed:
            raise errors.BackendError(f"not all was uploaded ({failed}), but it is on disk: {' && '.join(remedies)}")

    def _finish(self, main: Run, trials: TrialRuns, status: Status, unsent: Sequence[tuple[str, Path]]) -> str | None:
        """End the run and upload its trials, with a limit of time; return what was in the way."""
        road, done, failed = self._opened_road(), threading.Event(), list[str]()

        def finish() -> None:
            try:
                with road.ending():
                    if not self._joined and (problem := main.finish(status, self.ended_at())):
                        failed.append(problem)
                    for run_id, folder in unsent:
                        road.upload(run_id, folder)
                    if trials.problem is not None:
                        failed.append(trials.problem)
                    else:
                        trials.uploaded()
            except Exception as error:
                failed.append(f"{type(error).__name__}: {error}")
            done.set()

        threading.Thread(target=finish, name="tracelet-swanlab-finish", daemon=True).start()
        if not done.wait(FINISH_SECONDS):
            failed.append(f"the service did not take it within {FINISH_SECONDS:.0f} s")
        return failed[0] if failed else None

    def unsettled(self) -> int:
        waiting = self._uploads.unsettled() if self._uploads is not None else 0
        return waiting + (self._trials.waiting if self._trials is not None else 0)

    def behind(self) -> str | None:
        return self._uploads.behind() if self._uploads is not None else None

    def take_refused(self) -> list[Refusal]:
        return self._uploads.take_refused() if self._uploads is not None else []

    @property
    def handle(self) -> Any:
        return self._main and self._main.sdk

    def is_transient(self, error: BaseException) -> bool:
        kinds = {c.__name__ for c in type(error).__mro__}  # importing the SDK's classes would import the SDK
        if "ApiError" in kinds:
            status = getattr(getattr(error, "response", None), "status_code", None)
            return status is None or may_open(status, own=getattr(error, "code", "") != "unknown code")
        if "RequestException" in kinds:
            return bool(kinds & {"ConnectionError", "Timeout", "ChunkedEncodingError", "RetryError"})
        found = re.search(r"Failed to start run.*\[Errno (\d+)\]", str(error), re.DOTALL)
        if isinstance(error, RuntimeError) and found:  # of an OSError, the SDK's `protocol.core` keeps the text alone
            return super().is_transient(OSError(int(found[1]), str(error)))
        return super().is_transient(error)

    # -- events -----------------------------------------------------------------------------------------------------

    def write(self, events: Sequence[ev.Event]) -> None:
        self.written = 0
        if self._disabled:  # the user switched SwanLab off
            self.written = len(events)
            return
        main, _ = self._opened()
        if not main.alive:
            raise errors.BackendError("the program has finished the SwanLab run that it shared")
        if main.waiting() > MAX_WAITING:
            raise TimeoutError("SwanLab's service is behind")
        self._writing = True
        try:
            super().write(events)
            with self._shortened.telling() as whole:
                main.note_names(whole)
        finally:
            self._writing = False
            try:
                self.flush()
            except OSError:
                self.written = 0  # in a buffer only: they will come again, and `_taken` knows them then
                raise
            main.uploads.mark(self.written)
            self._forget(events[: self.written])

    def _forget(self, events: Sequence[ev.Event]) -> None:
        """These have been stored, and do not come again. Others, behind one that was refused, may be stored too, and do."""
        if self._taken:
            records = {event.record for event in events}
            self._taken -= records
            self._taken = {token for token in self._taken if token[0] not in records}

    def _once(self, event: ev.Event, deliver: Callable[[], None], part: str = "") -> None:
        """Call `deliver`, unless that was done in an earlier attempt at this batch."""
        token = (event.record, event.kind, part)
        if token not in self._taken:
            with self._opened()[0].of(event):
                deliver()
            self._taken.add(token)

    def _key(self, event: ev.Event) -> str:
        return f"{self._names(event.path)} ({event.kind})"

    def log_scalars(self, events: Sequence[ev.Scalar]) -> None:
        main, _ = self._opened()
        taken = self._taken
        keys = Keys(lambda event: self._names(event.path))
        points = [(event, keys.of(event), event.step) for event in events if event.record not in taken]
        try:
            main.scalars(points, taken)
        except BaseException:
            self.written += sum(1 for _ in takewhile(lambda event: event.record in taken, events))
            raise

    def _media(self, event: ev.Event, kind: str, items: Sequence[tuple[str, bytes]]) -> bool:
        """Deliver (suffix, content) as media of SwanLab's type `kind`; return False, and attach, what is too large."""
        main, _ = self._opened()
        if not items or len(items) > MAX_ITEMS or max(len(data) for _, data in items) > MAX_BYTES:
            self.attach_files(event)
            return False
        had = True

        def deliver() -> None:
            nonlocal had
            had = main.media(self._key(event), kind, event.step, items, event.wall_time)
            if not had:
                self.attach_files(event)

        self._once(event, deliver)
        return had

    def log_image(self, event: ev.Image) -> None:
        self._media(event, "image", [(event.format, event.data)])

    def log_video(self, event: ev.Video) -> None:
        self._media(event, "image", [("gif", event.data)])  # as swanlab.Video does

    def log_audio(self, event: ev.Audio) -> None:
        suffix, data = next(files.render(event))
        self._media(event, "audio", [(suffix[1:], data)])

    def log_text(self, event: ev.Text) -> None:
        self._media(event, "text", [("txt", utf8(event.text).encode())])

    def log_histogram(self, event: ev.Histogram) -> None:
        self._media(event, "echarts", [charts.histogram(event)])

    def log_pr_curve(self, event: ev.PRCurve) -> None:
        self._media(event, "echarts", [charts.pr_curve(event)])

    def log_mesh(self, event: ev.Mesh) -> None:
        if self._media(event, "object3d", charts.objects(event)) and event.config != "{}":
            self.attach(self.artifact_stem(event) + ".config.json", event.config.encode(), event)

    def log_embedding(self, event: ev.Embedding) -> None:
        self.attach_files(event)
        chart = charts.embedding(event)
        if chart is not None and len(chart[1]) <= MAX_BYTES:
            self._media(event, "echarts", [chart])

    def log_graph(self, event: ev.Graph) -> None:
        self.attach_files(event)
        page = node_page(event.graph_def)
        if len(page) <= MAX_BYTES:
            self._media(event, "html", [("html", page)])

    def log_hparams(self, event: ev.HParams) -> None:
        main, trials = self._opened()
        run = main if event.trial is None else trials.get(event.trial, event.wall_time)
        run.latest = event.wall_time
        for field in ("domain", "metrics"):
            if given := getattr(event, field):
                run.about[field] = {**run.about.get(field, {}), **given}
        with run.of(event):
            self._set_params(run, event.params)
        if event.trial is not None:
            trials.waits()
        for name, value in event.metrics.items():
            put = (self._names(name), event.step, value, event.wall_time)
            self._once(event, lambda put=put: run.scalar(*put), name)  # type: ignore[misc]

    def attach(self, path: str, data: bytes, event: ev.Event) -> None:
        run = self._opened()[0]
        with run.of(event) if self._writing else contextlib.nullcontext():  # what ran is no event
            run.save(path, data)

    def _set_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Set parameters, and what else the config has; attach the whole text of one that is too long."""
        result: dict[str, Any] = {}
        for name, given in params.items():
            key, value = self._param_names(str(name)), plain(given)
            if isinstance(value, str) and len(value) > MAX_PARAM:
                digest = hashlib.blake2s(value.encode(), digest_size=4).hexdigest()
                path = f"hparams/{self._paths(str(name))}={digest}.txt"
                run.save(path, value.encode())
                value = f"{value[:MAX_PARAM]}... (cut, whole text in {path})"
            result[key] = "None" if value is None else value  # the config makes {} of it
        known = run.config
        for key, value in result.items():
            if key in known and known[key] != value:  # SwanLab keeps one value a parameter
                run.about.setdefault("earlier_values", {}).setdefault(key, []).append(known[key])
        run.set_config({**result, "tracelet": plain(run.about)})
