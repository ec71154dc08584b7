"""What MLflow takes: keys, and lengths of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.values import cut, flat, utf8

__all__ = [
    "ILLEGAL_IMAGE_KEY", "ILLEGAL_KEY", "MAX_BATCH", "MAX_KEY", "MAX_PARAM", "MAX_TAG", "SURE_TAG", "Whole", "artifact_paths",
    "config_params", "experiment_name", "fit", "plain", "run_name",
]  # fmt: skip

ILLEGAL_KEY = r"[^/\w.\- :]|^/|/(?=/)|/\Z|(?<![^/])\.{1,2}(?![^/])|^\.\."
"""``utils/validation.py``: `validate_param_and_metric_name` and `path_not_unique`, for metrics, params and tags."""

ILLEGAL_IMAGE_KEY = r"[^A-Za-z0-9_\-./ ]|^ "
"""``tracking/client.py``, `log_image`; and a file whose name begins with a blank is listed without it by servers."""

MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000
SURE_TAG = 5000  # what a server before 2.17 keeps of a tag
MAX_BATCH = 1000
_MAX_EXPERIMENT, _MAX_RUN_NAME = 500, 250
_UNPRINTABLE = r"[\x00-\x1f\x7f\ud800-\udfff]"


_ARTIFACT_PATH = r"[^\w.\-/ ()+,@]|^\.+(?=/|$)|(?<=/)\.+(?=/|$)|^/|/(?=/)|/$|^ | $|(?<=/) | (?=/)"
"""What is not kept in the names of a user's files: what has a meaning for addresses, or for `validate_path_is_safe` in
``utils/uri.py``, and what one of the usual file systems does not take. Letters of all scripts are kept."""


def artifact_paths() -> Names:
    """Return the rule for the paths of a user's files; a part of one may have 255 bytes in file systems."""
    return Names(_ARTIFACT_PATH, 180, in_bytes=True)


class Whole(NamedTuple):
    """A file with a text that had to be cut."""

    path: str
    data: bytes


def fit(name: str, text: str, limit: int, paths: Names) -> tuple[str, Whole | None]:
    """Return `text` within MLflow's limit. A longer one is cut, says so, and comes with the file that has it whole."""
    fitting = plain(text)
    if len(fitting) <= limit:
        return fitting, None
    data = text.encode("utf-8", "surrogatepass")
    path = f"{paths(name)}/whole={hashlib.blake2s(data, digest_size=4).hexdigest()}.txt"
    return cut(fitting, limit, f" ... [cut: {len(text)} characters, whole in {path}]"), Whole(path, data)


def plain(text: str) -> str:
    """Return `text` without what no database takes as text: lone surrogates and NUL, written as escapes."""
    return utf8(text).replace("\0", "\\x00")


def run_name(name: str | None) -> str | None:
    return Names(_UNPRINTABLE, _MAX_RUN_NAME)(name) if name else None


def experiment_name(name: str) -> str:
    return Names(_UNPRINTABLE, _MAX_EXPERIMENT)(name)


def config_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Return nested `config` as ``optimizer/lr`` -> text."""
    return {name: str(value) for name, value in flat(config, "/").items()}
