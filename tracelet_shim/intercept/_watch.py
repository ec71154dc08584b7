"""When to patch: as soon as `torch.utils.tensorboard.writer` is there, whoever imports it and however often.

Import hooks of wrapt would see the first import only, and not that one where another finder comes before wrapt's.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tracelet_shim._bootstrap import Lookout
from tracelet_shim.intercept._wrapt import patch

__all__ = ["install", "missed"]

_MODULE = "torch.utils.tensorboard.writer"
_NAMES = ("FileWriter", "SummaryWriter")

_outcomes: weakref.WeakKeyDictionary[type, Exception | None] = weakref.WeakKeyDictionary()
"""The classes that have been patched, and what went wrong."""


def install() -> None:
    """Patch `torch.utils.tensorboard` now, or as soon as it is imported. Imports nothing itself; may be called again."""
    _watch.post()
    _look()


def missed() -> str | None:
    """Return why nothing is seen of the writers of this process, though their module is loaded; None if all is well."""
    module = sys.modules.get(_MODULE)
    classes = _classes(module) if module is not None else ()
    if not classes:
        return None
    if not all(owner in _outcomes for owner in classes):
        return "it was imported past us, by an import hook of another package or of the program"
    errors = [error for owner in classes if (error := _outcomes[owner]) is not None]
    return repr(errors[0]) if errors else None


class _Watch(Lookout):
    """Patches what it sees. It stays, because a module can be imported again: by `importlib.reload`, or by a test suite
    that had a mock in its place."""

    def __init__(self) -> None:
        self._asking: set[int] = set()

    def look(self, fullname: str) -> bool:
        if fullname == _MODULE:
            return threading.get_ident() not in self._asking
        _look()
        return False

    def ask_others(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        """As for all lookouts; and have the module patched when it has been executed."""
        thread = threading.get_ident()
        self._asking.add(thread)  # a finder that asks everyone, as we do, comes back to us
        try:
            spec = super().ask_others(fullname, path, target)
        finally:
            self._asking.discard(thread)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


_watch = _Watch()


class _Loader:
    """Another loader, after which the module is patched. The module never sees it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        with contextlib.suppress(AttributeError):
            module.__loader__ = self._loader
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _look()


class _Unfinished(ModuleType):
    """The module, found while it is being executed by a loader that is not ours; patched when a class is first taken from
    it. (`importlib.util.LazyLoader` changes the class of a module in the same way.)"""

    def __getattribute__(self, name: str) -> Any:
        if name in _NAMES:
            _look()
        return ModuleType.__getattribute__(self, name)


def _look() -> None:
    """Patch the module if it is there; a mock or a stand-in of a test suite is left alone."""
    module = sys.modules.get(_MODULE)
    if module is None:
        return
    classes = _classes(module)
    if classes:
        if type(module) is _Unfinished:
            module.__class__ = ModuleType  # type: ignore[assignment]
        _patch(classes)
    elif type(module) is ModuleType and getattr(module, "__spec__", None) is not None:
        module.__class__ = _Unfinished


def _classes(module: Any) -> tuple[type, ...]:
    """Return torch's own FileWriter and SummaryWriter; nothing if they are not there (yet). Others may have put classes of
    theirs in the place, which are derived from them."""
    try:
        names = object.__getattribute__(module, "__dict__")  # makes no lazy module load, and no mock answer
    except AttributeError:
        return ()
    found = []
    for name in _NAMES:
        owner = names.get(name)
        bases = owner.__mro__ if isinstance(owner, type) else ()
        found += [base for base in bases if base.__module__ == _MODULE and base.__name__ == name]
    return tuple(found) if len(found) == len(_NAMES) else ()


def _patch(classes: tuple[type, ...]) -> None:
    if all(owner in _outcomes for owner in classes):
        return
    for owner in classes:  # first, and whatever comes of it: nothing is to be wrapped twice
        _outcomes[owner] = None
    try:
        patch(*classes)
    except Exception as error:
        _outcomes.update(dict.fromkeys(classes, error))
