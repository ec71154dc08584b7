"""Random numbers for trackers that live in the training process, which leave the program's own as they are.

SDKs draw from Python's global generator: a run's name, its colour, a number at an import. In a program that has seeded
it, each of these would change all that is drawn after it. To save and restore the state around a call is no way: the
program draws at the same time. So the modules of an SDK get a ``random`` that has a generator of its own for every thread
but the main one. NumPy's and torch's generators are not touched by any SDK that is known here.
"""

from __future__ import annotations

import builtins
import functools
import importlib.abc
import importlib.machinery
import random
import sys
import threading
from collections.abc import Callable, Sequence
from types import BuiltinMethodType, CodeType, MethodType, ModuleType
from typing import Any

__all__ = ["keep_apart"]

_SHARED = frozenset({"rich", "urllib3", "tenacity", "backoff", "websockets", "httpx", "gradio_client", "huggingface_hub", "dvc"})
"""Packages under the SDKs that draw a number when they are imported, or before they try again."""

_global = random.choice.__self__  # type: ignore[attr-defined]
_own = random.Random()  # noqa: S311 - for names and pauses


def keep_apart(package: str) -> None:
    """Give the modules of an SDK a ``random`` of their own: those that are loaded, and those that will be."""
    _finder.packages |= {package, *_SHARED}
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name, module in sys.modules.copy().items():  # in one piece: other threads import
        if name.partition(".")[0] in _finder.packages and isinstance(module, ModuleType):
            for key, value in vars(module).copy().items():
                if (other := _instead(value)) is not None:
                    setattr(module, key, other)


def _instead(value: Any) -> Any:
    """Return what takes the place of Python's ``random`` or of one of its functions; None for everything else."""
    if value is random:
        return _module
    return getattr(_module, value.__name__) if _is_of_the_global(value) else None


def _is_of_the_global(value: Any) -> bool:
    """True for a method of Python's global generator. Other objects are not asked for anything: absl's flags, for one, would then
    read the program's command line."""
    return type(value) in (BuiltinMethodType, MethodType) and value.__self__ is _global


def _function(name: str) -> Callable[..., Any]:
    real, own = getattr(random, name), getattr(_own, name)

    @functools.wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        of_program = threading.get_ident() == threading.main_thread().ident
        return (real if of_program else own)(*args, **kwargs)

    return call


def _make_module() -> ModuleType:
    module = ModuleType("random", random.__doc__)
    for name, value in vars(random).items():
        setattr(module, name, _function(name) if _is_of_the_global(value) else value)
    return module


_module = _make_module()


def _import(name: str, *args: Any, **kwargs: Any) -> Any:
    return _module if name == "random" else builtins.__import__(name, *args, **kwargs)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module whose ``import random`` is served here."""

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        if code is not None and _mentions_random(code):
            vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


def _mentions_random(code: CodeType) -> bool:
    return "random" in code.co_names or any(_mentions_random(part) for part in code.co_consts if isinstance(part, CodeType))


class _Finder(importlib.abc.MetaPathFinder):
    """Asks the other finders, and changes how plain source files of these packages are loaded."""

    def __init__(self) -> None:
        self.packages: frozenset[str] = frozenset()
        self._asking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self.packages or getattr(self._asking, "name", None) == fullname:
            return None
        before, self._asking.name = getattr(self._asking, "name", None), fullname
        try:
            found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self._asking.name = before
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


_finder = _Finder()
