"""Which HTTP answers pass: the one table that all trackers' clients are measured by.

An SDK has a table of its own, and most are too short: a 504 that is not tried again, a 403 of a proxy or a quota that is taken
for the service's last word. What counts here is who answered. A service has its own way to say no (its *envelope*: ClearML's
``meta``, a code, a JSON field); an error without that comes from something in between, and says nothing of the event.
"""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Callable

__all__ = ["Patience", "Verdict", "is_refusal", "judge", "may_open"]

_PASSES = frozenset({408, 425, 429})
"""Request timeout, too early, too many requests."""
_MAY_PASS = frozenset({401, 402, 403, 407, 423, 451})
"""Of who asks, not of what was sent: a token that is being renewed, a quota, a proxy's rule. True of all requests, or of none."""
_LASTS = frozenset({411, 413, 414, 431})
"""Of the size of what was sent, whoever says so."""


class Verdict(enum.Enum):
    """What an answer means for the same request, sent again."""

    DONE = "done"
    PASSES = "passes"
    MAY_PASS = "may pass"  # noqa: S105 - no password
    LASTS = "lasts"


def judge(status: int, *, own: bool = True) -> Verdict:
    """Return what an HTTP status means.

    Args:
        status: the status; below 100: there was no answer.
        own: False if the answer has not the service's own form.
    """
    if 200 <= status < 300 and own:
        return Verdict.DONE
    if status in _PASSES or status < 400 or status >= 500:  # a page with 200, or a way to one, is a proxy's: nothing was stored
        return Verdict.PASSES
    if status in _LASTS:
        return Verdict.LASTS
    return Verdict.MAY_PASS if status in _MAY_PASS or not own else Verdict.LASTS


def may_open(status: int, *, own: bool = True) -> bool:
    """Return whether a run that could not be opened for this answer can be opened later; arguments as of `judge`.

    There a service's own no is believed at once, so that whoever has the wrong key hears of it. A page that says the same comes
    from a proxy, and does not: it may be gone in a minute, and training does not wait for it. Not for services that leave it to a
    proxy to ask for the password (MLflow, Aim, Trackio): what that says is their no.
    """
    return judge(status, own=own) is Verdict.PASSES or (not own and status in _MAY_PASS)


class Patience:
    """How long a refusal is doubted that may pass.

    After so many seconds without one good answer it is believed, of the one event that is asked about: the worker asks for the
    batch and then for its first event. Then doubt begins anew. So what a proxy will never let through is set aside, and a
    service that refuses everything loses us one event in all that time, not all of them.

    Args:
        seconds: how long.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: float | None = None
        self._believed = 0

    def passes(self, status: int, *, own: bool = True) -> bool:
        """Return whether a request that was answered so is to be sent again; arguments as of `judge`."""
        verdict = judge(status, own=own)
        if verdict is not Verdict.MAY_PASS:
            return verdict is Verdict.PASSES
        now = self._clock()
        if self._since is None:
            self._since = now
        if now - self._since < self._seconds:
            return True
        self._believed += 1
        if self._believed == 2:
            self.reset()
        return False

    def reset(self) -> None:
        """There was a good answer."""
        self._since = None
        self._believed = 0


_REFUSAL = re.compile(
    r"not logged in|login failed|unauthori[sz]ed|unauthenticated|not authenticated|(cannot|could not|failed to) authenticate"
    r"|authentication (failed|error|credentials)|(invalid|incorrect|unknown|wrong) (api[ _-]?)?(key|token|credentials|password)"
    r"|api[ _-]?key|access denied|permission denied|forbidden|credential configuration|no password supplied"
    r"|\b(role|database) .{1,80} does not exist|unknown database",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """True if an error says that a key, a login or a right is missing or wrong: no waiting changes that. For SDKs and servers
    that have no type or code of their own for it."""
    return _REFUSAL.search(text) is not None
