"""What W&B accepts: rules of names, and sizes."""

from __future__ import annotations

from collections.abc import Mapping

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.names import Names

__all__ = [
    "KEY", "MAX_PARAM", "artifact", "artifact_file", "artifact_type", "key_rule", "labels", "param_rule", "project", "run_id",
    "table_rule", "title",
]  # fmt: skip

MAX_PARAM = 100_000
"""Characters of a parameter; W&B's documentation wants a config below 10 MB. A longer one is cut and attached whole."""

_CONTROL = "\\x00-\\x1f\\x7f\\ud800-\\udfff"
_KINDS = "|".join(kind.kind for kind in ev.EVENT_TYPES)
KEY = (
    rf"[{_CONTROL}\\]|^\.+(?=/|$)|(?<=/)\.+(?=/|$)|^/|/(?=/)|/$"  # a path component must be one: media become files
    r"|^_(?=(?:step|runtime|timestamp|wandb)$)|^g(?=lobal_step$)"  # W&B's own keys, and our x axis
    rf"|_(?=table$)| (?=\((?:{_KINDS})\)$)"  # what W&B and we append to keys
)
"""W&B takes nearly any text, but a backslash stops the whole service process (wandb-core, `runmetric.go`, once `define_metric` is
in use), ``_step``, ``_runtime`` and ``_timestamp`` are its own, the empty key is dropped, and the keys of media become file
names. All that is escaped."""
_PARAM = rf"[{_CONTROL}\\]|^-+|-+$|^_(?=wandb$)|^t(?=racelet/)"  # Config._sanitize strips dashes


_ARTIFACT = r"[^A-Za-z0-9_.\-]"
_FILE = rf"[{_CONTROL}\\]|(?<=\A.):"  # what Windows would take for a drive or a folder


def key_rule() -> Names:
    return Names(KEY, 160, in_bytes=True)  # a media file's name adds at most 70 bytes; 255 is the limit


def table_rule(run: str) -> Names:
    """Return the rule for keys of tables in the run of this id: a table becomes an artifact run-<id>-<key>, of 128 characters;
    W&B and we add up to 39 to the tag's key."""
    return Names(KEY, max(128 - 39 - len(f"run-{run}-"), 20), in_bytes=True)


def artifact(name: str) -> str:
    """Return the name of an artifact or a collection (`sdk/artifacts/artifact.py`, `Artifact.__init__`)."""
    return Names(_ARTIFACT, 128)(name)


def artifact_type(category: str) -> str:
    """Return the type of an artifact (`validate_artifact_type`: some are W&B's own)."""
    return Names(rf"[/:{_CONTROL}]|^w(?=andb-)|^j(?=ob\Z)|^r(?=un_table\Z)|^c(?=ode\Z)", 128)(category or "artifact")


def artifact_file(path: str) -> str:
    """Return the path of a file in an artifact (`sdk/lib/paths.py`, `validate_relpath`)."""
    return Names(_FILE, 900, in_bytes=True)(path)


def param_rule() -> Names:
    return Names(_PARAM, 200)


def project(name: str) -> str:
    return Names(rf"[{_CONTROL}/\\#?%:]", 128)(name)


def run_id(name: str) -> str:
    return Names(r"[^\w.\-]", 48)(name)


def title(name: str) -> str:
    """Return the display name of a run."""
    return Names(f"[{_CONTROL}]", 128)(name)


def labels(tags: Mapping[str, str]) -> list[str]:
    """Return W&B's tags, bare labels of 1 to 64 characters: ``name`` or ``name=value``."""
    label = Names(f"[{_CONTROL}]", 64)
    return list(dict.fromkeys(label(f"{name}={value}" if value else name) for name, value in tags.items()))
