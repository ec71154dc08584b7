"""What a notebook shows of a session."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tracelet_shim.display.printable import printable

if TYPE_CHECKING:
    from tracelet_shim.bus.messages import BackendState

__all__ = ["html_table"]


def html_table(title: str, rows: Iterable[tuple[str, str | None, BackendState]]) -> str:
    """Return a table of (tracker, link or local place of its run, state) for a notebook."""
    head = ("tracker", "run", "state", "delivered", "pending", "set aside", "latest error")
    lines = [f"<table><caption>{_text(title)}</caption>", f"<thead>{_row('th', head)}</thead>", "<tbody>"]
    for name, url, state in rows:
        place = _text(url or "")
        if place.startswith(("https://", "http://")):
            place = f'<a href="{place}" target="_blank" rel="noopener">{place}</a>'
        counts = (str(count) for count in (state.delivered, state.pending, state.failed))
        cells = (_text(name), place, _text(state.state), *counts, _text(state.error or ""))
        lines.append(_row("td", cells))
    return "\n".join([*lines, "</tbody></table>"])


def _text(text: str) -> str:
    return html.escape(printable(text))


def _row(kind: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"
