"""What W&B's service says of its uploads: in its own log, and nowhere else.

It uploads rows (the *file stream*), files and artifacts by itself. What it gives up for good, it does not try again, nor tell the
SDK; after some answers to the file stream (403, 404, ...) it uploads no row any more. A 200 that is no answer of W&B's (the page
of a proxy) it takes for an acknowledgement, and goes on with the rows behind those that nobody has stored.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["ServiceLog"]

_NAME = re.compile(r"\bName: (.*?), Url: ")
_STATUS = re.compile(r"\b(?:status:|returned error) (\d{3})\b")
_MARKS = tuple(b'"' + mark for mark in (
    b"filestream: ", b"file transfer: upload: failed", b"runfiles: ", b"sender: failed to log artifact", b"runupserter: ",
))  # fmt: skip


class ServiceLog:
    """The log of the service of one run: ``{"level": ..., "msg": "filestream: ..."}``, one a line.

    Args:
        path: where it is.

    Attributes:
        fatal: why no row is to be uploaded by this service any more; None if they are.
        acknowledged: how many rows the server has acknowledged, as far as this log has it.
        files: files that were given up since they were last taken from here, with the status that was answered; 0: none was.
        unnamed: the same for files that are not named, of parameters, and of artifacts.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._read = self._offset = self._before = 0
        self.fatal: str | None = None
        self.acknowledged = 0
        self.files: dict[str, int] = {}
        self.unnamed: dict[str, int] = {}

    def look(self) -> None:
        """Read what has come since the last time."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                data = file.read()
        except OSError:  # not begun yet
            return
        whole = data.rfind(b"\n") + 1
        self._read += whole
        for line in data[:whole].splitlines():
            if any(mark in line for mark in _MARKS):
                self._take_note(line)

    def _take_note(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        text = str(said.get("msg"))
        kind, _, what = text.partition(": ")
        if kind == "filestream":
            self._stream(what, said)
        elif said.get("level") != "ERROR":
            return
        elif kind == "file transfer" and (name := _NAME.search(str(said.get("task")))) is not None:
            self.files[name[1]] = _status(text)
        elif kind == "runfiles":
            self.unnamed["file"] = _status(text)
        elif kind == "sender":
            self.unnamed["artifact"] = _status(text)
        elif kind == "runupserter":
            self.unnamed["parameters"] = _status(str(said.get("error")))

    def _stream(self, what: str, said: dict[str, Any]) -> None:
        if what.startswith("fatal error"):
            self.fatal = what[:300]
        elif what == "sending request" and "history_offset" in said:
            self._offset = int(said["history_offset"]) + int(said.get("history_lines", 0))
        elif what == "request sent" and str(said.get("status")).startswith("2"):
            self._before, self.acknowledged = self.acknowledged, max(self.acknowledged, self._offset)
        elif what.startswith("json decode error") and not what.endswith(": EOF"):  # which is an empty answer
            self.fatal = "rows were answered with something that is not W&B's"
            self.acknowledged = self._before


def _status(text: str) -> int:
    found = _STATUS.search(text)
    return int(found[1]) if found is not None else 0
