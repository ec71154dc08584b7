"""What the user says of a run: options, environment, credentials. Needs no SDK."""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tracelet_shim.backends.base import Backend, RunInfo
from tracelet_shim.backends.shared.options import Parser, choice, directory, mapping
from tracelet_shim.backends.wandb.limits import labels

__all__ = ["OPTIONS", "PARSERS", "is_offline", "missing_key", "said_of"]

OPTIONS: Mapping[str, str] = {
    "entity": "user or team that owns the project",
    "mode": "online, offline or disabled",
    "dir": "where W&B writes its wandb/ folder",
    "base_url": "address of the W&B server",
    "group": "name that joins several runs",
    "job_type": "kind of run, e.g. train",
    "registry": "registry that register_as links models into; default: model",
    "settings": "further fields of wandb.Settings, as a dict (or JSON text)",
}
_OFFLINE = ("offline", "disabled", "dryrun")
PARSERS: Mapping[str, Parser] = {"mode": choice("online", "offline", "disabled"), "dir": directory, "settings": mapping}


def is_offline(options: Mapping[str, Any], *, offline: bool) -> bool:
    """Return whether nothing goes to a server; arguments as of `missing_key`."""
    given = options.get("settings") or {}
    mode = options.get("mode") or given.get("mode") or os.environ.get("WANDB_MODE") or _settings_files().get("mode")
    return offline or mode in _OFFLINE


def missing_key(options: Mapping[str, Any], *, offline: bool) -> str | None:
    """Return the server for which W&B would ask for a key; None if it has one, or needs none.

    Args:
        options: parsed.
        offline: no network may be used.
    """
    stored, given = _settings_files(), options.get("settings") or {}
    settings = {**stored, **given}
    if is_offline(options, offline=offline):
        return None
    if settings.get("api_key") or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return None
    default = os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or "https://api.wandb.ai"
    host = urlsplit(str(options.get("base_url") or default)).netloc
    return None if _in_netrc(host) else host


def said_of(run: RunInfo, opened: Any, *, lent: bool) -> dict[str, Any]:
    """Return what the user said of the run and W&B's own fields do not hold unchanged.

    Args:
        run: what it was opened with.
        opened: the SDK's object.
        lent: True for a run of the user's.
    """
    said: dict[str, Any] = {"session": run.session}
    if not lent:
        said["started"] = Backend.iso_time(run.started)
        kept = {"project": opened.project, "exp_name": opened.name, "run_id": opened.id}
        given = {"project": run.project, "exp_name": run.exp_name, "run_id": run.run_id}
        said |= {k: v for k, v in given.items() if v is not None and v != kept[k]}
    if run.tags and (lent or labels(run.tags) != list(run.tags)):
        said["tags"] = run.tags
    return said


def _settings_files() -> dict[str, str]:
    """Return what `wandb login`, `wandb offline` and the like have stored (`sdk/lib/settings_file.py`)."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    found: dict[str, str] = {}
    for path in (Path(folder).expanduser() / "settings", Path(os.environ.get("WANDB_DIR") or ".", "wandb", "settings")):
        parser = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):  # W&B ignores such a file, too
            parser.read(path, encoding="utf-8")
            found |= dict(parser["default"]) if parser.has_section("default") else {}
    return found


def _in_netrc(host: str) -> bool:
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for candidate in candidates:
        with contextlib.suppress(OSError, netrc.NetrcParseError):  # W&B takes neither file
            return netrc.netrc(os.path.expanduser(candidate)).authenticators(host) is not None
    return False
