"""Opening runs through the public API, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.swanlab.limits import LABEL
from tracelet_shim.backends.swanlab.off import Off
from tracelet_shim.backends.swanlab.public.link import Here, Process
from tracelet_shim.backends.swanlab.public.run import PublicRun
from tracelet_shim.backends.swanlab.public.sdk import active, active_id
from tracelet_shim.backends.swanlab.public.writer import Writer
from tracelet_shim.backends.swanlab.settings import fields_of, project_name, without_long
from tracelet_shim.common.text import usable

__all__ = ["PublicOpener"]

_NAME, _TAG, _KIND = 250, 200, 256
"""Characters that 0.6 and 0.7 keep of a run's name, of a tag, and of group and kind; they cut the rest off."""


class PublicOpener:
    """Opens the runs of one session: its own, and those of its trials.

    Args:
        options: the user's.
    """

    trials_wait = False
    """Whether the trials of an online run are uploaded at the end."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._opening: Process | None = None
        self._spare: list[Process] = []

    def join(self) -> PublicRun | Off:
        """Write into the run that the user has active."""
        run = active()
        if run is None:
            raise errors.BackendError("your SwanLab run has ended")
        if str(run.mode) == "disabled":
            return Off(active_id(run))
        writer = Writer.join(run)
        opened = PublicRun(Here(writer), writer.begun, own=False)
        opened.project = writer.project()
        return opened

    def session(self, run: RunInfo) -> PublicRun | Off:
        """Open the session's run."""
        fields = fields_of(run, self._options)
        if "SWANLAB_RUN_ID" in os.environ and not fields["id"]:
            fields["id"] = os.environ["SWANLAB_RUN_ID"]
        given = run.project or os.environ.get("SWANLAB_PROJ_NAME") or os.environ.get("SWANLAB_PROJECT")
        fields |= {"project": project_name(run, given), "workspace": self._options.get("workspace")}
        fields["public"] = self._options.get("public")
        opened = self._begin(run, fields, {"session": run.session, "started": run.started})
        if opened.mode != "disabled":
            return opened
        self.end(opened)
        return Off(opened.id)

    def trial(self, run: RunInfo, parent: PublicRun, trial: str, run_id: str, started: float) -> PublicRun:
        """Open the run of a trial; see `tracelet_shim.backends.swanlab.opening.Opener.trial`."""
        fields = {
            **fields_of(run, self._options), "project": parent.project, "mode": parent.mode, "id": run_id,
            "name": trial, "group": parent.id, "job_type": "trial", "description": None, "tags": None,
            "log_dir": str(parent.dir.parent),
        }  # fmt: skip
        return self._begin(run, fields, {"trial": trial, "parent": parent.id, "started": started})

    def _begin(self, run: RunInfo, fields: dict[str, Any], about: Mapping[str, Any]) -> PublicRun:
        here = usable(run.program.cwd)
        fields["log_dir"] = os.path.join(here, fields["log_dir"] or _log_dir())
        if (fields["mode"] or os.environ.get("SWANLAB_MODE")) != "disabled":
            Path(fields["log_dir"]).mkdir(parents=True, exist_ok=True)
        for name, most in (("name", _NAME), ("group", _KIND), ("job_type", _KIND)):
            if len(fields[name] or "") > most:
                fields[name] = Names(LABEL, most)(fields[name])
        fields["tags"], long = without_long(fields["tags"], _TAG)
        host = {name: self._options.get(name) for name in ("api_host", "web_host")}
        link = self._opening = self._spare.pop() if self._spare else Process(here)
        try:
            begun = link.call("begin", fields, fields["id"], about, host)
        except BaseException:
            link.end()
            raise
        finally:
            self._opening = None
        opened = PublicRun(link, begun)
        opened.long_tags = long
        opened.project = fields["project"]
        return opened

    def abandon(self) -> None:
        """End what is being opened, from another thread."""
        if (link := self._opening) is not None:
            link.end()

    def take_up(self, run: PublicRun, *, begun: bool) -> bool:
        """Return whether earlier sessions of this run have stored anything. The writer has taken it up."""
        return run.begun.continues

    def unsent_trials(self, run: PublicRun) -> Iterator[tuple[str, Path]]:
        """Each trial is online as its parent is, at once."""
        return iter(())

    def upload(self, run_id: str, folder: Path) -> None:
        """See there."""
        raise NotImplementedError

    def ended(self, parent: PublicRun, run: PublicRun) -> None:
        """A trial's run has ended: its process can have another one."""
        if isinstance(run.link, Process):
            self._spare.append(run.link)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Runs are ended within this."""
        yield

    def end(self, *runs: PublicRun) -> None:
        """All is over."""
        for link in [*self._spare, *(run.link for run in runs)]:
            link.end()
        self._spare.clear()


def _log_dir() -> str:
    return os.environ.get("SWANLAB_LOG_DIR") or os.environ.get("SWANLAB_LOGDIR") or "swanlog"
