"""``tracelet-shim collect``: serve the trackers of many training processes from one."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from tracelet_shim.bus.collected import start_collector
from tracelet_shim.bus.collector_place import AUTO, listen, place_of
from tracelet_shim.bus.launch import RelayDiedError
from tracelet_shim.display.terminal import say
from tracelet_shim.node.front import IDLE, Front

__all__ = ["collect"]


def collect(
    place: Annotated[
        str | None,
        typer.Option("--socket", metavar="PATH", help="Where it listens. Default: TRACELET_COLLECTOR, else auto."),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Start one in the background, if there is none, and print its path.")
    ] = False,
    idle: Annotated[
        float | None,
        typer.Option("--idle", metavar="SECONDS", help=f"End when so long idle. Default: never; with --auto {IDLE:.0f}."),
    ] = None,
    drain: Annotated[
        float | None,
        typer.Option("--drain", metavar="SECONDS", help="What sessions may take after SIGTERM. Default: until they end."),
    ] = None,
) -> None:
    """Serve the trackers of many training processes of this machine from one process.

    Training processes find it by TRACELET_COLLECTOR=PATH, or TRACELET_COLLECTOR=auto, which starts one if there is none.
    """
    path = place_of(place or os.environ.get("TRACELET_COLLECTOR") or AUTO).absolute()
    try:
        if auto:
            _start(path, idle)
            return
        listener, held = listen(path)
    except BlockingIOError:
        say(f"there is one at {path} already")
        raise typer.Exit(2) from None
    except (OSError, RelayDiedError) as error:
        say(f"cannot collect at {path}: {error}")
        raise typer.Exit(2) from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    say(f"collecting at {path}")
    Front(path, listener, held, idle=idle, drain=drain).run()


def _start(path: Path, idle: float | None) -> None:
    with contextlib.suppress(BlockingIOError):  # there is one
        start_collector(path, *([] if idle is None else [str(idle)]))
    typer.echo(str(path))
