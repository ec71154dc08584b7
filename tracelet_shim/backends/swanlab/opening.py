"""Opening runs with `swanlab.init`, in the user's process or the relay's."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.shared.transient import may_open
from tracelet_shim.backends.swanlab.process import Quiet, apart, leave_alone, readable_environment
from tracelet_shim.backends.swanlab.settings import fields_of, label, project_name
from tracelet_shim.backends.swanlab.uploads import bound, no_pages

__all__ = ["Opener"]

_PROBES = ("hardware", "runtime", "requirements", "conda", "git", "swanlab", "monitor")


class Opener:
    """Opens the runs of one session: its own, and those of its trials.

    Hardware, git and packages are not looked at unless ``SWANLAB_PROBE_*`` asks for it.

    Args:
        options: the user's.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.quiet = Quiet()

    def session(self, run: RunInfo) -> Any:
        """Open the session's run; return the SDK's object."""
        asked = [probe for probe in _PROBES if f"SWANLAB_PROBE_{probe.upper()}" in os.environ]
        return self._init(run, run.started, asked, **fields_of(run, self._options))

    def trial(self, run: RunInfo, parent: Any, trial: str, run_id: str, started: float) -> Any:
        """Open, or resume, the run of a trial. It is offline, since ending a run ends the login of the process.

        Args:
            run: the session's.
            parent: the SDK's object of that run.
            trial: the trial's name.
            run_id: the id of the run.
            started: when the trial began.
        """
        settings = parent._ctx.config.settings
        return self._init(
            run, started, (), project=settings.project.name, mode="local" if settings.mode == "local" else "offline",
            log_dir=str(Path(parent.dir).parent), id=run_id, resume="allow", name=label(trial), group=str(parent.id),
            job_type="trial",
        )  # fmt: skip

    def _init(self, run: RunInfo, started: float, probes: Collection[str], *, project: str | None = None, **fields: Any) -> Any:
        settings: dict[str, Any] = {
            "interactive": False, "terminal": {"proxy_type": "none"}, "core": {"skip_store": False},
            "probe": {probe: False for probe in _PROBES if probe not in probes},
        }  # fmt: skip
        settings |= {k: self._options[k] for k in ("api_host", "web_host") if self._options.get(k)}
        with apart(started), readable_environment() as hidden:
            import swanlab
            from swanlab.sdk.internal.settings import create_settings

            self.quiet.begin()
            known = create_settings()
            known.merge_settings(swanlab.Settings(**settings))
            if (fields["mode"] or known.mode) in ("online", "cloud"):
                _knock(known.api_host, str(known.api_key or ""))
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


def _knock(host: str, key: str) -> None:
    """Log in, as the SDK does next, but only once: it would try for 15 seconds, and then say of a service that is away or busy
    the same as of a wrong key.

    Raises:
        ConnectionError: there is no answer, or one that passes.
    """
    import requests

    try:
        answer = requests.post(f"{host}/api/login/api_key", headers={"authorization": key}, timeout=(5, 15))
    except requests.RequestException as error:
        raise ConnectionError(f"no answer from {host} ({type(error).__name__})") from None
    if may_open(answer.status_code, own="html" not in answer.headers.get("Content-Type", "")):
        raise ConnectionError(f"{host} answers {answer.status_code}")
