"""What stands beside the shim in a comparison: the module as torch ships it, and a reader of event files that is not ours."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.\d+\..+?\.\d+\.(\d+)(.*)")


def pristine_module() -> ModuleType:
    """Return a second copy of ``torch.utils.tensorboard.writer``, made from its file, that nobody has patched."""
    name = "torch.utils.tensorboard._pristine_writer"
    if name not in sys.modules:
        found = importlib.util.find_spec("torch.utils.tensorboard.writer")
        assert found is not None
        assert found.origin is not None
        spec = importlib.util.spec_from_file_location(name, found.origin)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        assert module.__package__ == "torch.utils.tensorboard"
        sys.modules[name] = module
        spec.loader.exec_module(module)
        module.EventFileWriter = _pristine_events().EventFileWriter  # type: ignore[attr-defined]
    return sys.modules[name]


def _pristine_events() -> ModuleType:
    """Return such a copy of TensorBoard's event writer, which is watched as well."""
    found = importlib.util.find_spec("tensorboard.summary.writer.event_file_writer")
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location("tensorboard.summary.writer._pristine_events", found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def event_files(directory: Path) -> list[Path]:
    """Return the event files anywhere under a directory, each directory's in the order in which they were opened."""
    found = [path for path in directory.rglob("*") if path.is_file() and _EVENT_FILE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.parent, int(_EVENT_FILE.fullmatch(path.name)[1])))  # type: ignore[index]


def records(path: Path) -> list[bytes]:
    """Return the records of an event file, as TensorBoard's own loader reads them."""
    return list(RawEventFileLoader(str(path)).Load())


def events(path: Path) -> list[Event]:
    """Return the events of an event file, the ``file_version`` at index 0 included."""
    return [Event.FromString(record) for record in records(path)]


def only_event_file(directory: Path) -> Path:
    """Return the one event file that is directly in a directory."""
    (path,) = (path for path in event_files(directory) if path.parent == directory)
    return path


def tree(directory: Path, since: float, until: float) -> dict[str, Any]:
    """Return all that is under a directory: directories, files with their bytes, event files with their records.

    Names of event files hold the time and a number: what counts is their order, and the suffix. A wall time between
    `since` and `until` is the clock's, and is taken out.
    """
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_dir():
            found[str(relative)] = "directory"
        elif not _EVENT_FILE.fullmatch(path.name):
            found[str(relative)] = path.read_bytes()
    for path in event_files(directory):
        suffix = _EVENT_FILE.fullmatch(path.name)[2]  # type: ignore[index]
        written = []
        for event in events(path):
            if since <= event.wall_time <= until:
                event.wall_time = 0
            written.append(event.SerializeToString(deterministic=True))
        found.setdefault(str(path.parent.relative_to(directory)) + "/*", []).append((suffix, written))
    return found
