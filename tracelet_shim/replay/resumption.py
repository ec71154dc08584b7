"""The rest of a session that was cut off: into the same runs, and nothing twice."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tracelet_shim import errors
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.ring import RingReader
from tracelet_shim.common.text import as_utf8
from tracelet_shim.eventfiles.logdir import PROJECTOR
from tracelet_shim.eventfiles.tfrecord import require_protos
from tracelet_shim.relay.directory import Directory
from tracelet_shim.replay.choice import chosen, same_place, state_of, trackers_of
from tracelet_shim.replay.host import Host
from tracelet_shim.replay.rings import ring_of
from tracelet_shim.replay.session_files import SessionFiles
from tracelet_shim.replay.undelivered import Missing, missing, running
from tracelet_shim.replay.view import Outcome, View
from tracelet_shim.session.settings import resolve
from tracelet_shim.session.specs import specs_of
from tracelet_shim.state.index import indexed
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.place import new_run
from tracelet_shim.state.rows import About, SessionRow

__all__ = ["resume"]

def resume(
    logdir: str, arguments: Mapping[str, Any], view: View, *, session: str | None = None, retry_refused: bool = False
) -> list[Outcome]:
    """Deliver what the sessions of a log directory have not: into the same runs, and nothing twice.

    What the index of a session has is delivered from each tracker's cursor on. If the session was cut off, this is
    followed by what stands in the event files behind the last indexed record of each.

    Args:
        logdir: the sessions' root directory.
        arguments: settings that the ledger does not keep: ``backend`` (default: all of the session), ``options``, ...
        view: who wants to know.
        session: the id of the only one, or how that begins; None: all that are not complete, the oldest first.
        retry_refused: offer what a tracker refused to it again.

    Returns:
        What became of each session that was not complete. An empty list says that every tracker has everything.

    Raises:
        ConfigurationError, BackendUnavailableError: what can be known at once.
        StateError: nothing can be told of what was delivered.
    """
    require_protos()
    logdir = os.path.abspath(logdir)
    directory = state_of(logdir)
    wanted = resolve(arguments, registry.names()).backend if arguments.get("backend") else ()
    with contextlib.closing(Ledger(directory, existing=True)) as ledger:
        rows = chosen(ledger, logdir, session)
    outcomes = []
    here = os.getcwd()
    for row in rows:
        root = row.root if session is not None or same_place(row.root, logdir) else logdir
        try:
            outcome = _continue(directory, row, root, arguments, wanted, view, retry_refused=retry_refused)
        except (errors.TraceletError, sqlite3.Error) as error:
            outcome = Outcome(row.id, root, {}, problem=str(error))
        finally:
            os.chdir(here)
        if outcome is not None:
            outcomes.append(outcome)
    return outcomes


def _continue(
    directory: Path,
    row: SessionRow,
    root: str,
    arguments: Mapping[str, Any],
    wanted: tuple[str, ...],
    view: View,
    *,
    retry_refused: bool,
) -> Outcome | None:
    """Deliver what is missing of a session, to the trackers that are wanted; return None if nothing is."""
    if running(row, directory):
        raise errors.StateError(
            f"session {row.id} is still running (process {row.pid} on {row.host}, or what delivers for it)"
        )
    with contextlib.closing(Ledger(directory, existing=True)) as ledger:
        row = ledger.session(row.id) or row
        left = missing(ledger, row, root)
        index = indexed(directory, row.id)
        files = SessionFiles(ledger, row, root, index[1] if index is not None else {})
    names = trackers_of(wanted, row, left, retry_refused=retry_refused)
    if not names:
        return _as_it_is(row, root, left, wanted)
    if view.stopped():
        raise errors.StateError(f"session {row.id} was not continued: interrupted")
    _check_index(directory, row, left, index[0] if index is not None else None)
    _check_files(files, row, view)
    _go_to(row, root, view)
    about = msgspec.json.decode(row.about or "{}", type=About)
    settings = resolve(arguments, registry.names())
    forward = None if arguments.get("delivery") else about.forward
    offline = about.offline or bool(arguments.get("offline"))
    settings = msgspec.structs.replace(settings, backend=names, offline=offline, delivery=forward or "process")
    specs = specs_of(settings, {})
    host = Host(view, settings.exit_timeout, directory, retry_refused=retry_refused)
    relay = host.relay
    run = msgspec.structs.replace(_again(row, about, root), forward=forward)
    if forward is not None:
        view.say(f"handing session {row.id} over to collectors, by {forward}")
    relay.handle(msg.Open(run, specs, int(settings.memory * 1e6), root, restarted=True))
    for writer in files.writers:
        relay.handle(msg.Writer(writer))
    for source in files.sources:
        relay.handle(source)
    if relay.directory is None:
        raise errors.StateError(f"session {row.id} was not continued: {'; '.join(host.troubles())}")
    if not relay.owned:
        raise errors.StateError(f"session {row.id} is being delivered by another process")
    status = row.status
    ring = ring_of(directory, row.id)
    relay.handle(msg.Continue(ring.skip(relay.records) if ring is not None else 0))
    if ring is not None:
        status = _empty(ring, host, files) or status
    waited = files.waiting(directory)
    for source in waited:
        relay.handle(source)
    places = [Directory(host, files.places[0] if left.tail else None, wanted=files.is_new, start=files.start_of)]
    if left.tail or waited:
        for source in files.sources:
            places[0].know(source, max(files.taken.get(source.path, 0), relay.taken.get(source.id, 0)))
        more = files.places[1:] if left.tail else ()
        places += [Directory(host, place, wanted=files.is_new, start=files.start_of) for place in more]
        _read(places)
    host.drain()
    states = host.close(status or "failed", cut_off=view.stopped())
    if relay.clean:
        with contextlib.suppress(OSError):
            (directory / f"{row.id}.log").unlink(missing_ok=True)  # of the relay that did not come to its end
    with contextlib.closing(Ledger(directory, existing=True)) as ledger:
        lost = {name: found for name, found in ledger.lost(row.id).items() if name in states}
    damages = tuple(damage for place in places for damage in place.damages() if not damage.expected)
    return Outcome(row.id, root, states, damages, lost)


def _read(places: list[Directory]) -> None:
    for before, place in zip([None, *places], places, strict=False):
        place.behind = max(place.behind, before.behind if before is not None else 0)
        place.scan()
        place.read()


def _empty(ring: RingReader, host: Host, files: SessionFiles) -> str | None:
    """Deliver what nobody has taken out of a ring, and remove it; return with which status the program had asked for the end."""
    relay, status = host.relay, None
    while not host.view.stopped() and (messages := ring.read()):
        for message in messages:
            if isinstance(message, msg.Records):
                host.feed(message.records, 0)
            elif isinstance(message, msg.Writer):
                relay.handle(msg.Writer(files.moved(message.logdir)))
            elif isinstance(message, msg.Source):
                files.add(message)
                relay.handle(files.source(message))
            elif isinstance(message, msg.Close):
                status = message.status
    ring.close(remove=ring.is_empty and relay.indexed)
    return status


def _as_it_is(row: SessionRow, root: str, left: Missing, wanted: tuple[str, ...]) -> Outcome | None:
    """Return what is missing of a session that cannot be continued; None if nothing is."""
    states = {
        run.backend: msg.BackendState(
            run.state, run.delivered, 0, run.failed, run.error, lost=run.failed - left.refused.get(run.backend, 0)
        )
        for run in left.rows
        if run.failed and run.backend in (wanted or left.backends)
    }
    lost = {name: found for name, found in left.lost.items() if name in states}
    return Outcome(row.id, root, states, lost=lost) if states else None


def _check_index(directory: Path, row: SessionRow, left: Missing, length: int | None) -> None:
    """An index that is gone or cut tells no longer what was delivered, unless the event files are read on where it ends.

    Raises:
        StateError: it is needed.
    """
    needed = any(run.cursor < row.records for run in left.runs)
    if needed and (length is None or (length < row.records and not left.tail)):
        raise errors.StateError(
            f"session {row.id} has lost its index in {directory}; what is missing cannot be told from what was delivered; "
            f"{new_run(directory)}"
        )


def _go_to(row: SessionRow, root: str, view: View) -> None:
    """Go to the program's working directory, since SDKs have put their local stores relative to it. Where that was moved together
    with the log directory, it is above that."""
    places = [row.cwd]
    within = os.path.relpath(row.root, row.cwd)
    if not within.startswith(os.pardir) and root.endswith(f"/{within}"):
        places.append(root[: -len(within)])
    for place in places:
        with contextlib.suppress(OSError):
            if not os.path.samefile(place, "."):  # the ledger may be somebody else's: where this goes on is said
                os.chdir(place)
                view.say(f"continuing in {place}, where session {row.id} ran")
            return
    view.say(f"warning: {row.cwd}, where session {row.id} ran, is gone; local stores of trackers are looked for in {os.getcwd()}")


def _check_files(files: SessionFiles, session: SessionRow, view: View) -> None:
    """Events whose file is gone count as failed, for good: make sure that it is not the file system that is not there."""
    needed = {source.path for source in files.sources if os.path.basename(source.path) != PROJECTOR}
    gone = sorted(path for path in needed if not os.path.exists(path))
    if gone and len(gone) == len(needed):
        raise errors.StateError(f"session {session.id}: none of its event files is there, beginning with {gone[0]}")
    for path in gone:
        view.say(f"warning: {path} is gone, and what has not been delivered of it")


def _again(row: SessionRow, about: About, root: str) -> RunInfo:
    """Return what the runs of a session are opened with. What ran is not what is here now; if the session has found it out,
    it is in its state directory. Nor is it known whether the user has named the root: what lies in the working directory is no
    part of a root that the session has because it had no writer, TensorBoard's copy for one."""
    program = Program(
        script=row.script, module=None, argv=(as_utf8(row.script or "python"),), cwd=row.cwd, executable=sys.executable,
        pid=row.pid, host=row.host,
    )  # fmt: skip
    return RunInfo(
        session=row.id, program=program, started=row.started, project=row.project, exp_name=row.exp_name,
        run_id=row.run_id, tags=about.tags, notes=about.notes, config=about.config, group=about.group,
        offline=about.offline, root=None if row.root == row.cwd else root, what_ran=(),
    )  # fmt: skip
