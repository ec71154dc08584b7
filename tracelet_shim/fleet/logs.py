"""What collectors log: lines for people, or JSON for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
import time

from tracelet_shim.provenance.secrets import mask_text

__all__ = ["LOG_FORMAT", "set_up"]

LOG_FORMAT = "TRACELET_LOG_FORMAT"
"""The variable that has the hosts log as the collector does: ``json``."""


class _Json(logging.Formatter):
    """One object a line: time (seconds since the epoch), level, logger, pid, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name, "pid": record.process,
            "message": mask_text(record.getMessage()),
        }  # fmt: skip
        if record.exc_info:
            fields["traceback"] = mask_text(self.formatException(record.exc_info))
        return json.dumps(fields)


class _Lines(logging.Formatter):
    """UTC, for people."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(name)s[%(process)d] %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return mask_text(super().format(record))


def set_up(*, as_json: bool | None = None) -> None:
    """Log to standard error, in the form that was asked for, or that the environment of a host names."""
    if as_json is None:
        as_json = os.environ.get(LOG_FORMAT) == "json"
    elif as_json:
        os.environ[LOG_FORMAT] = "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
