"""The console of rich that everything of ours goes through which is more than a line."""

from __future__ import annotations

import re
from typing import Any

import rich.console
from rich.text import Text

from tracelet_shim.display.printable import printable

__all__ = ["Console"]

_COMMAND = re.compile(r"^\s*:(?=:.*::)")
"""At the start of a line it is a command to GitHub Actions."""

_WIDTH = 200


class Console(rich.console.Console):
    """Shows texts as they are: no markup, no names of emojis, no control characters; a cell of a table or a line is one text.

    Args:
        options: of rich's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)
        if not self.is_terminal:
            self.width = _WIDTH  # in a file or a pipe, a wrapped command line is of no use

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is shown of a text; every text comes here."""
        return super().render_str(_COMMAND.sub(r"\\x3a", printable(text)), **options)
