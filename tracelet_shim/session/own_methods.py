"""What is logged through a session itself, or by the program without its knowing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelet_shim import intercept
from tracelet_shim.bus import messages as msg
from tracelet_shim.handle.methods import Handle
from tracelet_shim.session import fetching

if TYPE_CHECKING:
    from tracelet_shim.handle.methods import Make
    from tracelet_shim.handle.recorder import Recorder
    from tracelet_shim.session.replies import Replies
    from tracelet_shim.session.session import Session
    from tracelet_shim.session.settings import Settings

__all__ = ["OwnMethods"]

_STATE = ".tracelet"


class OwnMethods(Handle):
    """The part of `Session` that takes what comes from no writer."""

    if TYPE_CHECKING:
        settings: Settings
        active: bool
        _recorder: Recorder
        _replies: Replies
        _logdirs: set[str]

        @property
        def has_begun(self) -> bool: ...

    def _take(self, what: str, make: Make, *, steps: bool = False) -> None:
        if self.active:
            self._recorder.take(what, make, steps=steps)

    def _untaken(self, kind: str, text: str) -> None:
        self._replies.warn(msg.Trouble(None, f"handle-{kind}", text))

    def use_artifact(self: Session, name: str, *, from_: str | None = None, timeout: float = 600.0) -> Path:  # type: ignore[misc]
        return fetching.use(self, self._recorder, name, from_, timeout)

    # -- autolog ------------------------------------------------------------------------------------------------------

    def parsed(self, arguments: dict[str, Any]) -> None:
        """The program has parsed its arguments. A session that has not begun yet asks for them when it does."""
        if "params" in self.settings.autolog and self.has_begun:
            self.watch_params(arguments)

    def _describe(self) -> None:
        """The session has just begun."""
        if "params" in self.settings.autolog:
            for arguments in intercept.arguments_seen():
                self.watch_params(arguments)

    def saved(self, path: str) -> None:
        """The program has saved a model."""
        if "models" not in self.settings.autolog or not self.active:
            return
        file = os.path.realpath(path)
        named = self.settings.autolog_dir
        tops = {*self._logdirs, *([intercept.absolute(named)] if named is not None else [])}
        found = [real for top in tops if file.startswith((real := os.path.realpath(top)).rstrip(os.sep) + os.sep)]
        if found:
            name = os.path.relpath(file, max(found, key=len))
            if _STATE not in name.split(os.sep):
                self.log_model(path, name)
