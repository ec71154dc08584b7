r"""Texts that are no UTF-8.

The name of a file is bytes. Python hands it over as a `str` in which each byte that is no UTF-8 is half a surrogate pair
(`os.fsdecode`), and takes it back like that. In this package a path is such a `str` everywhere. What leaves it is one of

- ``escaped``: for messages and the ledger, which hold nothing but UTF-8; `unescaped` gives the same `str` again,
- ``as_utf8``: for trackers and people, ``caf\xe9``,
- ``quoted``: for a command line, ``$'caf\xe9'``, which a shell turns into the bytes again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex

__all__ = ["as_utf8", "escaped", "quoted", "second_name", "unescaped", "usable"]

_HERE = "/proc/self/cwd"
_MARK = "\ue000"  # of private use: nobody has it in a name
_TO_ESCAPE = re.compile(f"[\ud800-\udfff{_MARK}]")
_ESCAPE = re.compile(f"{_MARK}([0-9a-f]{{4}})")
_HALF = re.compile("[\ud800-\udfff]")


def escaped(text: str) -> str:
    """Return a text that UTF-8 can hold, as little changed as may be."""
    return text if text.isascii() else _TO_ESCAPE.sub(lambda found: f"{_MARK}{ord(found[0]):04x}", text)


def unescaped(text: str) -> str:
    """Return what `escaped` was given."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text) if _MARK in text else text


def as_utf8(text: str) -> str:
    r"""Return a text that UTF-8 can hold, for somebody to read: a byte that is none is shown as ``\xe9``."""
    return text if text.isascii() else _HALF.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def usable(directory: str) -> str:
    """Return a directory under a name that UTF-8 can hold: most trackers' SDKs take no other one. Only the working directory has
    a second name, which is right for whoever works there."""
    if as_utf8(directory) == directory:
        return directory
    with contextlib.suppress(OSError):
        if os.path.samefile(directory, _HERE):
            return _HERE
    return directory


def second_name() -> str | None:
    """Return another name of the working directory, if UTF-8 cannot hold its own."""
    with contextlib.suppress(OSError):  # it was deleted
        here = os.getcwd()
        return None if usable(here) == here else usable(here)
    return None


def quoted(path: str) -> str:
    """Return a path as one word of a command line; bash, zsh and ksh turn it into its bytes again."""
    if _HALF.search(path) is None:
        return shlex.quote(path)
    plain = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{as_utf8(plain)}'"
