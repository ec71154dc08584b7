"""Which task a run is: made, or found again.

`Task.init` is for the one main task of a process: it patches `os.fork`, `os._exit` and the signal handlers, starts reporting
through a forked process and threads, scans the calling script and leaves its id in the environment of child processes. None of
it is wanted here, so tasks are made by `Task._create` (the constructor behind it, without the set-up) and `Task.get_task`. A
user can still call `Task.init` beside it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

from tracelet_shim import errors
from tracelet_shim.backends.clearml.session import send_once

__all__ = ["Tasks", "main_task", "offline_folder"]


def main_task() -> Any:
    """Return the task that the user has active in this process, or None.

    Not `Task.current_task`: in a child process of a ClearML program that would call `Task.init`.
    """
    task_class = getattr(sys.modules.get("clearml"), "Task", None)
    return getattr(task_class, "_Task__main_task", None)


def offline_folder() -> Path:
    return Path(importlib.import_module("clearml.config").get_offline_dir())


@functools.cache
def _task_class() -> Any:
    """Return `clearml.Task`, but with bounded requests, for the tasks that we open."""
    from clearml import Task

    class BoundedTask(Task):  # type: ignore[misc]
        _send = staticmethod(send_once)
        tracelet_session: ClassVar[str | None] = None
        """The session whose task is being made: who goes on after a kill in the middle of that finds the task by this."""
        tracelet_tag: ClassVar[str | None] = None
        """The tag by which whoever does not know whether the task was made finds it."""

        def _auto_generate(self, *args: Any, **kwargs: Any) -> str:
            made = str(super()._auto_generate(*args, **kwargs))
            return _offline_id(self.tracelet_session) if self.tracelet_session and made.startswith("offline-") else made

        def send(self, req: Any, *args: Any, **kwargs: Any) -> Any:
            if self.tracelet_tag and type(req).__name__ == "CreateRequest":
                req.tags = [*(req.tags or ()), self.tracelet_tag]
            return super().send(req, *args, **kwargs)

    return BoundedTask


def _offline_id(session: str) -> str:
    return f"offline-{hashlib.blake2s(session.encode(), digest_size=16).hexdigest()}"


def _session_tag(session: str) -> str:
    return f"tracelet.session:{session}"


class Tasks:
    """The tasks of one place: of the server, or of the folder of offline sessions.

    Args:
        offline: which of the two.
    """

    def __init__(self, *, offline: bool) -> None:
        self._offline = offline

    def create(self, project: str, name: str, kind: str, *, session: str | None = None, tag: str | None = None) -> Any:
        """Return a new task.

        Args:
            project: its project.
            name: its name.
            kind: one of `Task.TaskTypes`.
            session: if given, `begun` will find it from its first moment on.
            tag: if given, `find` will, at the server: it may have made a task whose answer was lost.
        """
        kinds = _task_class().TaskTypes
        if kind not in kinds.__members__:
            known = ", ".join(kinds.__members__)
            raise errors.ConfigurationError(f"backend 'clearml' has no task_type {kind!r}; it has {known}")
        _task_class().tracelet_session, _task_class().tracelet_tag = session, _session_tag(session) if session else tag
        try:
            task = _task_class()._create(project_name=project, task_name=name, task_type=kinds[kind])
            if not self._offline:
                task.started()
                task.reload()
        finally:
            _task_class().tracelet_session = _task_class().tracelet_tag = None
        return task

    def get(self, task_id: str) -> Any:
        """Return a task that goes on."""
        if self._offline:
            if not self.has(task_id):
                raise errors.BackendError(f"ClearML: there is no offline session {task_id!r} in {offline_folder()}")
            log = self.log_of(task_id)
            if log.exists():  # a killed session may have left half a line
                content = log.read_bytes()
                os.truncate(log, content.rfind(b"\n") + 1)
        task = _task_class().get_task(task_id=task_id)
        task.reload()  # offline, only this brings the project's name back, and the next edit would delete it
        if not self._offline:
            task.mark_started(force=True)
        return task

    def has(self, task_id: str) -> bool:
        """Whether `task_id` is the id of a task, by its form and, offline, its folder."""
        if self._offline:
            plain = re.fullmatch("offline-[0-9a-f]+", task_id) is not None
            return plain and (offline_folder() / task_id / "task.json").is_file()
        return re.fullmatch("[0-9a-f]{32}", task_id) is not None

    def find(self, tag: str) -> str | None:
        """Return the id of the latest task with this tag."""
        if not self._offline:
            found = _task_class().query_tasks(tags=[tag], task_filter={"order_by": ["-last_update"]})
            return str(found[0]) if found else None
        stored = sorted(offline_folder().glob("offline-*/task.json"), key=lambda path: path.stat().st_mtime)
        for path in reversed(stored):
            with contextlib.suppress(ValueError):  # half written by a killed process
                if tag in (json.loads(path.read_bytes()).get("tags") or ()):
                    return path.parent.name
        return None

    def begun(self, session: str) -> str | None:
        """Return the id of the task that this session has made, in a process that was killed before it could say so."""
        if not self._offline:
            return self.find(_session_tag(session))
        task_id = _offline_id(session)
        with contextlib.suppress(OSError, ValueError):  # no such task, or half written: it is made, or made anew
            json.loads((offline_folder() / task_id / "task.json").read_bytes())
            return task_id
        return None

    @staticmethod
    def log_of(task_id: str) -> Path:
        """Return where an offline session's events are."""
        return offline_folder() / task_id / "metrics.jsonl"
