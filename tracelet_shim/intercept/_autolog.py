"""What a program says of itself without a call of ours: the arguments that it parses, the models that it saves.

A function is wrapped when its module is there, for good, and asks at call time whether a session wants to know. What it returns
and raises is the native function's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import wrapt

from tracelet_shim.common.values import named, plain
from tracelet_shim.intercept._sink import current
from tracelet_shim.intercept._wrapt import Wrapper

__all__ = ["arguments_seen", "install_autolog"]

_MOST = 16
_PARSERS = ("parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args")
_BETWEEN = ("argparse", "jsonargparse", "wrapt", "tracelet_shim")

_seen: dict[tuple[str, ...], dict[str, Any]] = {}
"""By what tells one set of arguments from another: their latest values, as plain data. They describe the process, and so each
session that it begins."""
_installed = False


class _Within(threading.local):
    parsing = False


_within = _Within()
"""Set while a parser is at work in this thread: it parses subcommands by parsers of their own."""


def install_autolog() -> None:
    """Wrap what is there now, and what is imported later. A second call changes nothing."""
    global _installed
    if not _installed:
        _installed = True
        for module, wrap in _HOOKS.items():
            wrapt.register_post_import_hook(_careful(wrap), module)


def arguments_seen() -> list[dict[str, Any]]:
    """Return what has been parsed so far."""
    return list(_seen.values())


def _careful(wrap: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Return a hook that lets no error of ours end the import of a module."""

    def hook(module: ModuleType) -> None:
        try:
            wrap(module)
        except Exception as error:
            _tell(error)

    return hook


def _tell(error: Exception) -> None:
    if current.sink is not None:
        current.sink.problem(error)


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    found = vars(owner).get(name)
    if found is not None and not isinstance(found, Wrapper):  # else it has been taken from a module that is wrapped
        wrapt.wrap_object(owner, name, Wrapper, (wrapper,))


# -- arguments ------------------------------------------------------------------------------------------------------------


def _wrap_parsers(module: Any) -> None:
    for name in _PARSERS:
        _wrap(module.ArgumentParser, name, _parsing)


def _parsing(wrapped: Any, parser: Any, args: Any, kwargs: Any) -> Any:
    if _within.parsing:
        return wrapped(*args, **kwargs)
    given = args[0] if args else kwargs.get("args")
    is_ours = given is None or (isinstance(given, Sequence) and list(given) == sys.argv[1:])
    _within.parsing = True
    try:
        result = wrapped(*args, **kwargs)
    finally:
        _within.parsing = False
    if is_ours and not _caller().startswith("hydra."):  # whose own arguments say how the configuration is made
        _note(result[0] if isinstance(result, tuple) else result, type(parser).__module__)
    return result


def _caller() -> str:
    """Return the name of the module that has called the parser."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def _wrap_job(module: Any) -> None:
    _wrap(module, "run_job", _running_job)


def _running_job(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG001 - wrapt's signature
    """Of `hydra.core.utils.run_job`, which hands a configuration to the user's function; each run of a sweep is one."""
    try:
        config = named(kwargs["config"] if "config" in kwargs else args[1])
        _note({name: value for name, value in config.items() if name != "hydra"}, "hydra")
    except Exception as error:
        _tell(error)
    return wrapped(*args, **kwargs)


def _note(arguments: Any, parser: str) -> None:
    try:
        found = {name: plain(_by_name(value)) for name, value in named(arguments).items()}
        key = (parser,) if parser == "hydra" else (parser, *sorted(found))
        if key not in _seen and len(_seen) >= _MOST:
            del _seen[next(iter(_seen))]
        _seen[key] = found
        if current.sink is not None:
            current.sink.parsed(found)
    except Exception as error:
        _tell(error)


def _by_name(value: Any) -> Any:
    """Return the name of a function or class: the text of a function has its address."""
    return getattr(value, "__qualname__", value) if callable(value) else value


# -- models ---------------------------------------------------------------------------------------------------------------


def _wrap_torch(module: Any) -> None:
    _wrap(module, "save", _saving(1, "f"))


def _wrap_safetensors(module: Any) -> None:
    _wrap(module, "save_file", _saving(1, "filename"))


def _saving(place: int, name: str) -> Callable[..., Any]:
    """Return the wrapper of a function that saves to a file, which is its argument at this place, or by this name."""

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG001 - wrapt's signature
        result = wrapped(*args, **kwargs)
        sink = current.sink
        if sink is not None:
            try:
                target = args[place] if len(args) > place else kwargs.get(name)
                if isinstance(target, (str, os.PathLike)):
                    sink.saved(os.path.abspath(os.fsdecode(target)))
            except Exception as error:
                sink.problem(error)
        return result

    return wrapper


_HOOKS: dict[str, Callable[[Any], None]] = {
    "argparse": _wrap_parsers,
    "jsonargparse": _wrap_parsers,
    "hydra.core.utils": _wrap_job,
    "hydra._internal.hydra": _wrap_job,
    "hydra._internal.core_plugins.basic_launcher": _wrap_job,
    "torch.serialization": _wrap_torch,
    "torch": _wrap_torch,
    "safetensors.torch": _wrap_safetensors,
}
