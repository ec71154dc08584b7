"""The names under which a run stands in a DVCLive directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every file, and every name in the files that name something, of one program's run and its trials."""
    for folder, _, names in os.walk(directory):
        for name in names:
            file = Path(folder, name)
            place = file.relative_to(directory)
            yield f"file: {place}"
            if name == "dvc.yaml":
                yield from (f"{place}: {entry}" for entry in _entries(YAML(typ="safe").load(file)))
            elif name.endswith(".yaml"):
                yield from (f"{place}: {key}" for key in YAML(typ="safe").load(file))
            elif place.parts[1] == "plots" and name.endswith(".tsv"):
                yield f"{place}: {file.read_text(encoding='utf-8').partition(chr(10))[0]!r}"
            elif place.parts[1:3] == ("plots", "custom"):
                yield from (f"{place}: {column}" for row in json.loads(file.read_text()) for column in row)
            elif name in ("metrics.json", "names.json", "run.json"):
                yield from (f"{place}: {path}" for path in _paths(json.loads(file.read_text())))


def _paths(nested: dict[str, Any]) -> Iterator[str]:
    """Yield where the values stand: keys, joined by what stands in none of them."""
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            yield from (f"{key} > {path}" for path in _paths(value))
        else:
            yield key


def _entries(listed: dict[str, Any]) -> Iterator[str]:
    """Yield what a dvc.yaml lists."""
    for section, entries in listed.items():
        yield from (f"{section}: {entry!r}" for entry in entries)
