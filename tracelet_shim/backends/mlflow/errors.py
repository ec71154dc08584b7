"""Which errors of MLflow's, of its servers and of databases may pass."""

from __future__ import annotations

import re
import sqlite3

from tracelet_shim.backends.shared.transient import Patience, Verdict, is_refusal, judge

__all__ = ["passes", "refused_as"]

_TRANSIENT_CODES = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "RESOURCE_CONFLICT", "ABORTED", "CANCELLED",
}  # fmt: skip
_REFUSALS = {"UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401, "PERMISSION_DENIED": 403}

_ANSWERED = re.compile(r"failed with error code (\d{3}) != 200")
"""`verify_rest_response` (``utils/rest_utils.py``), of an answer that is not in JSON: by a proxy, or by MLflow's log-in."""

_OF_THE_DATABASE = re.compile(r"sqlalche\.me/e/\w+/(?:dbapi|rvf5|4xp6|e3q8|2j85|8s2b|3o7r)\)")
"""How SQLAlchemy marks what is wrong with a connection, a transaction or a pool, and not with what was to be stored. MLflow has
an error code of its own for one of these errors; of the others it says BAD_REQUEST (``store/db/utils.py``)."""


def passes(error: BaseException, patience: Patience | None) -> bool | None:
    """Return whether the same request may succeed later; None of an error that has nothing of MLflow's.

    Args:
        error: what was raised.
        patience: for refusals that may pass; None: those of a run are not doubted, there it is the key that is wrong.
    """
    refused = refused_as(error)
    if refused is not None:
        status, own = refused
        return judge(status, own=own) is Verdict.PASSES if patience is None else patience.passes(status, own=own)
    code = getattr(error, "error_code", None)  # MlflowException; the codes are in mlflow/exceptions.py
    if isinstance(code, str):
        return code in _TRANSIENT_CODES or (code == "BAD_REQUEST" and _OF_THE_DATABASE.search(str(error)) is not None)
    cause = getattr(error, "orig", None)  # sqlalchemy.exc.DBAPIError, from opening the database
    if cause is not None and not isinstance(cause, sqlite3.Error):
        return type(error).__name__ in ("OperationalError", "InterfaceError") and not is_refusal(str(error))
    return None


def refused_as(error: BaseException) -> tuple[int, bool] | None:
    """Return the HTTP status with which a request was refused, and whether by MLflow itself; None if neither says so."""
    response = getattr(error, "response", None)  # requests.HTTPError, from uploading a file
    if response is not None:
        return response.status_code, '"error_code"' in response.text
    code = getattr(error, "error_code", None)
    if not isinstance(code, str):
        return None
    own = getattr(error, "json", None)  # RestException: what the server has answered
    if own is None and (answered := _ANSWERED.search(str(error))):
        return int(answered[1]), False
    if code in _REFUSALS:
        return _REFUSALS[code], True
    said = str(error).partition("[SQL: ")[0]  # behind it there is data
    if code in ("INTERNAL_ERROR", "BAD_REQUEST") and is_refusal(said):  # a gateway's JSON, whose status is not kept; a database
        return (403 if re.search("(?i)forbidden|denied", said) else 401), False
    return None
