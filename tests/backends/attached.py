"""Files that trackers have under the paths that `Backend.artifact_stem` gives, for their readers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

__all__ = ["files_of", "markdown_table"]

_FOLDERS = {"table": "tables", "tags": "tags", "alert": "alerts"}


def files_of(
    attached: Iterable[tuple[str, bytes]], kind: str, tag: str, named: Callable[[str], str]
) -> list[tuple[int, str, bytes]]:
    """Return what `Reader.as_files` does.

    Args:
        attached: (path, content) of all files of the run; of two of one path the later counts.
        kind, tag: see there.
        named: returns the tag, with its writer, for a folder's name.
    """
    found = []
    for path, data in dict(attached).items():
        folder, _, rest = path.partition("/")
        if kind in ("artifact", "model"):
            if folder == "artifacts" and (rest == tag or rest.startswith(f"{tag}/")):
                found.append((0, rest[len(tag) :], data))
            continue
        mapped, _, file = rest.rpartition("/")
        match = re.fullmatch(r"step=(-?\d+)_[0-9a-f]{8}(\..+)", file)
        if match and folder == _FOLDERS[kind] and named(mapped) == tag:
            found.append((int(match[1]), match[2], data))
    return found


def markdown_table(text: str) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a table in Markdown, as texts."""
    lines = (re.split(r"(?<!\\) \| ", line[2:-2]) for line in text.split("\n"))
    head, rule, *rows = ([cell.replace("\\|", "|").replace("<br>", "\n") for cell in line] for line in lines)
    assert set(rule) == {"---"}
    return head, rows
