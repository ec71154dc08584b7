"""What is patched, and with what."""

from __future__ import annotations

import copy
import os.path
import sys
import time
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

import wrapt

from tracelet_shim.intercept import _calls, _foreign, _tap, _tensorboardx, _tensorboardx_calls
from tracelet_shim.intercept._scalar import is_own, scalar_method
from tracelet_shim.intercept._sink import current

__all__ = [
    "Wrapper", "patch", "patch_events", "patch_tensorboardx", "patch_tensorboardx_events", "patch_tensorflow",
    "patch_tensorflow_v1",
]  # fmt: skip

_BETWEEN = ("tracelet_shim.intercept.", "wrapt.")


class _Bound(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]
    """`SummaryWriter.add_scalar` as looked up; is copied, pickled by reference and shown as the function itself is."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        owner = getattr(self, "_self_instance", None)
        return _by_reference(self) if owner is None else (getattr, (owner, self.__name__))

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = getattr(self, "_self_instance", None)
        return self if owner is None else getattr(copy.deepcopy(owner, memo), self.__name__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


class Wrapper(wrapt.FunctionWrapper):  # type: ignore[type-arg]
    """A patched function, which is copied, pickled by reference and shown as the function itself is."""

    __bound_function_wrapper__ = _Bound

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _by_reference(self)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


def _scalar_wrapper(file_writer: type, summary_writer: type) -> type[Wrapper]:
    """Return the class of the wrapper for `SummaryWriter.add_scalar`: as a part of an instance it is a plain method, of which a
    call costs a fifth of what wrapt's own costs."""
    method: FunctionType | None = None
    get = Wrapper.__get__

    class Scalar(Wrapper):
        def __init__(self, wrapped: Any, wrapper: Any) -> None:
            nonlocal method
            super().__init__(wrapped, wrapper)
            if is_own(wrapped, summary_writer.__module__):  # else somebody else was here first
                method = scalar_method(wrapped, wrapper, file_writer, summary_writer)

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            return get(self, instance, owner) if instance is None or method is None else MethodType(method, instance)

    return Scalar


def _by_reference(function: Any) -> tuple[Any, tuple[Any, ...]]:
    """Name nothing of ours: who loads the pickle may not have this package."""
    import importlib

    owner: Any = importlib.import_module(function.__module__)
    for part in function.__qualname__.split(".")[:-1]:
        owner = getattr(owner, part)
    return getattr, (owner, function.__name__)


def patch(file_writer: type, summary_writer: type) -> None:
    """Wrap what is to be seen, for good. Never twice: everything would be published twice."""
    wrap: dict[tuple[type, str], Any] = {
        (file_writer, "__init__"): _tap.created,
        (file_writer, "add_event"): _tap.add_event,
        (summary_writer, "__init__"): _writer_created,
        (summary_writer, "flush"): _nudging,
        (summary_writer, "close"): _nudging,
        **_noted(summary_writer, _calls.NOTES),
        (summary_writer, "add_embedding"): _add_embedding,
    }
    for (owner, method), wrapper in wrap.items():
        if hasattr(owner, method):  # an older torch may lack one
            kind = Wrapper if method != "add_scalar" else _scalar_wrapper(file_writer, summary_writer)
            wrapt.wrap_object(owner, method, kind, (wrapper,))


def patch_events(event_file_writer: type) -> None:
    """As `patch`, for TensorBoard's own writer, where a program uses it by itself, or through `tensorboard.summary.Writer`."""
    wrapt.wrap_object(event_file_writer, "__init__", Wrapper, (_tap.events_created,))
    wrapt.wrap_object(event_file_writer, "add_event", Wrapper, (_tap.events_logged,))


