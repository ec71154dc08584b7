"""What a program that was killed, and its relay with it, has left: in a ring, which is more exact than the event files, and what
waited for its first writer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tracelet_shim.backends.base import RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.bus.ring import RingError, RingReader
from tracelet_shim.bus.ring_places import SUFFIX, in_memory
from tracelet_shim.common.run_report import is_alive
from tracelet_shim.eventfiles.logdir import STATE
from tracelet_shim.eventfiles.own_files import is_own
from tracelet_shim.eventfiles.waiting import waiting
from tracelet_shim.eventfiles.writer_names import root_of
from tracelet_shim.provenance.what_ran import with_tags
from tracelet_shim.state.index import in_use
from tracelet_shim.state.ledger import Ledger

__all__ = ["adopt", "anything_left", "ring_of", "waiting_in_ring"]


def _rings(directory: Path) -> Iterator[Path]:
    for place in (directory, Path(in_memory(directory))):
        yield from sorted(place.glob(f"*{SUFFIX}"))


def anything_left(directory: Path) -> bool:
    """Return whether there is something of any session that has its state in this directory, and may be in no ledger."""
    return any(True for _ in _rings(directory)) or any(True for _ in waiting(directory))


def ring_of(directory: Path, session: str) -> RingReader | None:
    """Return the ring of a session; None if there is none."""
    for path in _rings(directory):
        if path.stem == session:
            with contextlib.suppress(OSError, RingError):  # it was killed when it made it, or somebody has just removed it
                return RingReader(path)
    return None


def waiting_in_ring(directory: Path, session: str, known: int) -> int:
    """Return how many records are in the ring of a session, and not among the `known` ones of its index."""
    ring = ring_of(directory, session)
    if ring is None:
        return 0
    try:
        ring.skip(known)
        count = 0
        while messages := ring.read():
            count += sum(len(message.records) for message in messages if isinstance(message, msg.Records))
        return count
    except RingError:
        return 0
    finally:
        ring.close(remove=False)


def adopt(directory: Path) -> None:
    """Enter sessions into the ledger that were killed before their relay could do that."""
    _adopt_rings(directory)
    _adopt_waiting(directory)


def _adopt_waiting(directory: Path) -> None:
    """Sessions that were killed before their first writer have the working directory as their root, as those without one. What
    waits is read when they are continued."""
    for _, known in waiting(directory):
        run = with_tags(known.opened.run, known.opened.found)
        if not _is_alive(run) and not in_use(directory, run.session):
            root = str(directory.parent) if directory.name == STATE else known.root
            with contextlib.closing(Ledger(directory)) as ledger:
                ledger.begin(run, known.opened.root or root, [spec.name for spec in known.opened.backends])


def _is_alive(run: RunInfo) -> bool:
    return run.program.host == socket.gethostname() and is_alive(run.program.pid, run.started)


def _adopt_rings(directory: Path) -> None:
    for path in _rings(directory):
        try:
            ring = RingReader(path)
        except (OSError, RingError):
            continue
        try:
            messages = ring.read()
        except RingError:
            continue
        finally:
            ring.close(remove=False)
        opened = next((message for message in messages if isinstance(message, msg.Open)), None)
        first = next((message for message in messages if isinstance(message, (msg.Writer, msg.Source))), None)
        if opened is None or first is None:  # it was killed before its first writer, or the relay has gone further
            continue
        if _is_alive(opened.run):
            continue
        logdir = first.logdir if isinstance(first, msg.Writer) or first.parent is None else first.parent
        with contextlib.closing(Ledger(directory)) as ledger:
            is_root = isinstance(first, msg.Source) and is_own(first.path)
            root, trackers = opened.root or (logdir if is_root else root_of(logdir)), [spec.name for spec in opened.backends]
            ledger.begin(with_tags(opened.run, opened.found), root, trackers)
