"""Having W&B's SDK do what our runs need without it asking the server first, in the thread that hands it over: a server that does
not answer would hold up the write for minutes, offline as well where W&B's own settings do not say so.

Up to 0.27 a picture or a table is preceded by the question which versions of the SDK the server takes; it is answered here with
one that every server of the last years takes (0.12, of 2022, is what is looked for).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["for_us", "log_tables_unasked", "unless_for_us"]

_NEWEST = "9.9.9"
_working = threading.local()


@contextlib.contextmanager
def for_us() -> Iterator[None]:
    """What this thread does within, it does for our runs."""
    _install()
    before = getattr(_working, "for_us", False)
    _working.for_us = True
    try:
        yield
    finally:
        _working.for_us = before


def unless_for_us(function: Callable[..., Any], answer: Any = None) -> Callable[..., Any]:
    """Return a function of the SDK that returns this answer instead where the SDK works for us."""

    @functools.wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        return answer if getattr(_working, "for_us", False) else function(*args, **kwargs)

    return asked


@functools.cache
def _install() -> None:
    from wandb import util
    from wandb.sdk.data_types.base_types import wb_value

    # the last two would, up to 0.20, read settings for good that the user may still set
    for module, name, answer in (
        (util, "_get_max_cli_version", _NEWEST), (util, "_is_offline", False), (wb_value, "_is_maybe_offline", False),
    ):  # fmt: skip
        if hasattr(module, name):
            setattr(module, name, unless_for_us(getattr(module, name), answer))


def log_tables_unasked(sdk: Any) -> None:
    """Have the SDK not ask the server, for each table that is logged, of which type an artifact of this name is: the names are
    the run's own (`wandb_run.py`, `_assert_can_log_artifact`)."""
    if hasattr(sdk, "_assert_can_log_artifact"):
        sdk._assert_can_log_artifact = lambda _: None
