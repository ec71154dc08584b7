"""The names under which a run stands in a copied log directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.backends.tensorboard.reader import TensorBoardReader

_MADE_BY = re.compile(r"(?<=tfevents\.)\d+\.(?!tracelet$).*")
"""Time, host, process and number of an event file that is copied."""


def store_keys(directory: Path) -> Iterator[str]:
    """Yield every file, tag and plugin of one program's runs, the projector's names and those in run.json."""
    for folder, _, names in os.walk(directory):
        for name in names:
            file = Path(folder, name)
            place = _MADE_BY.sub("...", str(file.relative_to(directory)))
            yield f"file: {place}"
            if "tfevents" in name:
                yield from (f"{place}: {record}" for record in _records(file))
            elif name == "projector_config.pbtxt":
                yield from (f"{place}: {line.strip()}" for line in file.read_text().splitlines())
            elif name == "run.json":
                yield from (f"{place}: {key}" for key in json.loads(file.read_text()))


def _records(file: Path) -> Iterator[str]:
    for event in TensorBoardReader.events_of_file(file):
        yield str(event.WhichOneof("what"))
        for value in event.summary.value:
            kind, plugin = value.WhichOneof("value"), value.metadata.plugin_data.plugin_name
            yield f"tag {value.tag!r} {kind} {plugin}"
