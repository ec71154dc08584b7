"""Environment variables for a while: what an SDK reads when it is called, and takes in no other way."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping

__all__ = ["variables"]

_Value = str | None

_lock = threading.Lock()
_before: dict[str, _Value] = {}
"""What the variables had that are set just now."""
_wanted: dict[str, dict[object, _Value]] = {}
"""What each who has set them wants, in order: the runs of several sessions may be served in one process."""


@contextlib.contextmanager
def variables(values: Mapping[str, _Value], *, unless_set: bool = False) -> Iterator[None]:
    """Set variables, or take those away that are None, and put back what was there when nobody wants anything else any more.

    Args:
        values: name -> value.
        unless_set: leave those alone that have a value already.
    """
    mine = object()
    with _lock:
        changed = [name for name in values if not (unless_set and _before.get(name, os.environ.get(name)) is not None)]
        for name in changed:
            _before.setdefault(name, os.environ.get(name))
            _wanted.setdefault(name, {})[mine] = values[name]
            _set(name, values[name])
    try:
        yield
    finally:
        with _lock:
            for name in changed:
                others = _wanted[name]
                del others[mine]
                if others:
                    _set(name, next(reversed(others.values())))
                else:
                    _set(name, _before.pop(name))
                    del _wanted[name]


def _set(name: str, value: _Value) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
