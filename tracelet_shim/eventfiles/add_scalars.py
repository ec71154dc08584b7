"""Which event files of a log directory `add_scalars` has made.

For each key it writes a file of its own, into ``<logdir>/<main_tag with / as _>_<key>``, with nothing but that one tag. The
directory of a sweep, ``lr_0.1`` with the tags ``lr`` and ``loss``, looks alike; but there the process that wrote the file has
not written another one above it before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping

from tracelet_shim.common.inside import open_regular
from tracelet_shim.eventfiles.logdir import CREATED
from tracelet_shim.eventfiles.tfrecord import checked_records

__all__ = ["Files", "home", "homes", "key", "tags"]

Files = Mapping[str, Collection[str]]
"""Paths of event files, by directory."""


def home(path: str, files: Files, top: str) -> str | None:
    """Return the log directory of the writer whose `add_scalars` has made this event file, as far as it goes now; None if it is
    no such file.

    Args:
        path: the event file.
        files: all event files of the log directory.
        top: that directory.
    """
    above = list(homes(path, files, top))
    found = tags(path, top) if above else set()
    if len(found) != 1:
        return None
    (tag,) = found
    return next((directory for directory in above if key(os.path.dirname(path), directory, tag) is not None), None)


def key(logdir: str, parent: str, tag: str) -> str | None:
    """Return the key of `add_scalars` that a directory of the writer on `parent` stands for, with this ``main_tag``."""
    prefix = tag.replace("/", "_") + "_"
    name = os.path.relpath(logdir, parent)
    return name[len(prefix) :] if name.startswith(prefix) and len(name) > len(prefix) else None


def homes(path: str, files: Files, top: str) -> Iterator[str]:
    """Yield the directories above an event file, up to `top`, into which the same process has begun to write before."""
    directory = os.path.dirname(path)
    while directory != top and directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
        if any(_precedes(other, path) for other in files.get(directory, ())):
            yield directory


def _precedes(one: str, other: str) -> bool:
    """Return whether an event file has been made by the process that later made the other one. Names end in host, process id and
    a number that counts up, ``.v2`` or a suffix of the user's; those of old writers have the host alone."""
    first, second = (CREATED.search(os.path.basename(path)) for path in (one, other))
    if first is None or second is None or int(first[1]) > int(second[1]):
        return False
    parts, others = (_parts(found[2] or "") for found in (first, second))
    if parts == others:
        return not any(part.isdigit() for part in parts)
    differ = [at for at, pair in enumerate(zip(parts, others, strict=False)) if pair[0] != pair[1]]
    if len(parts) != len(others) or len(differ) != 1:
        return False
    at = differ[0]
    is_count = parts[at].isdigit() and others[at].isdigit() and not any(part.isdigit() for part in parts[at + 1 :])
    return is_count and at > 0 and parts[at - 1].isdigit() and int(parts[at]) < int(others[at])


def _parts(text: str) -> list[str]:
    """Return the parts of a name between dots; a suffix that follows the last number is one of its own."""
    head, _, last = text.rpartition(".")
    number = last[: len(last) - len(last.lstrip("0123456789"))]
    return [*(head.split(".") if head else []), number, last[len(number) :]]


def tags(path: str, inside: str) -> set[str]:
    """Return the tags of an event file that has nothing but scalars; of any other one, more than one."""
    from tensorboard.compat.proto.event_pb2 import Event

    found: set[str] = set()
    with contextlib.suppress(Exception), open_regular(path, inside) as file:  # damaged, or gone: what comes before counts
        for _, data in checked_records(file):
            event = Event.FromString(data)
            if event.WhichOneof("what") == "file_version":
                continue
            found |= {value.tag if value.WhichOneof("value") == "simple_value" else "\0" for value in event.summary.value}
            if len(found) > 1 or not event.summary.value:
                return {"\0", "\1"}
    return found
