"""When to patch: as soon as the module of a writer is there, whoever imports it and however often.

Import hooks of wrapt would see the first import only, and not that one where another finder comes before wrapt's.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tracelet_shim._bootstrap import Lookout
from tracelet_shim.intercept._wrapt import (
    patch,
    patch_events,
    patch_tensorboardx,
    patch_tensorboardx_events,
    patch_tensorflow,
    patch_tensorflow_v1,
)

__all__ = ["install", "missed", "missed_package"]

_WATCHED: dict[str, tuple[tuple[str, ...], Callable[..., None]]] = {
    "torch.utils.tensorboard.writer": (("FileWriter", "SummaryWriter"), patch),
    "tensorboard.summary.writer.event_file_writer": (("EventFileWriter",), patch_events),
    "tensorboardX.event_file_writer": (("EventFileWriter", "EventsWriter"), patch_tensorboardx_events),
    "tensorboardX.writer": (("SummaryWriter",), patch_tensorboardx),
    "tensorflow.python.ops.summary_ops_v2": (("_ResourceSummaryWriter",), patch_tensorflow),
    "tensorflow.python.summary.writer.event_file_writer": (("EventFileWriter",), patch_tensorflow_v1),
}
"""The modules, what is patched of each, and by what."""
_LOADED_BY_OTHERS = ("tensorboard.summary.writer.event_file_writer", "tensorflow.python.")
"""Are loaded by programs that never use them: no sign that anything is missed."""

_outcomes: weakref.WeakKeyDictionary[type, Exception | None] = weakref.WeakKeyDictionary()
"""The classes that have been patched, and what went wrong."""


def install() -> None:
    """Patch the writers that are there, and others as soon as they are imported. Imports nothing itself; may be called again."""
    _watch.post()
    _look()


def missed() -> str | None:
    """Return why nothing is seen of writers of this process, though their module is loaded; None if all is well."""
    found = _missed()
    return found[1] if found is not None else None


def missed_package() -> str:
    """Return whose writers those are."""
    found = _missed()
    return found[0].rpartition(".")[0] if found is not None else ""


def _missed() -> tuple[str, str] | None:
    for name in _WATCHED:
        module = sys.modules.get(name)
        classes = _classes(name, module) if module is not None else ()
        if not classes:
            continue
        errors = [error for owner in classes if (error := _outcomes.get(owner)) is not None]
        if errors:
            return name, repr(errors[0])
        if not name.startswith(_LOADED_BY_OTHERS) and not all(owner in _outcomes for owner in classes):
            return name, "it was imported past us, by an import hook of another package or of the program"
    return None


class _Watch(Lookout):
    """Patches what it sees. It stays, because a module can be imported again: by `importlib.reload`, or by a test suite
    that had a mock in its place."""

    def __init__(self) -> None:
        self._asking: set[int] = set()

    def look(self, fullname: str) -> bool:
        if fullname in _WATCHED:
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


_NAMES = frozenset(name for names, _ in _WATCHED.values() for name in names)


def _look() -> None:
    """Patch what is there; a mock or a stand-in of a test suite is left alone."""
    for name, (_, patching) in _WATCHED.items():
        module = sys.modules.get(name)
        if module is None:
            continue
        classes = _classes(name, module)
        if classes:
            if type(module) is _Unfinished:
                module.__class__ = ModuleType  # type: ignore[assignment]
            _patch(classes, patching)
        elif type(module) is ModuleType and getattr(module, "__spec__", None) is not None:
            module.__class__ = _Unfinished


def _classes(module_name: str, module: Any) -> tuple[type, ...]:
    """Return a module's own classes that are to be patched; nothing if they are not there (yet). Others may have put classes of
    theirs in the place, which are derived from them."""
    try:
        found_names = object.__getattribute__(module, "__dict__")  # makes no lazy module load, and no mock answer
    except AttributeError:
        return ()
    names, found = _WATCHED[module_name][0], []
    for name in names:
        owner = found_names.get(name)
        bases = owner.__mro__ if isinstance(owner, type) else ()
        found += [base for base in bases if base.__module__ == module_name and base.__name__ == name]
    return tuple(found) if len(found) == len(names) else ()


def _patch(classes: tuple[type, ...], patching: Callable[..., None]) -> None:
    if all(owner in _outcomes for owner in classes):
        return
    for owner in classes:  # first, and whatever comes of it: nothing is to be wrapped twice
        _outcomes[owner] = None
    try:
        patching(*classes)
    except Exception as error:
        _outcomes.update(dict.fromkeys(classes, error))
