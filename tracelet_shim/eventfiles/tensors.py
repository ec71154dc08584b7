"""TensorProto -> numpy."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from tracelet_shim import events as ev

__all__ = ["array_of", "plain_array", "texts_of"]

_MOST_REPEATED = 1 << 26  # numbers that a tensor may have for which one stands


def texts_of(tensor: Any) -> np.ndarray[Any, Any]:
    """Return the texts of a TensorProto, in its shape if it has as many, else as a list.

    Raises:
        ValueError: it has no texts.
    """
    from tensorboard.compat.proto import types_pb2

    if tensor.dtype != types_pb2.DT_STRING or tensor.tensor_content:
        raise ValueError("no tensor of texts")
    texts = np.empty(len(tensor.string_val), object)
    texts[:] = tensor.string_val
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    return texts.reshape(shape) if math.prod(shape) == len(texts) else texts


def plain_array(tensor: Any) -> ev.Array:
    """Return a TensorProto as an Array; texts become a byte tensor of their UTF-8, one row a text."""
    array = array_of(tensor)
    if array.dtype == object:
        array = np.array([x if isinstance(x, bytes) else str(x).encode() for x in array.reshape(-1)], dtype=np.bytes_)
        width = max(array.dtype.itemsize, 1)
        return ev.Array("uint8", (len(array), width), array.astype(f"S{width}").tobytes())
    return ev.Array.of(array)


def array_of(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a TensorProto as a numpy array.

    torch's `add_tensor` stores float16 and bfloat16 as float32 bit patterns in ``half_val``, and uint8 in
    ``uint32_val``, where TensorBoard's own reader looks elsewhere; both are read here as torch wrote them.
    """
    from tensorboard.compat.proto import types_pb2
    from tensorboard.util import tensor_util

    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if math.prod(shape) > _MOST_REPEATED and len(tensor.SerializeToString()) < math.prod(shape):
        raise ValueError(f"there are not as many numbers as its shape says, {shape}")  # one may stand for all: a fill
    wide = bool(tensor.half_val) and (max(tensor.half_val) > 0xFFFF or min(tensor.half_val) < 0)
    if wide or (tensor.dtype == types_pb2.DT_BFLOAT16 and not tensor.tensor_content):
        # TensorBoard's reader knows no bfloat16; TensorFlow stores its 16 bits, which are the upper half of a float32.
        bits = [v & 0xFFFFFFFF if wide else v << 16 for v in tensor.half_val]
        floats = np.array(struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}I", *bits)), np.float32)
        return floats.reshape(shape).astype(np.float16 if tensor.dtype == types_pb2.DT_HALF else np.float32)
    if tensor.uint32_val and tensor.dtype == types_pb2.DT_UINT8:
        return np.array(tensor.uint32_val, np.uint8).reshape(shape)
    array: np.ndarray[Any, Any] = tensor_util.make_ndarray(tensor)
    return array
