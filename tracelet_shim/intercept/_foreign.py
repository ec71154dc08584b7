"""Writers of TensorFlow's: they are not listened to, since what they write never passes through Python, but it is noted where
they write. `tracelet_shim.session.watched` delivers from there; where nobody watches, the end says so.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any

from tracelet_shim.intercept import _tensorboardx
from tracelet_shim.intercept._sink import current
from tracelet_shim.intercept._tap import absolute

__all__ = ["settle", "tensorflow_made", "tensorflow_v1_made"]

_writers: weakref.WeakSet[Any] = weakref.WeakSet()


def tensorflow_made(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap the `__init__` of what `tf.summary.create_file_writer` returns."""
    result = wrapped(*args, **kwargs)
    init = kwargs.get("init_op_fn", args[1] if len(args) > 1 else None)
    _note(writer, getattr(init, "keywords", {}).get("logdir"))
    return result


def tensorflow_v1_made(wrapped: Any, writer: Any, args: Any, kwargs: Any) -> Any:
    """Wrap the `__init__` of what is in a `tf.compat.v1.summary.FileWriter`."""
    result = wrapped(*args, **kwargs)
    _note(writer, args[0] if args else kwargs.get("logdir"))
    return result


def _note(writer: Any, logdir: Any) -> None:
    sink = current.sink
    if sink is None or writer is None:
        return
    try:
        _writers.add(writer)
        path = logdir.numpy() if hasattr(logdir, "numpy") else logdir  # a tensor, which in a graph has no value
        if isinstance(path, (str, bytes, os.PathLike)):
            sink.foreign_writer("tf.summary", absolute(os.fsdecode(path)))
    except Exception as error:
        sink.problem(error)


def settle() -> None:
    """Wait for what is on its way to the files of writers with a thread of their own, and have TensorFlow's write what they hold:
    they do that when the interpreter goes, and nobody looks any more."""
    _tensorboardx.settle()
    for writer in list(_writers):
        with contextlib.suppress(Exception):  # closed, or of a graph that is gone: there is nothing to be had from it
            writer.flush()
