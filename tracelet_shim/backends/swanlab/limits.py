"""What SwanLab accepts: rules of names, and sizes."""

from __future__ import annotations

import re

from tracelet_shim import events as ev

__all__ = [
    "KEY", "LABEL", "MAX_BYTES", "MAX_ITEMS", "MAX_KEY", "MAX_NOTES", "MAX_OLD_KEY", "MAX_PARAM", "MAX_STEP", "MAX_TAGS", "PARAM",
    "PROJECT", "REPEATS", "RUN_ID", "base_key",
]  # fmt: skip

MAX_STEP = 1 << 48  # `core_python.metrics._MAX_STEP`
REPEATS = 8
"""Keys beside a tag's own for points that share a step."""
MAX_ITEMS = 108  # of one record, and bytes of one item: `consumer.builder.RecordBuilder`
MAX_BYTES = 10 * 1024**2
MAX_PARAM = 10_000
"""Characters of a parameter, which SwanLab shows in a table; a longer one is cut and attached whole."""
MAX_TAGS, MAX_NOTES = 30, 1024  # `settings.experiment.ExperimentSettings`

_CONTROL = "\\x00-\\x1f\\x7f\\ud800-\\udfff"
_KINDS = "|".join(kind.kind for kind in ev.EVENT_TYPES)
_EDGES = r"^[ ./]+|[ ./]+\Z"
_OURS = rf"\((?=(?:{_KINDS}|repeat \d|more|more: step|more: rest|infinity)\)\Z)"

KEY = rf"[{_CONTROL}]|{_EDGES}|^_(?=_swanlab__\.)|(?<= ){_OURS}"
"""What SwanLab strips or refuses in a key (`constraints.MetricKey`), and what we append to keys."""
MAX_KEY = 512 - 48  # for what we append
MAX_OLD_KEY = 255 - 48  # before 0.7.15 or so, which cut a longer one
LABEL = rf"[{_CONTROL}]|^\s+|\s+\Z"  # SwanLab strips white space
RUN_ID = rf'[<>:"/\\|?*#%{_CONTROL}]|^\s+|\s+\Z'  # `constraints.RunId`
PROJECT = r"[^0-9A-Za-z_\-+.]"
PARAM = rf"[{_CONTROL}]|^t(?=racelet\Z)"


def base_key(key: str) -> str | None:
    """Return the key that a point was meant for, of the one that it went to; None for what only goes with a point."""
    if key.endswith((" (more: step)", " (more: rest)", " (infinity)")):
        return None
    return re.sub(r" \((?:repeat \d|more)\)\Z", "", key)
