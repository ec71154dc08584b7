"""Files in a run's directory: each is replaced in one step, since `Live`, killed while it writes, leaves half of one behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from tracelet_shim.backends.shared.files import replace
from tracelet_shim.backends.shared.values import plain

__all__ = ["NAMES_FILE", "content", "walk", "write_json", "write_yaml"]

NAMES_FILE = "names.json"


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def walk(directory: str, suffix: str) -> Iterator[str]:
    """Yield the files with this suffix, relative, with slashes."""
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            if name.endswith(suffix):
                yield os.path.relpath(os.path.join(folder, name), directory).replace(os.sep, "/")


def write_json(path: str, value: Any) -> None:
    """Write JSON as ``dvclive.serialize.dump_json`` does. NaN and infinities are the texts that `Live.log_metric` stores."""
    text = json.dumps(plain(value, integer=int, key=str, text=str), indent=4, allow_nan=False)
    replace(path, text.encode() + b"\n")


def write_yaml(path: str, value: Any) -> None:
    from dvclive.serialize import dump_yaml

    temporary = f"{path}.{os.getpid()}.tmp"
    dump_yaml(value, temporary)
    os.replace(temporary, path)
