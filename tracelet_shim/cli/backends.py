"""``tracelet-shim backends``: which trackers are registered, and which of them are installed."""

from __future__ import annotations

import json
from typing import Annotated, NamedTuple

import typer

__all__ = ["backends"]


class _Row(NamedTuple):
    name: str
    distribution: str | None
    version: str | None
    install: str | None
    problem: str | None


def backends(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the trackers that data can be sent to, with the installed version of each."""
    rows = _rows()
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("backend", "package", "installed", "to install it", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(row.name, row.distribution, row.problem or row.version or "not installed", row.install)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # in a file or a pipe, a wrapped command line is of no use
    console.print(table)


def _rows() -> list[_Row]:
    from tracelet_shim import errors
    from tracelet_shim.backends import registry

    rows = []
    for name in registry.names():
        try:
            backend = registry.find(name)
        except errors.InvalidBackendError as error:
            rows.append(_Row(name, None, None, None, str(error)))
            continue
        version = backend.installed()
        install = None if version else _pip_line(name, backend.distribution)
        rows.append(_Row(name, backend.distribution, version, install, None))
    return rows


def _pip_line(name: str, distribution: str) -> str:
    """Name our extra where there is one, since it carries the version range; else a third party's own package."""
    from importlib.metadata import metadata

    if name in (metadata("tracelet-shim").get_all("Provides-Extra") or []):
        return f"pip install 'tracelet-shim[{name}]'"
    return f"pip install {distribution}"
