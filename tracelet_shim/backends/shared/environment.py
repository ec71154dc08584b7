"""Environment variables for a while: what an SDK reads when it is called, and takes in no other way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

__all__ = ["variables"]


@contextlib.contextmanager
def variables(values: Mapping[str, str | None], *, unless_set: bool = False) -> Iterator[None]:
    """Set variables, or take those away that are None, and put back what was there.

    Args:
        values: name -> value.
        unless_set: leave those alone that have a value already.
    """
    changed = [name for name in values if not (unless_set and name in os.environ)]
    before = {name: os.environ.get(name) for name in changed}
    _set({name: values[name] for name in changed})
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
