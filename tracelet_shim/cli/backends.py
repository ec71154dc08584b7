"""``tracelet-shim backends``: which trackers there are, which are installed, and in which form each gets what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tracelet_shim import errors
from tracelet_shim.display.terminal import say

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["METHODS", "Row", "backends", "markdown", "markdown_how", "markdown_matrix", "markdown_table", "pip_line", "rows"]

METHODS: dict[str, tuple[str, ...]] = {
    "scalar": ("add_scalar", "add_scalars", "session.log_metrics"),
    "histogram": ("add_histogram", "add_histogram_raw"),
    "image": (
        *("add_image", "add_images", "add_image_with_boxes", "add_figure"),
        *("session.log_image", "session.log_figure"),
    ),
    "video": ("add_video",),
    "audio": ("add_audio",),
    "text": ("add_text", "session.log_text"),
    "pr_curve": ("add_pr_curve", "add_pr_curve_raw"),
    "mesh": ("add_mesh",),
    "embedding": ("add_embedding",),
    "tensor": ("add_tensor",),
    "graph": ("add_graph", "add_onnx_graph"),
    "hparams": ("add_hparams", "session.log_params", "session.watch_params", "session.set_summary"),
    "custom_scalars": (
        "add_custom_scalars",
        "add_custom_scalars_multilinechart",
        "add_custom_scalars_marginchart",
    ),
    "table": ("session.log_table",),
    "artifact": ("session.log_artifact",),
    "model": ("session.log_model",),
    "tags": ("session.set_tags",),
    "alert": ("session.alert",),
    "used": ("session.use_artifact",),
    "blob": (),
}
"""Event kind -> the methods of SummaryWriter, and of a session, that make it. A blob is what no other type holds: `add_graph`
writes the run's metadata as one, other programs whatever they like."""

LEVELS = {
    "native": "the tracker's own type for this data",
    "converted": "another type of the tracker that shows the same data",
    "file": "an ordinary file, attached to the run",
    "none": "not sent",
}


class Row(NamedTuple):
    """A registered backend.

    Attributes:
        name: in ``backend=``.
        distribution: the SDK's name on the package index.
        version: the installed one, or None.
        install: the line that installs it, if it is missing.
        problem: why it cannot be loaded; then the rest is None.
        capabilities: event kind -> level, how it is done, and the methods of SummaryWriter.
        options: option -> what it means.
    """

    name: str
    distribution: str | None
    version: str | None
    install: str | None
    problem: str | None
    capabilities: dict[str, dict[str, Any]] | None
    options: dict[str, str] | None = None


def backends(
    trackers: Annotated[list[str] | None, typer.Argument(metavar="TRACKER", hidden=True)] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="Print which form each kind of data has, for each tracker.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown page, with all remarks.")] = False,
) -> None:
    """List the trackers, their installed versions, and how much of what a SummaryWriter writes each shows in which form.

    TRACKER is one of them: how each kind of data is done there, and which options it has.
    """
    found = rows()
    wanted = [name.lower() for name in trackers or ()]
    for name in wanted:
        if name not in [row.name for row in found]:
            say(str(errors.UnknownBackendError(name, [row.name for row in found])))
            raise typer.Exit(2)
    named = [row for row in found if row.name in wanted] or found
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in named], indent=2))
    elif as_markdown:
        typer.echo(markdown(named), nl=False)
    elif matrix:
        _print_matrix(named)
    elif wanted:
        for row in named:
            _print_one(row)
    else:
        _print(found)


def rows() -> list[Row]:
    """Return all registered backends, sorted by name. Imports no tracker's SDK."""
    from tracelet_shim.backends import registry

    found = []
    for name in registry.names():
        try:
            backend = registry.find(name)
        except errors.InvalidBackendError as error:
            found.append(Row(name, None, None, None, str(error), None))
            continue
        version = backend.installed()
        install = None if version else pip_line(name, backend.distribution)
        table = {
            kind.kind: {"level": level.value, "how": how, "methods": list(METHODS[kind.kind])}
            for kind, (level, how) in backend.capabilities.items()
            if kind.kind in METHODS
        }
        table = {kind: table[kind] for kind in METHODS}
        found.append(Row(name, backend.distribution, version, install, None, table, dict(backend.options)))
    return found


def pip_line(name: str, distribution: str) -> str:
    """Name our extra where there is one, since it carries the version range; else a third party's own package."""
    from importlib.metadata import metadata

    if name in (metadata("tracelet-shim").get_all("Provides-Extra") or []):
        return f"pip install 'tracelet-shim[{name}]'"
    return f"pip install {distribution}"


# -- on a terminal ----------------------------------------------------------------------------------------------------


