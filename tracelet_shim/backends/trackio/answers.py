"""What a server's answer says, of which the SDK's client makes errors of many kinds."""

from __future__ import annotations

import json
import re
from typing import Any

from tracelet_shim import errors

__all__ = ["AnswerError", "RefusedTokenError", "no_answer", "understood"]

_TOKEN = re.compile("write_token|hf_token", re.IGNORECASE)
_UPLOAD = re.compile("Uploaded file (was not created|is missing)")


class AnswerError(errors.BackendError):
    """An answer that is an error.

    Attributes:
        status: the HTTP status.
        own: False if it is not in Trackio's form: something in between has answered.
    """

    def __init__(self, status: int, text: str, *, own: bool) -> None:
        super().__init__(f"{status} {text}")
        self.status, self.own = status, own


class RefusedTokenError(errors.BackendError):
    """The server refuses the token, whatever is sent."""


def understood(error: Exception) -> Exception:
    """Return what an error of the SDK's client says; `error` itself where it says that well enough.

    A server of Trackio's answers with JSON that has ``error`` in it if something is wrong, and ``data`` if not (``asgi_app.py``).
    """
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError)):  # of what the client reads
        return no_answer()
    if isinstance(error, RuntimeError):  # to the client each 404 is that of an old server; no server has ``error`` in a 200
        return AnswerError(404 if "does not support" in str(error) else 200, str(error), own=False)
    response = getattr(error, "response", None)  # httpx
    if response is None:
        return error
    text = _error_of(response)
    if text is None:
        return AnswerError(response.status_code, f"{response.reason_phrase} from {response.url}", own=False)
    if _TOKEN.search(text):
        return RefusedTokenError(f"the Trackio server does not accept the token ({response.status_code})")
    if _UPLOAD.search(text):  # it knows uploads by heart
        return ConnectionError("the Trackio server was started again behind an upload")
    return AnswerError(response.status_code, text, own=True)


def no_answer() -> ConnectionError:
    return ConnectionError("the answer is none of Trackio's but a page of what is between us and its server")


def _error_of(response: Any) -> str | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return str(body["error"]) if isinstance(body, dict) and "error" in body else None
