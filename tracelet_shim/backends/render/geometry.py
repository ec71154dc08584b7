"""Meshes and point clouds as files: PLY, OBJ, binary glTF.

In all of them vertices are floats of shape (points, 3), faces integers of shape (triangles, 3), colours 0 to 255 of shape
(points, 3); faces and colours may be None where a format says so.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

__all__ = ["glb", "obj", "ply"]

_FLOAT, _UINT32, _BYTE = 5126, 5125, 5121  # component types of glTF
_VERTICES, _INDICES = 34962, 34963  # its targets


def ply(vertices: Any, faces: Any | None, colors: Any | None) -> bytes:
    """Return a mesh or a point cloud as an ASCII PLY file."""
    head = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}"]
    head += [f"property float {axis}" for axis in "xyz"]
    if colors is not None:
        head += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    if faces is not None:
        head += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    lines = [*head, "end_header"]
    for i, vertex in enumerate(vertices):
        line = " ".join(repr(float(x)) for x in vertex)
        if colors is not None:
            line += " " + " ".join(str(int(c)) for c in colors[i])
        lines.append(line)
    if faces is not None:
        lines += ["3 " + " ".join(str(int(i)) for i in face) for face in faces]
    return ("\n".join(lines) + "\n").encode()


def obj(vertices: Any, faces: Any, colors: Any | None) -> str:
    """Return a triangle mesh as OBJ text, with the colours 0 to 1 behind the coordinates."""
    rows = vertices.tolist() if colors is None else np.hstack([vertices.astype(float), colors / 255]).tolist()
    lines = ["v " + " ".join(map(repr, row)) for row in rows]
    lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces.tolist()]
    return "\n".join(lines) + "\n"


def glb(vertices: Any, faces: Any, colors: Any | None) -> bytes:
    """Return a triangle mesh as binary glTF 2.0 (Khronos, "GLB file format specification")."""
    parts = [
        (vertices.astype("<f4"), _FLOAT, "VEC3", _VERTICES),
        (faces.astype("<u4").reshape(-1), _UINT32, "SCALAR", _INDICES),
    ]
    if colors is not None:  # four bytes each, because glTF aligns them
        rgba = np.column_stack([colors, np.full(len(colors), 255)]).astype(np.uint8)
        parts.append((rgba, _BYTE, "VEC4", _VERTICES))
    views, accessors, body = [], [], b""
    for array, component, shape, target in parts:
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": array.nbytes, "target": target})
        accessors.append({"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": shape})
        body += array.tobytes()
    accessors[0] |= {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    attributes = {"POSITION": 0}
    if colors is not None:
        accessors[2]["normalized"] = True
        attributes["COLOR_0"] = 2
    scene = {
        "asset": {"version": "2.0", "generator": "tracelet-shim"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}], "buffers": [{"byteLength": len(body)}], "bufferViews": views, "accessors": accessors,
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1, "material": 0}]}],
        "materials": [{"doubleSided": True, "pbrMetallicRoughness": {"metallicFactor": 0}}],
    }  # fmt: skip
    head = json.dumps(scene).encode()
    head += b" " * (-len(head) % 4)
    total = 12 + 8 + len(head) + 8 + len(body)
    start = struct.pack("<4sII", b"glTF", 2, total)
    return start + struct.pack("<I4s", len(head), b"JSON") + head + struct.pack("<I4s", len(body), b"BIN\0") + body
