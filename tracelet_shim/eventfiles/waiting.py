"""Records of a session that wait for its first writer, and what there is to know of it, should it be killed until then.

No ledger and no ring has such a session. So a file beside its records says how its runs would have been opened, without the
options of trackers, which may be credentials.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tracelet_shim.bus import messages as msg
from tracelet_shim.bus import wire
from tracelet_shim.common.inside import read_regular
from tracelet_shim.common.private_files import open_file
from tracelet_shim.eventfiles.own_files import HANDLE, OWN_SUFFIX

__all__ = ["Waiting", "forget", "tell", "told_at", "waiting"]

_SUFFIX = ".tracelet-waiting"
_MOST = 1 << 24


class Waiting(msgspec.Struct, tag=True):
    """What is known of it.

    Attributes:
        opened: how the runs of the session would be opened.
        root: its root directory, if no writer comes.
    """

    opened: msg.Open
    root: str


def told_at(path: str) -> str:
    """Return the file that speaks of these records."""
    return path.removesuffix(OWN_SUFFIX) + _SUFFIX


def tell(path: str, opened: msg.Open, root: str) -> None:
    """Say that the records in this file wait.

    Raises:
        OSError: it cannot be written.
    """
    backends = [msgspec.structs.replace(spec, options={}) for spec in opened.backends if spec.class_path]
    if not backends:  # objects of the program, which nobody else has
        return
    data = wire.Encoder().encode(Waiting(msgspec.structs.replace(opened, backends=backends), root))
    with open(told_at(path), "xb", opener=open_file) as file:
        file.write(data)


def forget(path: str) -> None:
    """The records in this file have been handed over."""
    with contextlib.suppress(OSError):
        os.unlink(told_at(path))


def waiting(directory: Path) -> Iterator[tuple[str, Waiting]]:
    """Yield (file of records, what is known of it) of a state directory, the oldest first."""
    decoder: wire.Decoder[Waiting] = wire.Decoder(Waiting)
    for told in sorted((directory / HANDLE).glob(f"*{_SUFFIX}")):
        path = f"{str(told).removesuffix(_SUFFIX)}{OWN_SUFFIX}"
        with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):  # killed while it was written; somebody else's
            known = decoder.decode(read_regular(str(told), str(directory), _MOST))
            if os.path.isfile(path):
                yield path, known
