"""A tracker's own options, typed: what stands in ``options={"<tracker>": {...}}`` or in a variable, where all is text.

A parser takes what the user gave, which is never None or empty, and raises a ValueError whose text follows "option name=value".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Parser", "choice", "directory", "mapping", "parse", "seconds", "switch", "switched"]

Parser = Callable[[Any], Any]

_ON = frozenset({"1", "true", "yes", "on", "y", "t"})
_OFF = frozenset({"0", "false", "no", "off", "n", "f", "none"})


def switch(value: Any) -> bool:
    """Return True or False for the words that people have for it: the only table of them."""
    said = str(value).strip().lower()
    if said not in _ON and said not in _OFF:
        raise ValueError("is neither true nor false")
    return said in _ON


def switched(value: Any) -> bool | None:
    """Return the same of a variable of an SDK's, which may hold anything; None if it is neither, or not set."""
    try:
        return None if value is None else switch(value)
    except ValueError:
        return None


def choice(*names: str) -> Parser:
    """Return a parser that takes one of `names`."""

    def parser(value: Any) -> str:
        if value not in names:
            raise ValueError(f"is none of {', '.join(names)}")
        return str(value)

    return parser


def directory(value: Any) -> str:
    """Return a local path with the home directory filled in."""
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or "\0" in path or re.match(r"[A-Za-z][\w+.-]+://", path):
        raise ValueError("is no local path")
    return os.path.expanduser(path)


def seconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not number >= 0:
        raise ValueError("is no number of seconds")
    return number


def mapping(value: Any) -> dict[str, Any]:
    """Return a table, given as such or as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"is no JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ValueError("is no table: a dict, or JSON")  # noqa: TRY004 - what parsers raise
    return dict(value)


def parse(given: Mapping[str, Any], parsers: Mapping[str, Parser]) -> dict[str, Any]:
    """Return those of the options that were given, parsed. Empty ones were not.

    Raises:
        ValueError: a value is none; the text names option and value.
    """
    parsed = {}
    for name, value in given.items():
        if value is None or value == "":
            continue
        try:
            parsed[name] = parsers[name](value) if name in parsers else value
        except ValueError as error:
            raise ValueError(f"option {name}={value!r} {error}") from None
    return parsed
