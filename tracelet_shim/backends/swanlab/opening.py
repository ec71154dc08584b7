"""Opening runs with `swanlab.init`, in the user's process or the relay's."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.swanlab.knocking import knock
from tracelet_shim.backends.swanlab.off import Off
from tracelet_shim.backends.swanlab.process import Quiet, apart, leave_alone, readable_environment
from tracelet_shim.backends.swanlab.resume import remove_begun, take_up, unsent_trials, uploaded
from tracelet_shim.backends.swanlab.run import Run
from tracelet_shim.backends.swanlab.settings import fields_of, label, project_name, without_long
from tracelet_shim.backends.swanlab.uploads import bound, no_pages, sync
from tracelet_shim.backends.swanlab.versions import settings_with, tag_length

__all__ = ["Opener"]

_PROBES = ("hardware", "runtime", "requirements", "conda", "git", "swanlab", "monitor")


class Opener:
    """Opens the runs of one session: its own, and those of its trials.

    Hardware, git and packages are not looked at unless ``SWANLAB_PROBE_*`` asks for it.

    Args:
        options: the user's.
    """

    trials_wait = True
    """Whether the trials of an online run are uploaded at the end."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._quiet = Quiet()

    def join(self) -> Run | Off:
        """Write into the run that the user has active."""
        opened = sys.modules["swanlab.sdk.internal.run"]._current_run
        return Off(str(opened.id)) if opened.mode == "disabled" else Run(opened, own=False)

    def session(self, run: RunInfo) -> Run | Off:
        """Open the session's run."""
        asked = [probe for probe in _PROBES if f"SWANLAB_PROBE_{probe.upper()}" in os.environ]
        fields = fields_of(run, self._options)
        fields["tags"], long = without_long(fields["tags"], tag_length())
        opened = self._init(run, run.started, asked, **fields)
        if opened.mode != "disabled":
            own = Run(opened)
            own.long_tags = long
            return own
        with apart():
            opened.finish()
        return Off(str(opened.id))

    def trial(self, run: RunInfo, parent: Run, trial: str, run_id: str, started: float) -> Run:
        """Open, or resume, the run of a trial. It is offline, since ending a run ends the login of the process.

        Args:
            run: the session's.
            parent: that run.
            trial: the trial's name.
            run_id: the id of the run.
            started: when the trial began.
        """
        settings = parent.sdk._ctx.config.settings
        opened = self._init(
            run, started, (), project=settings.project.name, mode="local" if settings.mode == "local" else "offline",
            log_dir=str(parent.dir.parent), id=run_id, resume="allow", name=label(trial), group=parent.id, job_type="trial",
        )  # fmt: skip
        return Run(opened)

    def abandon(self) -> None:
        """What is being opened is begun again by whoever resumes it."""

    def take_up(self, run: Run, *, begun: bool) -> bool:
        """Take up what earlier sessions of this run have stored; return whether there is any. With `begun`, remove what a process
        has left that was killed while it opened the run."""
        if begun:
            remove_begun(run)
        return bool(take_up(run))

    def unsent_trials(self, run: Run) -> Iterator[tuple[str, Path]]:
        """As `tracelet_shim.backends.swanlab.resume.unsent_trials`."""
        return unsent_trials(run)

    def upload(self, run_id: str, folder: Path) -> None:
        """Upload a trial that is on disk only."""
        sync(run_id, folder)
        uploaded(folder)

    def ended(self, parent: Run, run: Run) -> None:
        """A trial's run has ended."""
        parent.log_here()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Runs are ended within this."""
        with apart(), readable_environment():
            yield

    def end(self, *_: Run) -> None:
        """All is over."""
        self._quiet.end()

    def _init(self, run: RunInfo, started: float, probes: Collection[str], *, project: str | None = None, **fields: Any) -> Any:
        settings: dict[str, Any] = {
            "interactive": False, "terminal": {"proxy_type": "none"}, "core": {"skip_store": False},
            "probe": {probe: False for probe in _PROBES if probe not in probes},
        }  # fmt: skip
        settings |= {k: self._options[k] for k in ("api_host", "web_host") if self._options.get(k)}
        with apart(started), readable_environment() as hidden:
            import swanlab

            self._quiet.begin()
            known = settings_with(swanlab.Settings(**settings))
            if (fields["mode"] or known.mode) in ("online", "cloud"):
                knock(known.api_host, str(known.api_key or ""))
            if project is None and not run.project:
                project = known.project.name
            if project is None:
                project = project_name(run, hidden.get("SWANLAB_PROJECT"))
            opened = swanlab.init(
                project=project, workspace=self._options.get("workspace"), public=self._options.get("public"),
                settings=swanlab.Settings(**settings), **fields,
            )  # fmt: skip
            client = getattr(sys.modules.get("swanlab.sdk.internal.core_python.client"), "_default_client", None)
            if client is not None:  # online
                bound(client._session)
                no_pages(client._session)
        leave_alone(opened)
        return opened
