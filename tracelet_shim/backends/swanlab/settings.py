"""What the user says of a run, as SwanLab takes it: options, environment, credentials. Needs no SDK."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.options import Parser, choice, directory, switch
from tracelet_shim.backends.shared.values import cut, utf8
from tracelet_shim.backends.swanlab.limits import LABEL, MAX_NOTES, MAX_TAGS, PROJECT, RUN_ID
from tracelet_shim.common.text import as_utf8, second_name, usable

__all__ = ["OPTIONS", "PARSERS", "fields_of", "has_credentials", "label", "project_name", "said_of", "without_long"]

OPTIONS: Mapping[str, str] = {
    "mode": "online, offline, local or disabled",
    "log_dir": "where runs are kept on disk; default: swanlog in the working directory",
    "workspace": "user or team that owns the project",
    "public": "true: everyone may see the project",
    "group": "name that joins several runs",
    "job_type": "kind of run, e.g. train",
    "color": "colour of the run, #rrggbb",
    "api_host": "address of the SwanLab server",
    "web_host": "address of its web pages, if another",
}
PARSERS: Mapping[str, Parser] = {
    "mode": choice("online", "cloud", "offline", "local", "disabled"),
    "log_dir": directory,
    "public": switch,
}
_LOG_DIR = ("SWANLAB_LOG_DIR", "SWANLAB_LOGDIR")


def has_credentials(options: Mapping[str, Any], *, offline: bool) -> bool:
    """True if no key is needed, or one may be found by the SDK."""
    mode = str(options.get("mode") or os.environ.get("SWANLAB_MODE") or "online").strip("'\"")
    if offline or mode not in ("online", "cloud") or os.environ.get("SWANLAB_API_KEY"):
        return True
    login = sys.modules.get("swanlab.sdk.internal.core_python.client")
    if getattr(login, "_default_client", None) is not None:  # swanlab.login() in this process
        return True
    # the SDK reads mode and key from all of these as well (`settings.Settings.settings_customise_sources`)
    home = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR") or "~/.swanlab"
    folders = (Path(".swanlab"), Path(home).expanduser())
    known = [folder / name for folder in folders for name in (".netrc", "config.yaml", "config.yml")]
    known += [Path(".env"), Path("swanlab.yaml"), Path("swanlab.yml")]
    known += Path(os.environ.get("SWANLAB_CONFIG_DIR") or "/etc/swanlab").glob("*.y*ml")
    return bool(os.environ.get("SWANLAB_SECRETS_DIR")) or any(path.is_file() for path in known)


def fields_of(run: RunInfo, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `swanlab.init` is told of the session's run."""
    run_id = run.resume or (Names(RUN_ID, 64)(run.run_id) if run.run_id else None)
    if run_id is None and not os.environ.get("SWANLAB_RUN_ID"):
        run_id = run.session  # whoever goes on after a kill in the middle of this opens the same run
    mode = options.get("mode")
    if run.offline and (mode or os.environ.get("SWANLAB_MODE")) not in ("local", "disabled"):
        mode = "offline"
    folder = options.get("log_dir")
    if not folder and second_name() is not None and not any(map(os.environ.get, _LOG_DIR)):
        folder = "swanlog"  # its own default, by another name: it would name the working directory
    return {
        "log_dir": os.path.join(usable(run.program.cwd), folder) if folder else None,
        "mode": mode,
        "id": run_id,
        "resume": "allow" if run_id else None,
        "name": label(run.exp_name) if run.exp_name else None,
        "description": cut(utf8(run.notes), MAX_NOTES) if run.notes and run.notes.strip() else None,
        "tags": _tags(run.tags)[:MAX_TAGS] or None,
        "group": options.get("group") or (label(run.group) if run.group else None),
        "job_type": options.get("job_type"),
        "color": options.get("color"),
    }


def said_of(run: RunInfo) -> dict[str, Any]:
    """Return what the user said of the run, unchanged: SwanLab's own fields cannot hold all of it."""
    said: dict[str, Any] = {"exp_name": run.exp_name, "run_id": run.run_id}
    said |= {"project": None if run.borrowed else run.project}
    said |= {"tags": run.tags or None, "notes": run.notes, "group": run.group, "root": run.root and as_utf8(run.root)}
    return {"session": run.session, **{k: v for k, v in said.items() if v is not None}}


def project_name(run: RunInfo, of_environment: str | None) -> str:
    """Return the project of a run for which SwanLab's own settings name none: it takes the directory's name as it is, and refuses
    most."""
    return Names(PROJECT, 100)(run.project or of_environment or os.path.basename(run.program.cwd) or "default")


def label(name: str) -> str:
    return Names(LABEL, 512)(name)


def without_long(tags: Sequence[str] | None, most: int) -> tuple[list[str] | None, int]:
    """Return the tags that are no longer than this, and how many are: the config has all of them."""
    short = [tag for tag in tags or () if len(tag) <= most]
    return short or None, len(tags or ()) - len(short)


def _tags(tags: Mapping[str, str]) -> list[str]:
    rule = Names(LABEL, 512)
    return list(dict.fromkeys(rule(f"{name}={value}" if value else name) for name, value in tags.items()))