def patch_tensorboardx(summary_writer: type) -> None:
    """As `patch`, for what stands before tensorboardX's event writer."""
    wrap: dict[tuple[type, str], Any] = {
        (summary_writer, "__init__"): _writer_created,
        (summary_writer, "flush"): _nudging,
        (summary_writer, "close"): _nudging,
        **_noted(summary_writer, _tensorboardx_calls.NOTES),
        (summary_writer, "add_embedding"): _add_tensorboardx_embedding,
    }
    for (owner, method), wrapper in wrap.items():
        if hasattr(owner, method):  # an older one may lack it
            wrapt.wrap_object(owner, method, Wrapper, (wrapper,))


def patch_tensorboardx_events(event_file_writer: type, events_writer: type) -> None:
    """As `patch`, for tensorboardX's event writer."""
    wrapt.wrap_object(event_file_writer, "__init__", Wrapper, (_tensorboardx.events_created,))
    wrapt.wrap_object(event_file_writer, "add_event", Wrapper, (_tensorboardx.events_logged,))
    wrapt.wrap_object(events_writer, "_write_serialized_event", Wrapper, (_tensorboardx.event_written,))


def patch_tensorflow(resource_summary_writer: type) -> None:
    """Note where ``tf.summary`` writes."""
    wrapt.wrap_object(resource_summary_writer, "__init__", Wrapper, (_foreign.tensorflow_made,))


def patch_tensorflow_v1(event_file_writer: type) -> None:
    """Note where ``tf.compat.v1.summary.FileWriter`` writes."""
    wrapt.wrap_object(event_file_writer, "__init__", Wrapper, (_foreign.tensorflow_v1_made,))


def _noted(summary_writer: type, notes: Mapping[str, Any]) -> dict[tuple[type, str], Any]:
    return {(summary_writer, method): _noting(note, summary_writer.__module__) for method, note in notes.items()}


def _writer_created(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    _tap.making.now = True
    try:
        result = wrapped(*args, **kwargs)
    finally:
        _tap.making.now = False
    sink = current.sink
    if sink is not None and writer is not None and _calls.now.call is None:  # else it is the nested one of add_hparams
        try:
            if getattr(writer, "_write_to_disk", True):  # else tensorboardX writes nothing, and nothing is to come of it
                sink.writer_created(_tap.directory(writer), _tap.runs_of(writer, sink))
        except Exception as error:
            sink.problem(error)
    return result


def _nudging(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG001 - wrapt's signature
    result = wrapped(*args, **kwargs)
    sink = current.sink
    if sink is not None:
        sink.nudge()
    return result


def _noting(note: Any, module: str) -> Any:
    """Return a wrapper that notes the call while the native method runs. That may make such calls itself, from its `module`: they
    are parts of it. Others in the middle of it are a signal handler's.

    wrapt knows no instance where ``self`` is passed by name, or is no SummaryWriter. Such a call goes without a note.
    """
    now = _calls.now

    def wrapper(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
        outer = now.call
        if current.sink is None or writer is None or (outer is not None and _caller() == module):
            return wrapped(*args, **kwargs)
        now.call = note(writer, args, kwargs)
        try:
            return wrapped(*args, **kwargs)
        finally:
            now.call = outer

    return wrapper


def _caller() -> str:
    """Return the name of the module that has called the wrapper that asks."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(_BETWEEN):
        frame = frame.f_back
    return str(frame.f_globals["__name__"])


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


def _add_tensorboardx_embedding(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    result = wrapped(*args, **kwargs)
    sink = current.sink
    if sink is not None and writer is not None and writer._write_to_disk:
        try:
            logdir = _tap.absolute(writer._get_file_writer().get_logdir())
            path = os.path.join(logdir, "projector_config.pbtxt")
            hint = _tensorboardx_calls.NOTES["add_embedding"](writer, args, kwargs).embedded(time.time())  # type: ignore[attr-defined]
            _tap.publish_without_event(writer, sink, path, _tensorboardx.embeddings_in(logdir) - 1, hint)
        except Exception as error:
            sink.problem(error)
    return result
