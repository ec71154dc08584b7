"""Opening runs with `wandb.init`, in the user's process or the relay's.

A run is opened with ``reinit="create_new"``, which leaves ``wandb.run`` to the user, and then taken off the list of active runs,
since a later plain ``wandb.init()`` of the user would return it (`wandb_init.py`, `most_recent_active_run`). Nothing of the
console, the machine, git or the source code is recorded unless ``options["settings"]`` asks for it.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.shared.environment import variables
from tracelet_shim.backends.shared.values import utf8
from tracelet_shim.backends.wandb import limits
from tracelet_shim.backends.wandb.library import library, service_process
from tracelet_shim.backends.wandb.process import arguments, restart_service, undisturbed
from tracelet_shim.backends.wandb.versions import known_settings, spelled
from tracelet_shim.common.text import usable

__all__ = ["FINISH_SECONDS", "FLUSH_SECONDS", "TRIAL_SECONDS", "Opener"]

FLUSH_SECONDS = 0.2
"""How often W&B's service writes its log to disk (15 s by default); a kill loses what is younger."""
FINISH_SECONDS, TRIAL_SECONDS = 20.0, 5.0
"""How long the end of the session's run, and of a trial's, may take."""

UPLOADS = {
    "x_file_stream_transmit_interval": 3.0, "x_file_stream_timeout_seconds": 20.0, "x_file_stream_max_bytes": 1 << 20,
    "x_file_stream_retry_wait_min_seconds": 1.0, "x_file_stream_retry_wait_max_seconds": 10.0,
    "x_graphql_timeout_seconds": 15.0, "x_graphql_retry_wait_max_seconds": 10.0, "x_file_transfer_retry_wait_max_seconds": 10.0,
    "x_file_transfer_timeout_seconds": 60.0,
}  # fmt: skip
"""Rows are uploaded every 3 seconds instead of 15. A request that is swallowed is given up after 20 seconds instead of 180, for
which it is kept small; that of a file after 60; what failed is tried again after 10 instead of 60 seconds."""


class Opener:
    """Opens the runs of one session: its own, and those of its trials.

    Args:
        options: the user's, parsed.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._settings: Mapping[str, Any] = options.get("settings") or {}
        self._service: Any = None

    def session(self, run: RunInfo) -> Any:
        """Open the session's run; return the SDK's object."""
        run_id = run.resume or (run.run_id and limits.run_id(run.run_id))
        if not run_id and not os.environ.get("WANDB_RUN_ID") and "run_id" not in self._settings:
            run_id = run.session  # whoever goes on after a kill in the middle of this opens the same run
        try:
            return self._init(
                run,
                run_id,
                resume="allow" if run_id else None,
                name=run.exp_name and limits.title(run.exp_name),
                notes=run.notes and utf8(run.notes),
                tags=limits.labels(run.tags) or None,
                group=self._options.get("group") or run.group,
                job_type=self._options.get("job_type"),
            )
        except Exception:
            restart_service()
            raise

    def trial(self, run: RunInfo, parent: str, trial: str, run_id: str) -> Any:
        """Open, or resume, the run of a trial; return the SDK's object.

        Args:
            run: the session's.
            parent: the id of that run.
            trial: the trial's name.
            run_id: the id of the run.
        """
        return self._init(run, run_id, resume="allow", name=limits.title(trial), group=parent, job_type="trial")

    def service_is_gone(self) -> bool:
        """True if W&B's service, where it is ours, has died."""
        process = service_process(self._service)
        return process is not None and process.poll() is not None

    def end_service(self) -> None:
        """Kill W&B's service, where it is ours. If it went on by itself, it would write its own parameters over those of whoever
        resumes the run."""
        if self._service is not None:
            library().kill(self._service)

    def _start_service(self) -> None:
        """Have W&B's service started, if it is not, and killed with this process, before W&B's own exit handler waits for it."""
        service = library().start_service()
        if service is not self._service:
            self._service = service
            atexit.unregister(self.end_service)  # behind W&B's own
            atexit.register(self.end_service)

    def _init(self, run: RunInfo, run_id: str | None, **fields: Any) -> Any:
        here = run.program.pid == os.getpid()
        folder = self._options.get("dir")
        if folder is None and "root_dir" not in self._settings:
            folder = os.environ.get("WANDB_DIR")  # which W&B may have read before
        if folder is None and "WANDB_DIR" not in os.environ and os.path.isdir(run.program.cwd):
            folder = usable(run.program.cwd)
        mode: Any = self._options.get("mode")
        if run.offline and mode != "disabled":
            mode = "offline"
        if not here:
            library().leave_foreign_service()
        offline = "offline" in (mode, self._settings.get("mode"), os.environ.get("WANDB_MODE"))
        if offline and (not here or library().is_unused):
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it uses the network in offline mode as well
        fields |= {
            "project": run.project and limits.project(run.project), "entity": self._options.get("entity"), "dir": folder,
            "id": run_id, "mode": mode,
        }  # fmt: skip
        settings = self._fields(run, here=here, trial=fields["job_type"] == "trial")
        with undisturbed(), library().ours(), arguments(run.program.readable().argv), variables(self._variables(here=here)):
            if not here:
                self._start_service()
            return library().init(fields, settings)

    def _variables(self, *, here: bool) -> dict[str, str | None]:
        """Return what a library of our own goes by, and takes from nowhere else."""
        base_url = self._options.get("base_url")
        if not library().is_own:
            return {}
        silent = {"WANDB_SILENT": "true"} if here else {}
        return {**silent, **({"WANDB_BASE_URL": base_url} if base_url is not None else {})}

    def _fields(self, run: RunInfo, *, here: bool, trial: bool) -> dict[str, Any]:
        """Return the fields of `wandb.Settings`."""
        program = run.program.readable()
        script = program.script or (f"-m {program.module}" if program.module else None)
        inside = program.script is not None and Path(program.script).is_relative_to(program.cwd)
        settings = {
            "console": "off", "silent": here or trial, "quiet": True,
            "label_disable": True, "sync_tensorboard": False,
            "disable_git": True, "disable_code": True, "save_code": False, "x_save_requirements": False,
            "x_disable_stats": True, "x_stats_pid": program.pid, "x_transaction_log_flush_interval": FLUSH_SECONDS,
            **UPLOADS,
            "init_timeout": 15.0, "finish_timeout": TRIAL_SECONDS if trial else FINISH_SECONDS,
            "finish_timeout_raises": True, "base_url": self._options.get("base_url"),
            "program": script, "program_abspath": program.script, "host": program.host,
            "program_relpath": os.path.relpath(program.script, program.cwd) if program.script and inside else script,
            "x_executable": program.executable, "_args": list(program.argv[1:]),
        }  # fmt: skip
        return known_settings({k: v for k, v in settings.items() if v is not None}) | spelled(self._settings)