def _print(found: list[Row]) -> None:
    """Print what fits on a terminal of 80 columns and 24 lines."""
    from rich import box
    from rich.table import Table

    from tracelet_shim.display.console import Console

    console = Console()
    table = Table("tracker", "package", "installed", *LEVELS, box=box.SIMPLE_HEAD, padding=(0, 1))
    for row in found:
        levels = [cell["level"] for cell in (row.capabilities or {}).values()]
        counts = (str(levels.count(level) or "") for level in LEVELS) if levels else ()
        table.add_row(row.name, row.distribution, row.version or ("broken" if row.problem else "no"), *counts)
    console.print(table)
    for level, meaning in LEVELS.items():
        console.print(f"  {level:10} {meaning}")
    console.print()
    for row in found:
        if row.problem:
            console.print(f"  {row.name}: {row.problem}", soft_wrap=True)
    if missing := [row for row in found if row.install]:
        console.print(f"  to install {missing[0].name}: {missing[0].install}", soft_wrap=True)
    console.print("  how each is done, and its options: tracelet-shim backends TRACKER")


def _print_matrix(found: list[Row]) -> None:
    from tracelet_shim.display.console import Console

    console = Console()
    for table in _matrices([row for row in found if row.capabilities], console.width):
        console.print(table)
    for level, meaning in LEVELS.items():
        console.print(f"  {level:10} {meaning}")


def _print_one(row: Row) -> None:
    """Print what is known of a tracker: how each kind of data is done, and its options."""
    from rich import box
    from rich.table import Table

    from tracelet_shim.display.console import Console

    console = Console()
    state = row.problem or (f"{row.distribution} {row.version}" if row.version else f"not installed: {row.install}")
    console.print(f"{row.name}: {state}", soft_wrap=True)
    if row.capabilities is None:
        return
    table = Table("data", "form", "how", box=box.SIMPLE_HEAD, padding=(0, 1))
    for kind, cell in row.capabilities.items():
        table.add_row(kind, cell["level"], cell["how"])
    console.print(table)
    if row.options:
        table = Table("option", "meaning", box=box.SIMPLE_HEAD, padding=(0, 1))
        for name, meaning in row.options.items():
            table.add_row(name, meaning)
        console.print(table)
        command = f"tracelet-shim run -b {row.name} --option {row.name}.{next(iter(row.options))}=... -- COMMAND"
        console.print(f"  {command}", soft_wrap=True)


def _matrices(found: Sequence[Row], width: int) -> Iterator[Table]:
    """Yield the matrix: as many trackers beside each other as there is room for, the others below."""
    from rich import box
    from rich.table import Table

    methods = [", ".join(method.removeprefix("add_") for method in METHODS[kind]) for kind in METHODS]
    gap = 3  # between two columns
    names = max(map(len, METHODS)) + gap + max(len(word) for text in methods for word in text.split()) + gap
    left: list[tuple[str, list[str]]] = [
        (row.name, [cell["level"] for cell in row.capabilities.values()]) for row in found if row.capabilities
    ]
    while left:
        room = width - names - 1
        table = Table("data", "written with add_...", box=box.SIMPLE_HEAD)
        columns: list[list[str]] = []
        while left and ((room := room - max(map(len, (left[0][0], *left[0][1]))) - gap) >= 0 or not columns):
            name, column = left.pop(0)
            table.add_column(name, no_wrap=True)
            columns.append(column)
        for kind, text, *levels in zip(METHODS, methods, *columns, strict=True):
            table.add_row(kind, text or "(anything else)", *levels)
        yield table


# -- as Markdown ------------------------------------------------------------------------------------------------------


def markdown(found: Sequence[Row]) -> str:
    """Return a page with the matrix and, for each tracker, how each cell is done."""
    found = [row for row in found if row.capabilities]
    lines = [
        "# What arrives where",
        "",
        "<!-- Made by `tracelet-shim backends --markdown` from the backends' capability tables; do not edit. -->",
        "",
        *markdown_matrix(found, [row.name for row in found]),
    ]
    for row in found:
        lines += ["", f"## {row.name}", "", *markdown_how(row)]
    return "\n".join(lines) + "\n"


def markdown_matrix(found: Sequence[Row], heads: Sequence[str]) -> list[str]:
    """Return the lines of the matrix, with these heads of the trackers' columns, behind what its words mean."""
    return [
        *(f"- **{level}**: {meaning}" for level, meaning in LEVELS.items()),
        "",
        *markdown_table(
            ["data", "written with", *heads],
            [[kind, _methods(kind), *((row.capabilities or {})[kind]["level"] for row in found)] for kind in METHODS],
        ),
    ]


def markdown_how(row: Row) -> list[str]:
    """Return the lines of the table that tells how each cell of one tracker is done."""
    cells = (row.capabilities or {}).items()
    return markdown_table(["data", "form", "how"], [[kind, cell["level"], cell["how"]] for kind, cell in cells])


def _methods(kind: str) -> str:
    return ", ".join(f"`{method}`" for method in METHODS[kind]) or "anything else in an event file"


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    rule = ["---"] * len(head)
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in (head, rule, *body)]


def _cell(text: str) -> str:
    """Keep a bar from ending the cell, and a ``<name>`` outside of code from being taken for HTML."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))
