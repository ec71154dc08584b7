"""What runs at the start of an interpreter when ``TRACELET_BACKEND`` is set: the target of the .pth and .start files.

Here only `os` and `sys` are imported, and nothing is done but to wait: a finder on `sys.meta_path` sees when the
program imports ``torch.utils.tensorboard``, and only then the rest of the package is loaded and the session prepared.
A process that never does (``pip list``, a data loader, a helper of the shell) pays under a millisecond and leaves
nothing behind.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all of this module
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["activate", "is_set", "start"]

_TARGET = "torch.utils.tensorboard"
_activated = False


def start() -> None:
    """Activate if the environment asks for it: ``TRACELET_BACKEND`` set, ``TRACELET_DISABLED`` not."""
    if os.environ.get("TRACELET_BACKEND") and not is_set("TRACELET_DISABLED"):
        activate()


def activate() -> None:
    """Connect to ``torch.utils.tensorboard`` when it is imported, or now if it has been.

    Does nothing the second time: two site directories can expose the same .pth file, and a program under
    ``tracelet-shim run`` may import `tracelet_shim.auto` as well.
    """
    global _activated
    if _activated:
        return
    _activated = True
    if _TARGET in sys.modules:
        _connect()
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Waits for ``torch.utils.tensorboard``; finds nothing by itself."""

    def __init__(self) -> None:
        self.connecting = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TARGET or self.connecting:
            return None
        self.connecting = True
        try:
            _connect()  # raises under strict, and then again at the next import: strict cannot be had by retrying
        finally:
            self.connecting = False
        # A new list, not `remove`: another thread may be going through the old one and would skip a finder.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
        # wrapt has just put its own finder at the front. The loop that called us is past it, so ask everyone here.
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec(fullname, path, target) if find_spec else None
            if spec is not None:
                return spec
        return None


def _connect() -> None:
    """Hand over to the package; what goes wrong becomes one line, unless strict."""
    try:
        from tracelet_shim import _api

        _api.activate_from_environment()
    except Exception as error:
        if is_set("TRACELET_STRICT"):
            raise
        _say(error)


def _say(error: Exception) -> None:
    from tracelet_shim._printable import printable

    text = printable(" ".join(str(error).split()))
    if type(error).__module__ != "tracelet_shim.errors":  # our own messages need no type in front of them
        text = f"{type(error).__name__}: {text}"
    try:  # noqa: SIM105 - contextlib would be one more import
        sys.stderr.write(f"tracelet-shim: {text} (training goes on without it)\n")
    except (AttributeError, OSError, ValueError):
        pass  # no standard error, or a closed one: then nobody can be told


def is_set(variable: str, environment: Mapping[str, str] = os.environ) -> bool:
    """True if the environment variable switches something on."""
    return environment.get(variable, "").strip().lower() in ("1", "true", "yes", "on")
