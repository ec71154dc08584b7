"""Names that a tracker accepts, from tags that accept anything.

A tag may be empty, hold any character and be of any length; a tracker's key may not. The mapping is a rule, not a
table: it needs no state, gives the same key in every run, never maps two tags to one key, and can be undone
(`unescape`). An illegal character becomes ``_xHH_`` (its code point in hexadecimal): ``acc@1`` -> ``acc_x40_1``. A text
that already looks like such an escape has its underscore escaped. A key beyond the tracker's limit is cut and ends in
``_h`` and 16 hex digits of a hash of the whole tag; that alone cannot be undone from the key, so backends attach the
full tag where it happens (`Names.shortened`). A text that itself ends like a cut key has its ``h`` escaped.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from itertools import islice

__all__ = ["Names", "Shortened", "escape", "file_names", "unescape"]

_ESCAPE = re.compile(r"_x([0-9a-f]+)_")
_AMBIGUOUS = re.compile(r"_(?=x[0-9a-f]*_)|(?<=_)h(?=[0-9a-f]{16}\Z)")
"""What must be escaped although it is legal: the key would read as an escape, or as the end of a cut key."""


def escape(text: str, illegal: re.Pattern[str]) -> str:
    """Escape every match of `illegal` in `text`, character by character, so that `unescape` gives `text` back."""
    places = {i for match in illegal.finditer(text) for i in range(*match.span())}
    # An escape begins and ends with an underscore, so it can complete what a legal text before or behind it began:
    # in "_xa@" the key must not begin with "_xa_".
    result = "".join("_" if i in places else char for i, char in enumerate(text))
    places |= {match.start() for match in _AMBIGUOUS.finditer(result)}
    return "".join(f"_x{ord(char):x}_" if i in places else char for i, char in enumerate(text))


def unescape(key: str) -> str:
    """Undo `escape`; ``"_x_"`` is the empty name. A key that was cut, or is none of ours, gives some text."""

    def char(match: re.Match[str]) -> str:
        code = int(match.group(1), 16)
        return chr(code) if code <= sys.maxunicode else match.group()

    return "" if key == "_x_" else _ESCAPE.sub(char, key)


class Names:
    """The rule of one tracker for one kind of name, with what it had to shorten.

    Args:
        illegal: matches what the tracker does not accept.
        max_length: the longest key, in characters or, with `in_bytes`, in UTF-8 bytes.
        empty: what stands for the empty tag; must itself be escaped-looking so that no tag maps to it.

    Attributes:
        shortened: key -> whole name, for every name that had to be cut.
    """

    def __init__(
        self, illegal: str | re.Pattern[str], max_length: int, *, empty: str = "_x_", in_bytes: bool = False
    ) -> None:
        self._illegal = re.compile(illegal) if isinstance(illegal, str) else illegal
        self._max_length = max_length
        self._empty = empty
        self._length: Callable[[str], int] = (lambda s: len(s.encode("utf-8", "surrogatepass"))) if in_bytes else len
        self._known: dict[str, str] = {}
        self.shortened: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """Return the key for `name`. The same name always gives the same key; different names different keys."""
        key = self._known.get(name)
        if key is None:
            key = self._make(name)
            if len(self._known) < 100_000:  # a program that makes up a tag a step must not grow us without end
                self._known[name] = key
        return key

    def _make(self, name: str) -> str:
        key = escape(name, self._illegal) or self._empty
        if self._length(key) <= self._max_length:
            return key
        digest = "_h" + hashlib.blake2s(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        cut = key[: self._max_length - len(digest)]
        while self._length(cut) > self._max_length - len(digest):
            cut = cut[:-1]
        key = cut.rstrip("/. ") + digest
        if len(self.shortened) < 10_000:
            self.shortened[key] = name
        return key


class Shortened:
    """Which whole names a store is still to be told, because a tracker's rules had to cut them.

    Args:
        rules: of one run.
    """

    def __init__(self, *rules: Names) -> None:
        self._rules = rules
        self._told = [0] * len(rules)

    @contextlib.contextmanager
    def telling(self) -> Iterator[dict[str, str]]:
        """Yield key -> whole name of those that are not told yet. They are, if what follows ends without an error."""
        ends = [len(rule.shortened) for rule in self._rules]
        yield {
            key: name
            for rule, start in zip(self._rules, self._told, strict=True)
            for key, name in islice(rule.shortened.items(), start, None)
        }
        self._told = ends

    def everything(self) -> dict[str, str]:
        """Return key -> whole name of all."""
        return {key: name for rule in self._rules for key, name in rule.shortened.items()}


FILE_NAME = re.compile(r"[^A-Za-z0-9._\-/ ]|^\.+(?=/|$)|(?<=/)\.+(?=/|$)|^/|/(?=/)|/$|^ | $|(?<=/) | (?=/)")
"""What may not stand in a relative artifact path: anything but plain ASCII, empty and dot components, absolute paths.

Escapes rather than removes, so ``../../x``, ``/x`` and ``x`` stay apart and inside the tracker's directory."""


def file_names(max_length: int = 180) -> Names:
    """Return the rule for artifact paths: relative, ASCII, no empty, ``.`` or ``..`` component; slashes are folders."""
    return Names(FILE_NAME, max_length)
