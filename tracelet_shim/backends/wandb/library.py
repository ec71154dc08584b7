"""W&B's library in this process: its settings, its service, the runs that it takes for active. Each generation has another:

    0.17     `wandb_setup._WandbSetup._instance`: the first use makes it, reads the settings, and starts the service, a process in
             Python (`_manager`; from 0.18 on wandb-core, in Go, `_connection`). One run is active in a process.
    0.19.1   `wandb_setup._singleton`: likewise, but the service is started when it is needed.
    0.19.10  Several runs may be active (``reinit="create_new"``).
    0.21.4   `wandb_setup.singleton()` makes it; the settings are read when they are needed.
    0.27     `finish` can be given a time.

What is there is looked for; no version is asked. Where the settings are read at once, there is a library of our own beside that
of the user, whose first `wandb.init` is to find his settings and not ours.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tracelet_shim.backends.wandb.unasked import for_us, unless_for_us
from tracelet_shim.backends.wandb.versions import bounds_its_end

__all__ = ["Library", "library", "service_process"]


def library() -> Library:
    """Return that of this process. It imports the SDK."""
    return _library(os.getpid())


@functools.cache
def _library(_pid: int) -> Library:
    from wandb.sdk import wandb_setup

    kind = wandb_setup._WandbSetup
    if hasattr(kind, "settings_if_loaded"):
        return Library()
    place = (kind, "_instance") if hasattr(kind, "_instance") else (wandb_setup, "_singleton")
    return OwnLibrary(*place) if hasattr(kind, "remove_active_run") else OneRunLibrary(*place)


def service_process(service: Any) -> subprocess.Popen[bytes] | None:
    """Return the process of W&B's service, if this process has started it.

    Args:
        service: the SDK's connection to it, or None.
    """
    started = getattr(service, "_proc", None) or getattr(service, "_service", None)  # the latter in 0.17
    return getattr(started, "_process", None) or getattr(started, "_internal_proc", None)


class Library:
    """From 0.21.4 on: the user's is ours, too.

    Attributes:
        is_own: False; True for one of our own.
    """

    is_own: ClassVar[bool] = False

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """Have the SDK use the library that our runs have, and forget settings and credentials that it first reads within: the
        user's own first init is to find them, the environment above all, as they are then (`wandb_setup.py`, "Changes to your
        environment will be ignored")."""
        unread = self.is_unused
        try:
            yield
        finally:
            if unread:
                _forget_login()  # which reads settings, up to 0.23
                self._library()._settings = None

    def unread(self) -> contextlib.AbstractContextManager[None]:
        """The second half of `ours`, for what our runs do once they are open."""
        return self.ours()

    @property
    def is_unused(self) -> bool:
        """True if the user has not used it yet."""
        return self._library().settings_if_loaded is None

    def _library(self) -> Any:
        from wandb.sdk import wandb_setup

        return wandb_setup.singleton()

    def init(self, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        """Do `wandb.init` within `ours`. No run of the user's is ended, and none of ours is what `wandb.run` or a later plain
        ``wandb.init()`` of his would return (`wandb_init.py`, `most_recent_active_run`)."""
        import wandb

        opened = wandb.init(**fields, reinit="create_new", settings=wandb.Settings(**settings))
        if opened.disabled:
            opened.finish()  # a disabled run puts itself into wandb.run; finish() takes it out again
        self._library().remove_active_run(opened)
        return opened

    def finish(self, run: Any, exit_code: int, *, seconds: float) -> None:
        """End a run.

        Raises:
            TimeoutError: it takes longer.
        """
        if bounds_its_end():
            run.finish(exit_code=exit_code)
            return
        failed: list[BaseException] = []

        def finish() -> None:
            try:
                self._finish(run, exit_code)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=finish, name="tracelet-wandb-finish", daemon=True)
        thread.start()
        thread.join(seconds)
        if failed:
            raise failed[0]
        if thread.is_alive():
            raise TimeoutError(f"the run has not ended within {seconds:.0f} s")

    def _finish(self, run: Any, exit_code: int) -> None:
        run.finish(exit_code=exit_code)

    def leave_foreign_service(self) -> None:
        """Do not use the service of the process that has started this one: it ends with that."""
        os.environ.pop("WANDB_SERVICE", None)

    def start_service(self) -> Any:
        """Have W&B's service started, if it is not, within `ours`; return the SDK's connection."""
        return self._library().ensure_service()

    def _service(self) -> Any:
        return getattr(self._library(), "_connection", None)

    def _has_others(self) -> bool:
        """True if the service has runs of the user's."""
        return self._library().most_recent_active_run is not None

    def restart_service(self) -> None:
        """End W&B's service process, unless a run of the user's lives there; the next init starts a new one.

        A service that failed to open a run goes on holding the run's id, and the next attempt is refused ("in use").
        """
        with self.ours():
            service = self._service()
            process = service_process(service)
            if process is not None and not self._has_others():
                self.kill(service)
                # lost, its exit code passed on, or ended already
                with contextlib.suppress(OSError, SystemExit, AssertionError, *_closed()):
                    self.teardown()

    def kill(self, service: Any) -> None:
        """Kill W&B's service, if it is ours."""
        process = service_process(service)
        if process is not None:
            process.kill()

    def teardown(self) -> None:
        """End W&B's service, within `ours`, when it has stored what it has."""
        import wandb

        wandb.teardown()


