"""Who logs in, as whom MLflow's client asks a server, and what to do if the server does not let them."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

__all__ = ["advice"]

_USER = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def advice(status: int, uri: str) -> str | None:
    """Return what to do about a request that was refused with 401 or 403; None if that is not known.

    Args:
        status: of the answer.
        uri: of the store.
    """
    if urlsplit(uri).scheme not in ("http", "https"):
        return None
    sent = _sent(uri)
    if status == 401 and sent:
        return f"correct {sent}, which the server does not take"
    if status == 401:
        return f"log in with {_USER}, or with MLFLOW_TRACKING_TOKEN; so far none of them is complete"
    if status == 403:
        who = f"to the user of {sent}" if sent else f"to this user, or log in ({_USER}, or MLFLOW_TRACKING_TOKEN)"
        return f"have the permission EDIT on the experiment given {who}"
    return None


def _sent(uri: str) -> str:
    """Return by what names the client's log-in is known; the first that is complete is used (``utils/rest_utils.py``)."""
    from mlflow.utils.credentials import read_mlflow_creds

    known = read_mlflow_creds()
    if "@" in urlsplit(uri).netloc:
        return "user and password in the tracking URI"
    if known.username and known.password:
        in_file = not os.environ.get("MLFLOW_TRACKING_PASSWORD")
        return _USER + (" in ~/.mlflow/credentials" if in_file else "")
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return f"MLFLOW_TRACKING_TOKEN (a server that knows users wants {_USER} instead)"
    return ""
