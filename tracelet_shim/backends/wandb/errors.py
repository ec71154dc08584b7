"""What an error of W&B's SDK means."""

from __future__ import annotations

import re

from tracelet_shim.backends.shared.transient import Verdict, is_refusal, judge, may_open

__all__ = ["lost", "passes"]

_GONE = {"MailboxClosedError", "HandleAbandonedError", "SockClientClosedError", "MailboxError"}  # the last two up to 0.20
_NOT_STARTED = {
    "ServicePollForTokenError", "WandbServiceConnectionError",
    "ServiceStartTimeoutError", "ServiceStartPortError", "ServiceStartProcessError", "ManagerConnectionError",  # up to 0.20
}  # fmt: skip
_PAGE = re.compile(r"(<|\\u003c)(html|!doctype)", re.IGNORECASE)
_LASTING = re.compile("permission denied|not found", re.IGNORECASE)


def lost(error: BaseException) -> bool:
    """Tell whether W&B's service process has died."""
    return isinstance(error, ConnectionError) or bool(_kinds(error) & _GONE)


def passes(error: BaseException) -> bool | None:
    """Tell whether the same may succeed later; None if the error is none of W&B's."""
    kinds = _kinds(error)
    if "AuthenticationError" in kinds:  # also raised if the key could not be verified
        return _unverified(str(error))
    if "UsageError" in kinds:
        return False
    if kinds and type(error).__name__ == "Error" and "nitializing run" in str(error):  # the service's, of no class of its own
        return not _LASTING.search(str(error))
    if lost(error) or kinds & {"CommError", *_NOT_STARTED}:
        text = str(error)
        own = not _PAGE.search(text)
        refused = any(not may_open(int(status), own=own) for status in re.findall(r"\b4\d\d\b", text))
        return not (refused or (own and (_LASTING.search(text) or is_refusal(text))))
    return None


def _unverified(text: str) -> bool:
    statuses = [int(status) for status in re.findall(r"\b[45]\d\d\b", text)]
    return "did not respond" in text or (bool(statuses) and all(judge(status) is Verdict.PASSES for status in statuses))


def _kinds(error: BaseException) -> set[str]:
    """Return the names of the SDK's classes that `error` belongs to; importing them would import the SDK."""
    return {c.__name__ for c in type(error).__mro__ if c.__module__.startswith("wandb.")}