class OwnLibrary(Library):
    """Before 0.21.4: there is one of our own, and it takes the place of the user's as long as the SDK is used for us.

    Args:
        holder: what has the SDK's library.
        name: under which name.
    """

    is_own = True

    def __init__(self, holder: Any, name: str) -> None:
        self._holder, self._name = holder, name
        self._own: Any = None
        self._theirs: Any = None
        self._lock = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._theirs = self._there
                self._there = self._own
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._own = self._there
                    if not (self._theirs is None and self._has_others()):  # else the user has just begun a run there
                        self._there = self._theirs

    def unread(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # our runs have our library by then

    @property
    def _there(self) -> Any:
        return getattr(self._holder, self._name)

    @_there.setter
    def _there(self, library: Any) -> None:
        setattr(self._holder, self._name, library)

    @property
    def is_unused(self) -> bool:
        return (self._theirs if self._depth else self._there) is None

    def _library(self) -> Any:
        from wandb.sdk import wandb_setup

        if self._there is None or self._there._pid != os.getpid():
            wandb_setup.setup()
        return self._there

    def _service(self) -> Any:
        return _connection(self._there)

    def _has_others(self) -> bool:
        return any(library is not None and library._active_runs for library in (self._theirs, self._there))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self._there = None


class OneRunLibrary(OwnLibrary):
    """Before 0.19.10: a second run in a process would end the first, and become `wandb.run`; up to 0.18 the answers to one would
    be taken for those to the other. Ours leave the module `wandb` as it is (`sdk/lib/module.py`), and a second one comes with a
    library of its own, whose connection is to the same service."""

    def __init__(self, holder: Any, name: str) -> None:
        from wandb.sdk.lib import module

        super().__init__(holder, name)
        self._runs: list[Any] = []
        self._token: str | None = None  # of our service
        for function in ("set_global", "unset_globals"):
            setattr(module, function, unless_for_us(getattr(module, function)))

    def init(self, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        main = self._library()
        self._runs = [run for run in self._runs if not run._is_finished and run._wl._pid == os.getpid()]
        if self._runs:
            self._there = None
        try:
            return self._init(fields, settings)
        finally:
            self._there = main

    def _init(self, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        import wandb

        made = self._library()
        fields = {name: value for name, value in fields.items() if value is not None}
        theirs, wandb.run = wandb.run, None
        try:
            with for_us():
                opened = wandb.init(**fields, reinit=True, settings=dict(settings))
        finally:
            if wandb.run is None:
                wandb.run = theirs
        if not opened.disabled:
            getattr(made, "_global_run_stack", []).clear()
            opened._set_library(made)  # else, up to 0.19.0, it has whatever is in its place when it ends
            self._runs.append(opened)
        return opened

    def _finish(self, run: Any, exit_code: int) -> None:
        with for_us():
            super()._finish(run, exit_code)

    def leave_foreign_service(self) -> None:
        if os.environ.get("WANDB_SERVICE") != self._token:
            super().leave_foreign_service()

    def start_service(self) -> Any:
        made = self._library()
        ensure = getattr(made, "ensure_service", None)
        service = ensure() if ensure is not None else _connection(made)  # up to 0.19.0 it comes with the library
        self._token = os.environ.get("WANDB_SERVICE")
        return service

    def _has_others(self) -> bool:
        import wandb

        return wandb.run is not None

    def kill(self, service: Any) -> None:
        super().kill(service)
        if hasattr(service, "_inform_teardown"):
            service._inform_teardown = lambda _: None  # nobody listens
            _keep_process(service)

    def teardown(self) -> None:
        if (service := self._service()) is not None and hasattr(service, "_inform_teardown"):
            _keep_process(service)
        super().teardown()


def _connection(library: Any) -> Any:
    return getattr(library, "_connection", None) or getattr(library, "_manager", None)


def _keep_process(manager: Any) -> None:
    """Have 0.17's manager not end this whole process if its service ends with an error (`wandb_manager.py`, `_teardown`)."""
    process = service_process(manager)

    def join() -> int:
        if process is not None:
            process.wait()
        return 0

    manager._service.join = join


def _closed() -> tuple[type[BaseException], ...]:
    """Return what the SDK raises, up to 0.20, if the service that it wants to tell of the end is gone."""
    try:
        from wandb.sdk.lib.sock_client import SockClientClosedError
    except ImportError:
        return ()
    return (SockClientClosedError,)


def _forget_login() -> None:
    """Since 0.22.3 a login lasts for the process; the module moved in 0.24."""
    try:
        from wandb.sdk.lib.wbauth import unauthenticate_session
    except ImportError:
        try:
            from wandb.sdk.lib.auth import unauthenticate_session
        except ImportError:
            return
    takes = inspect.signature(unauthenticate_session).parameters
    unauthenticate_session(**({"update_settings": False} if "update_settings" in takes else {}))
