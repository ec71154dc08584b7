"""Which known name somebody may have meant by one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "slip_of", "unknown_variable"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest of `known`, or an empty string."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def slip_of(variable: str, known: Iterable[str]) -> str | None:
    """Return which of our environment variables this one is but for a slip of a letter or two, or of an underscore."""
    letters = _letters(variable)
    if len(letters) <= len("TRACELET") or len(set("TRACELET").intersection(letters)) < 5:  # the quick no, for most of them
        return None
    for name in known:
        wanted = _letters(name)
        length = len(letters) + len(wanted)
        if abs(len(letters) - len(wanted)) <= 2 and variable != name:
            # A ratio of 1 - n/length: n letters are in one of the two only.
            ratio = difflib.SequenceMatcher(None, letters, wanted).ratio()
            if round(length * (1 - ratio)) <= 2:
                return name
    return None


def unknown_variable(variable: str, near: Iterable[str]) -> str:
    """Return what is said of an environment variable that is none of ours, but seems to be meant for us."""
    hint = did_you_mean(variable, near).replace("'", "")
    return f"environment variable {variable} is not known{hint}; it is ignored"


def _letters(variable: str) -> str:
    return "".join(filter(str.isalnum, variable)).upper()
