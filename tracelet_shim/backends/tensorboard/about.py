"""What is said of a run. TensorBoard knows none: ``run.json`` has names, tags, notes, configuration and status.

Configuration, tags and notes, where somebody gave any, also stand in one small event file of ours, as an hparams session of the
whole run and as texts under ``tracelet/``. No hparams ``Experiment`` goes with it, since TensorBoard shows the first that it
finds, and would hide the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet_shim.backends.tensorboard.records import note, session_start

__all__ = ["file_name", "records_of"]


def file_name(about: Mapping[str, Any]) -> str:
    """Return the name of that event file."""
    return f"events.out.tfevents.{int(about['started']):010d}.tracelet"


def records_of(about: Mapping[str, Any]) -> list[bytes]:
    """Return its records; none if nobody gave configuration, tags or notes.

    Args:
        about: what run.json says.
    """
    given = {name: value for name, value in (about.get("tags") or {}).items() if name not in (about.get("noticed") or ())}
    texts = {"tracelet/notes": about.get("notes"), "tracelet/tags": _table(given)}
    started = about["started"]
    records = [note(tag, text, started) for tag, text in texts.items() if text]
    if about.get("config"):
        records.append(session_start(about["config"], about.get("group") or "", started))
    return records


def _table(tags: Mapping[str, str]) -> str:
    """Return tags as a Markdown table."""
    rows = [f"| {_cell(name)} | {_cell(value)} |\n" for name, value in tags.items()]
    return "".join(["| tag | value |\n|---|---|\n", *rows]) if rows else ""


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
