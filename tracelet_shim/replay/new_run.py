"""A log directory into runs of its own."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends import registry
from tracelet_shim.backends.base import Program, RunInfo
from tracelet_shim.bus import messages as msg
from tracelet_shim.common.text import as_utf8
from tracelet_shim.eventfiles.logdir import PROJECTOR, EventFile, is_event_file, walk
from tracelet_shim.eventfiles.tfrecord import require_protos
from tracelet_shim.relay.directory import Directory
from tracelet_shim.replay.host import Host
from tracelet_shim.replay.view import Outcome, View
from tracelet_shim.session.settings import Settings, resolve
from tracelet_shim.session.specs import specs_of

__all__ = ["replay"]

_POLL = 1.0
_TICK = 0.1


def replay(
    logdir: str,
    arguments: Mapping[str, Any],
    view: View,
    *,
    recursive: bool = True,
    follow: bool = False,
    idle: float | None = None,
) -> Outcome:
    """Deliver a log directory, as a session of its own.

    Args:
        logdir: the directory.
        arguments: settings, as for `start_logging`; None means not given.
        view: who wants to know.
        recursive: take what is below as well, as writers of the run.
        follow: go on as the files grow and new ones come, until `view.stopped()`.
        idle: end that after so many seconds without anything new; None: never.

    Raises:
        ConfigurationError, BackendUnavailableError: what can be known at once.
        StateError: there are no event files. No run is opened.
    """
    require_protos()
    logdir = os.path.abspath(logdir)
    if not os.path.isdir(logdir):
        raise errors.ConfigurationError(f"{logdir} is no directory")
    settings = resolve({**arguments, "root": arguments.get("root") or logdir}, registry.names())
    specs = specs_of(settings, {})
    _wait_for_files(logdir, view, recursive=recursive, until=idle if follow else 0.0)
    root = os.path.abspath(settings.root or logdir)
    host = Host(view, settings.exit_timeout)
    directory = Directory(host, logdir, recursive=recursive, follow=follow)
    info = _run_info(settings, logdir, root, recursive=recursive)
    host.relay.handle(msg.Open(info, specs, int(settings.memory * 1e6), root))
    news = time.monotonic()
    while True:
        directory.scan()
        if directory.read():
            news = time.monotonic()
        if not follow or view.stopped() or (idle is not None and time.monotonic() - news > idle):
            break
        host.rest(min(_POLL, idle or _POLL))
    interrupted = view.stopped() and not follow
    if not interrupted:
        host.drain()
    # What has not been read yet, and in a directory that was followed what still comes, is there for --resume.
    states = host.close("killed" if interrupted else "finished", cut_off=interrupted or follow)
    damages = tuple(damage for damage in directory.damages() if not (damage.expected and follow) and not interrupted)
    return Outcome(info.session, root, states, damages)


def _wait_for_files(logdir: str, view: View, *, recursive: bool, until: float | None) -> None:
    """Wait for the first event file, at most `until` seconds; None: until `view.stopped()`."""
    since = time.monotonic()
    while not (_event_files(logdir, recursive=recursive) or _has_embeddings(logdir, recursive=recursive)):
        if view.stopped() or (until is not None and time.monotonic() - since >= until):
            raise errors.StateError(f"{logdir} has no event files with anything in them; no run was opened")
        time.sleep(_TICK)


def _event_files(logdir: str, *, recursive: bool) -> list[EventFile]:
    """Return the event files that have something in them, be it damaged."""
    places = ((os.path.join(d, n), d) for d, ns in walk(logdir, recursive=recursive) for n in ns if is_event_file(n))
    return [file for file in (EventFile(*place, inside=logdir) for place in places) if file.size]


def _has_embeddings(logdir: str, *, recursive: bool) -> bool:
    return any(PROJECTOR in names for _, names in walk(logdir, recursive=recursive))


def _run_info(settings: Settings, logdir: str, root: str, *, recursive: bool) -> RunInfo:
    program = Program(
        script=None, module=None, argv=("tracelet-shim", "replay", as_utf8(logdir)), cwd=os.getcwd(), executable=sys.executable,
        pid=0, host=socket.gethostname(),
    )  # fmt: skip
    firsts = [file.begins() for file in _event_files(logdir, recursive=recursive)]
    started = min(firsts, default=math.inf)
    return RunInfo(
        session=uuid.uuid4().hex[:16], program=program, started=started if math.isfinite(started) else time.time(),
        project=settings.project, exp_name=settings.exp_name or as_utf8(os.path.basename(logdir)), run_id=settings.run_id,
        group=settings.group,
        tags=settings.tags, notes=settings.notes, config=settings.config, offline=settings.offline, root=root,
        what_ran=(),
    )  # fmt: skip
