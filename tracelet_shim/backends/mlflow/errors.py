"""Which errors of MLflow's, of its servers and of databases may pass."""

from __future__ import annotations

import sqlite3

from tracelet_shim.backends.shared.transient import Verdict, is_refusal, judge

__all__ = ["passes"]

_TRANSIENT_CODES = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "RESOURCE_CONFLICT", "ABORTED", "CANCELLED",
}  # fmt: skip


def passes(error: BaseException) -> bool | None:
    """Return whether the same request may succeed later; None of an error that has nothing of MLflow's."""
    code = getattr(error, "error_code", None)  # MlflowException; the codes are in mlflow/exceptions.py
    if isinstance(code, str):
        return code in _TRANSIENT_CODES and not (code == "INTERNAL_ERROR" and is_refusal(str(error)))
    response = getattr(error, "response", None)  # requests.HTTPError, from uploading a file
    if response is not None:
        return judge(response.status_code) is Verdict.PASSES
    cause = getattr(error, "orig", None)  # sqlalchemy.exc.DBAPIError, from opening the database
    if cause is not None and not isinstance(cause, sqlite3.Error):
        return type(error).__name__ in ("OperationalError", "InterfaceError") and not is_refusal(str(error))
    return None
