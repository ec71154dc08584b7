"""Patching, lazily and once."""

from __future__ import annotations

import os.path
import time
from typing import Any

import wrapt

from tracelet_shim.intercept import _calls, _tap
from tracelet_shim.intercept._sink import current

__all__ = ["install"]

_MODULE = "torch.utils.tensorboard.writer"
_installed = False


class _Bound(wrapt.BoundFunctionWrapper):  # type: ignore[misc]
    """`SummaryWriter.add_scalar` as looked up; pickles by reference, as a plain function does."""

    def __reduce_ex__(self, protocol: int) -> Any:
        owner = getattr(self, "_self_instance", None)
        if owner is None:
            return _lookup, (self.__module__, self.__qualname__)
        return getattr, (owner, self.__name__)


class _Wrapper(wrapt.FunctionWrapper):  # type: ignore[misc]
    __bound_function_wrapper__ = _Bound

    def __reduce_ex__(self, protocol: int) -> Any:
        return _lookup, (self.__module__, self.__qualname__)


def _lookup(module: str, qualname: str) -> Any:
    import importlib

    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def install() -> None:
    """Patch `torch.utils.tensorboard` now, or as soon as it is imported. Imports nothing itself; may be called again."""
    global _installed
    if not _installed:
        _installed = True
        wrapt.register_post_import_hook(_patch, _MODULE)


def _patch(module: Any) -> None:
    wrap = {
        "FileWriter.__init__": _tap.created,
        "FileWriter.add_event": _tap.add_event,
        "SummaryWriter.__init__": _writer_created,
        "SummaryWriter.flush": _nudging,
        "SummaryWriter.close": _nudging,
        **{f"SummaryWriter.{method}": _noting(note) for method, note in _calls.NOTES.items()},
    }
    wrap["SummaryWriter.add_embedding"] = _add_embedding
    for target, wrapper in wrap.items():
        owner, _, method = target.partition(".")
        if hasattr(getattr(module, owner), method):  # an older torch may lack one
            wrapt.wrap_object(module, target, _Wrapper, (wrapper,))


def _writer_created(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    result = wrapped(*args, **kwargs)
    sink = current.sink
    if sink is not None and _calls.now.call is None:  # else it is the nested writer of add_hparams
        try:
            sink.writer_created(_tap.absolute(writer.log_dir))
        except Exception as error:
            sink.problem(error)
    return result


def _nudging(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    result = wrapped(*args, **kwargs)
    sink = current.sink
    if sink is not None:
        sink.nudge()
    return result


def _noting(note: Any) -> Any:
    """Return a wrapper that notes the call while the native method runs."""
    now = _calls.now

    def wrapper(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
        if current.sink is None or now.call is not None:
            return wrapped(*args, **kwargs)
        now.call = note(writer, args, kwargs)
        try:
            return wrapped(*args, **kwargs)
        finally:
            now.call = None

    return wrapper


def _add_embedding(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    result = wrapped(*args, **kwargs)
    sink = current.sink
    if sink is not None:
        try:
            embeddings = writer._projector_config.embeddings
            path = os.path.join(str(writer.get_logdir()), "projector_config.pbtxt")
            hint = _calls.NOTES["add_embedding"](writer, args, kwargs).embedded(time.time())  # type: ignore[attr-defined]
            _tap.publish_without_event(writer, sink, path, len(embeddings) - 1, hint)
        except Exception as error:
            sink.problem(error)
    return result
