"""Which errors of MLflow's, of its servers and of databases may pass."""

from __future__ import annotations

import re
import sqlite3

from tracelet_shim.backends.shared.transient import Patience, Verdict, is_refusal, judge

__all__ = ["passes"]

_TRANSIENT_CODES = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "RESOURCE_CONFLICT", "ABORTED", "CANCELLED",
}  # fmt: skip

_ANSWERED = re.compile(r"failed with error code (\d{3}) != 200")
"""`verify_rest_response` (``utils/rest_utils.py``), of an answer that is not in JSON: by a proxy, or by MLflow's log-in."""


def passes(error: BaseException, patience: Patience | None) -> bool | None:
    """Return whether the same request may succeed later; None of an error that has nothing of MLflow's.

    Args:
        error: what was raised.
        patience: for refusals that may pass; None: those of a run are not doubted, there it is the key that is wrong.
    """
    code = getattr(error, "error_code", None)  # MlflowException; the codes are in mlflow/exceptions.py
    if isinstance(code, str):
        if code == "INTERNAL_ERROR" and is_refusal(str(error)):
            return False
        answered = None if hasattr(error, "json") else _ANSWERED.search(str(error))  # RestException has the server's JSON
        return code in _TRANSIENT_CODES if answered is None else _passes(patience, int(answered[1]), own=False)
    response = getattr(error, "response", None)  # requests.HTTPError, from uploading a file
    if response is not None:
        return _passes(patience, response.status_code, own='"error_code"' in response.text)
    cause = getattr(error, "orig", None)  # sqlalchemy.exc.DBAPIError, from opening the database
    if cause is not None and not isinstance(cause, sqlite3.Error):
        return type(error).__name__ in ("OperationalError", "InterfaceError") and not is_refusal(str(error))
    return None


def _passes(patience: Patience | None, status: int, *, own: bool) -> bool:
    return judge(status, own=own) is Verdict.PASSES if patience is None else patience.passes(status, own=own)
