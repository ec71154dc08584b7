"""Events as columns and rows, and as pages that show them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from tracelet_shim import events as ev

__all__ = ["COUNTS", "bucket_numbers", "graph_nodes", "markdown", "node_page", "pr_curve_columns"]

COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")
"""The counts of a PR curve, in the order in which TensorBoard has them."""


def pr_curve_columns(event: ev.PRCurve) -> dict[str, tuple[float, ...]]:
    """Return the columns of a PR curve, one value a threshold: threshold, the `COUNTS`, precision, recall."""
    last = max(len(event.precision) - 1, 1)
    return {
        "threshold": tuple(i / last for i in range(len(event.precision))),
        **{name: getattr(event, name) for name in COUNTS},
        "precision": event.precision,
        "recall": event.recall,
    }


def markdown(event: ev.Table, most_rows: int) -> str:
    """Return a table as Markdown, which says how many rows it lacks beyond `most_rows`."""
    lines = [_line(event.columns), _line(["---"] * len(event.columns)), *map(_line, event.rows[:most_rows])]
    left = len(event.rows) - most_rows
    return "\n".join([*lines, *(["", f"... and {left:,} more rows"] if left > 0 else [])])


def _line(cells: Iterable[ev.Cell]) -> str:
    texts = ("" if cell is None else "<br>".join(str(cell).replace("|", "\\|").splitlines()) for cell in cells)
    return f"| {' | '.join(texts)} |"


def bucket_numbers(event: ev.Histogram) -> dict[str, float]:
    """Return what a histogram has beside its buckets."""
    return {name: getattr(event, name) for name in ("min", "max", "num", "sum", "sum_squares")}


def graph_nodes(graph_def: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield name, operation and inputs of each node of a GraphDef."""
    from tensorboard.compat.proto import graph_pb2

    for node in graph_pb2.GraphDef.FromString(graph_def).node:
        yield node.name, node.op, ", ".join(node.input)


def node_page(graph_def: bytes) -> bytes:
    """Return a web page that lists the nodes of a GraphDef, in the colours of the page around it."""
    style = (
        "<style>:root{color-scheme:light dark}body{margin:0;padding:12px;font:13px system-ui,sans-serif}"
        "td,th{padding:2px 8px;text-align:left;vertical-align:top}</style>"
    )
    head = "<tr><th>node</th><th>operation</th><th>inputs</th></tr>"
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in node) for node in graph_nodes(graph_def))
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    page = f"<!doctype html><html><head><meta charset=utf-8>{style}</head><body><table>{head}{table}</table></body></html>"
    return page.encode("utf-8", "backslashreplace")
