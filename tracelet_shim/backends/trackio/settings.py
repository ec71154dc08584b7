"""Where runs go, and with which token: options first, then the environment. Known without importing the SDK."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tracelet_shim import errors

__all__ = ["check_remote", "remotes", "token"]


def remotes(options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return Space and server of the options; what they leave open, of the environment. A Space wins, as in `init`."""
    space, server = options.get("space_id"), options.get("server_url")
    if not space and not server:
        space, server = os.environ.get("TRACKIO_SPACE_ID"), os.environ.get("TRACKIO_SERVER_URL")
    return (str(space) if space else None, str(server).strip() if server and not space else None)


def token(options: Mapping[str, Any], server: str) -> str | None:
    """Return the token of a server: the option, that in its URL, or that of the environment."""
    given = options.get("write_token") or parse_qs(urlsplit(server).query).get("write_token", [None])[0]
    return str(given) if given else os.environ.get("TRACKIO_WRITE_TOKEN")


def check_remote(options: Mapping[str, Any]) -> None:
    """Raise for a Space or a server that cannot work: no token, no URL."""
    space, server = remotes(options)
    if space:
        if not _has_hub_token():
            raise errors.BackendUnavailableError("trackio", "a Space needs a token: hf auth login, or set HF_TOKEN")
    elif server:
        if not server.startswith(("http://", "https://")):
            raise errors.ConfigurationError("backend 'trackio': server_url must start with http:// or https://")
        if not token(options, server):
            raise errors.BackendUnavailableError(
                "trackio", "a server needs a token: set TRACKIO_WRITE_TOKEN or the option write_token"
            )


def _has_hub_token() -> bool:
    """Look where ``huggingface_hub.get_token`` looks."""
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    file = os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")
    return bool(os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or os.path.exists(file))
