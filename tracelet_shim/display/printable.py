"""What may go to a terminal.

A name, a tag, an error or a ledger may be somebody else's, with characters in it that a terminal obeys: titles, colours, a
cleared screen, lines that look like ours, text that runs backwards. The log of a CI job obeys words as well.
"""

from __future__ import annotations

import re

__all__ = ["printable"]

_SPACE = re.compile(r"[ \t\n\v\f\r\x85\u2028\u2029]*[\t\n\v\f\r\x85\u2028\u2029][ \t\n\v\f\r\x85\u2028\u2029]*")
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing round
    "\ud800-\udfff]"  # halves of characters, which stand for bytes that are no UTF-8
    r"|##(?=[\w.-]*\[)"  # ##vso[...] of Azure Pipelines and ##[...] of GitHub Actions are commands wherever they stand
)


def printable(text: str) -> str:
    r"""Return a text as one line that can be shown anywhere: ``\x1b`` for an escape character, a space for line ends and tabs.

    What it returns stays as it is when it comes here again.
    """
    if text.isascii() and text.isprintable() and "##" not in text:  # nearly always
        return text
    return _OBEYED.sub(_escaped, _SPACE.sub(" ", text))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0][-1])
    return found[0][:-1] + (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
