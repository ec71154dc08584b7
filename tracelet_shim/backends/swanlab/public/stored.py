"""The log that 0.6.2 to 0.7 keep of a run, ``backup.swanlab``: JSON lines in LevelDB's log format.

The SDK writes it in a thread of its own, whose errors nobody hears of. Here that is done at once, so that what fails fails here,
and what `write` has taken is in the file.
"""

from __future__ import annotations

import json
import logging
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ABOUT", "LOG", "Earlier", "Store", "earlier", "records"]

LOG = "backup.swanlab"
ABOUT = "tracelet.json"
"""The file in a run's directory that says whose it is: offline, SwanLab makes an id of its own."""
BUFFER = 1 << 22  # holds more than one batch, so that a full disk shows when a batch is flushed, not within a record
_BLOCK, _HEADER = 32768, 7

_log = logging.getLogger(__name__)


class Store:
    """The SDK's writer of a run's log.

    Args:
        holder: the SDK's object.
        executor, file: the names of its attributes that have its thread and its file.
        own: False for a run of the user's.
    """

    def __init__(self, holder: Any, executor: str, file: str, *, own: bool) -> None:
        self._file = getattr(holder, file)
        thread = getattr(holder, executor)
        setattr(holder, executor, _AtOnce(own=own))
        thread.shutdown(wait=True)
        if own:
            name = self._file._fp.name
            self._file._fp.close()
            self._file._fp = open(name, "ab", buffering=BUFFER)  # noqa: SIM115 - the SDK closes it

    @classmethod
    def of(cls, run: Any, *, own: bool) -> Store | None:
        """Return that of a run; None if the SDK keeps no log, or one that we do not know."""
        operator = getattr(run, "_SwanLabRun__operator", None)
        for callback in getattr(operator, "callbacks", {}).values():
            for holder in (getattr(callback, "porter", None), getattr(callback, "backup", None)):
                for executor, file in (("_executor", "_f"), ("executor", "f")):
                    if getattr(holder, executor, None) is not None and hasattr(getattr(holder, file, None), "_fp"):
                        return cls(holder, executor, file, own=own)
        return None

    def flush(self) -> None:
        if self._file._fp is not None and not self._file._fp.closed:
            self._file._fp.flush()


class _AtOnce:
    """What the SDK takes for its thread."""

    def __init__(self, *, own: bool) -> None:
        self._own, self._ours = own, threading.get_ident()
        self._lock = threading.RLock()
        self._shutdown = False  # the SDK looks at it

    def submit(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        with self._lock:
            try:
                work(*args, **kwargs)
            except Exception:
                if self._own or threading.get_ident() == self._ours:
                    raise
                _log.warning("swanlab could not write", exc_info=True)

    def shutdown(self, wait: bool = True) -> None:
        self._shutdown = True


class Earlier(NamedTuple):
    """A directory that an earlier session of a run has left."""

    folder: Path
    about: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        import yaml  # type: ignore[import-untyped]

        path = self.folder / "files" / "config.yaml"
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        return {key: entry["value"] for key, entry in (found or {}).items()}


def earlier(log_dir: Path, run_id: str) -> list[Earlier]:
    """Return the directories of this run's id, oldest first."""
    found = []
    for path in sorted(log_dir.glob(f"run-*/{ABOUT}")):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # its process was killed when it wrote this, first of all
            continue
        if about["id"] == run_id:
            found.append(Earlier(path.parent, about))
    return sorted(found, key=lambda each: float(each.about["opened"]))


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (model, fields) of the records of a log, up to its end or to where a killed process left off."""
    data = path.read_bytes() if path.is_file() else b""
    at, whole = _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        crc, size, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        piece = data[at + _HEADER : at + _HEADER + size]
        if len(piece) < size or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != crc:
            return
        at += _HEADER + size
        whole = piece if kind in (1, 2) else whole + piece
        if kind in (1, 4):
            record = json.loads(whole)
            yield record["model_type"], record["data"]


def media(folder: Path, fields: dict[str, Any]) -> Sequence[bytes]:
    """Return the content of a media record's items."""
    names = fields.get("buffers_name")
    if not names:
        return [text.encode() for text in fields["metric"]["data"]]
    files = [folder / "media" / str(fields["kid"]) / name for name in names]
    return [file.read_bytes() for file in files if file.is_file()]
