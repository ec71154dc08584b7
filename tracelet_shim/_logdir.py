"""What there is to read in a log directory: event files, record by record, and the projector's files.

Checksums are compared, and what is wrong with a file is kept as its `Damage`; files are read on when they have grown.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tracelet_shim.bus import messages as msg
from tracelet_shim.eventfile import DamagedRecordError, checked_records
from tracelet_shim.events import Array

__all__ = [
    "CREATED",
    "PROJECTOR",
    "STATE",
    "Damage",
    "EventFile",
    "Projector",
    "is_event_file",
    "projector_config",
    "run_directories",
    "walk",
]

STATE = ".tracelet"
PROJECTOR = "projector_config.pbtxt"
CREATED = re.compile(r"tfevents\.(\d{1,12})(?:\.(.*))?")
"""The second in which an event file was created, and what follows it: host and process id, where torch wrote it."""

_RUN_FILE = "run.json"  # what the tensorboard backend puts into each copy


class Damage(NamedTuple):
    """A place in a file behind which nothing could be read.

    Attributes:
        path: the file, absolute.
        offset: bytes from its start.
        problem: what is wrong there.
        expected: True for what a program that was killed leaves behind, a last record that is not complete.
    """

    path: str
    offset: int
    problem: str
    expected: bool = False


class EventFile:
    """One event file, read as far as it goes, and on when it has grown.

    Args:
        path: absolute.
        logdir: its directory.
        start: position of the first record that is wanted.
    """

    def __init__(self, path: str, logdir: str, start: int = 0) -> None:
        self.path = path
        self.logdir = logdir
        self.source = -1
        self.offset = 0
        self.damage: Damage | None = None
        self._start = start
        self._position = 0

    @property
    def size(self) -> int:
        with contextlib.suppress(OSError):
            return os.path.getsize(self.path)
        return 0

    def order(self) -> tuple[float, float, str]:
        """Sort by the second of creation, as the name has it, then by the time of the first record, then by name."""
        first = math.inf
        with contextlib.suppress(OSError, DamagedRecordError), open(self.path, "rb") as file:
            for _, data in checked_records(file):
                first = _wall_time(data)
                break
        named = CREATED.search(os.path.basename(self.path))
        second = int(named.group(1)) if named else 0
        return second or first, first, os.path.basename(self.path)

    def records(self, learn: Callable[[int, bytes], None]) -> Iterator[msg.Record]:
        """Yield the records that have come since the last time; `learn` gets those before `start`."""
        self.damage = None
        try:
            if self.size <= self.offset:
                return
            with open(self.path, "rb") as file:
                for offset, data in checked_records(file, self.offset):
                    position, self.offset, self._position = self._position, offset, self._position + 1
                    if position >= self._start:
                        yield msg.Record(self.source, position, data)
                    else:
                        learn(self.source, data)
        except DamagedRecordError as error:
            self.damage = Damage(self.path, error.offset, str(error))
        except OSError as error:
            self.damage = Damage(self.path, self.offset, f"it cannot be read: {error.strerror or error}")
        else:
            if self.size > self.offset:
                self.damage = Damage(self.path, self.offset, "the last record is not complete", expected=True)


class Projector:
    """The embeddings of one directory, which TensorBoard keeps beside the event files (`add_embedding`).

    Args:
        path: the ``projector_config.pbtxt``, absolute.
        logdir: its directory.
        start: number of the first embedding that is wanted.
    """

    offset = size = 0  # no event file: not counted

    def __init__(self, path: str, logdir: str, start: int = 0) -> None:
        self.path = path
        self.logdir = logdir
        self.source = -1
        self.damage: Damage | None = None
        self._next = start
        self._seen = -1

    def order(self) -> tuple[float, float, str]:
        """Sort behind the event files of the directory."""
        return math.inf, math.inf, self.path

    def records(self, learn: Callable[[int, bytes], None]) -> Iterator[msg.Record]:
        """Yield the embeddings that have come since the last time."""
        try:
            modified = os.stat(self.path).st_mtime_ns
            if modified == self._seen:
                return
            self.damage = None
            infos = projector_config(self.path)
            while self._next < len(infos):
                hint = _embedded(self.logdir, infos[self._next])
                position, self._next = self._next, self._next + 1
                yield msg.Record(self.source, position, None, None, hint)
            self._seen = modified
        except (OSError, ValueError) as error:
            self.damage = Damage(self.path, 0, f"embedding {self._next} cannot be read: {error}")


def _wall_time(data: bytes) -> float:
    from tensorboard.compat.proto import event_pb2

    with contextlib.suppress(Exception):  # protobuf's DecodeError has no stable import path
        when = float(event_pb2.Event.FromString(data).wall_time)
        if math.isfinite(when) and when > 0:
            return when
    return math.inf


def projector_config(path: str) -> list[Any]:
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    try:
        text = Path(path).read_text(encoding="utf-8")
        return list(text_format.Parse(text, projector_config_pb2.ProjectorConfig()).embeddings)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None


def _embedded(logdir: str, info: Any) -> msg.Embedded:
    """Return an embedding as `add_embedding` was given it. Its step is the first directory of the path, as torch makes it:
    ``00007/tag/tensors.tsv``."""
    path = os.path.join(logdir, info.tensor_path)
    if not info.tensor_path:
        raise ValueError(f"{info.tensor_name!r} is in a checkpoint, not in a file of its own")
    if path.endswith(".tsv"):
        matrix = np.loadtxt(path, delimiter="\t", ndmin=2, comments=None)
    else:
        matrix = np.fromfile(path, np.float32).reshape(tuple(info.tensor_shape))
    tag, _, step = info.tensor_name.rpartition(":")
    folder = info.tensor_path.split("/")[0]
    if not re.fullmatch(r"-?\d+", folder) or folder != step:
        tag, folder = info.tensor_name, "0"
    header, rows = _metadata(logdir, info.metadata_path, len(matrix))
    return msg.Embedded(
        tag, int(folder), os.path.getmtime(path), Array.of(matrix), rows, header, _label_images(logdir, info, len(matrix))
    )


def _metadata(logdir: str, path: str, count: int) -> tuple[list[str] | None, list[list[str]] | None]:
    """Return header and rows. There is a header if there is one line more than there are points."""
    if not path:
        return None, None
    lines = Path(logdir, path).read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    if len(lines) == count + 1:
        header, *rows = [line.removesuffix("\r").split("\t") for line in lines]
        return header, rows
    if len(lines) != count:
        raise ValueError(f"{path} has {len(lines)} lines for {count} points")
    return None, [[line.removesuffix("\r")] for line in lines]


def _label_images(logdir: str, info: Any, count: int) -> Array | None:
    """Cut the sprite into the images of the points."""
    if not info.sprite.image_path or len(info.sprite.single_image_dim) != 2:
        return None
    from PIL import Image

    width, height = info.sprite.single_image_dim
    with Image.open(os.path.join(logdir, info.sprite.image_path)) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    columns = sheet.shape[1] // width
    places = [divmod(number, columns) for number in range(count)]
    return Array.of(np.stack([sheet[r * height :, c * width :][:height, :width] for r, c in places]))


def walk(top: str, *, recursive: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Yield (directory, files) of a log directory: no state of ours, no copies that our tensorboard backend has made."""
    seen = set()
    for directory, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen or (directory != top and _RUN_FILE in files and _is_copy(directory)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(folder for folder in folders if folder != STATE) if recursive else []
        yield directory, files


def _is_copy(directory: str) -> bool:
    try:
        about = msgspec.json.decode(Path(directory, _RUN_FILE).read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(about, dict) and "sessions" in about


def is_event_file(name: str) -> bool:
    return "tfevents" in name and not name.endswith(".profile-empty")


def run_directories(logdir: str, *, sessions: bool = False) -> list[tuple[str, bool]]:
    """Return what ``--runs`` makes runs of: each sub-directory with event files somewhere in it, and the directory itself if
    it has some (False: without what is below). With `sessions`, those in which a session was recorded."""

    def has_session(path: str) -> bool:
        return os.path.exists(os.path.join(path, STATE, "ledger.db"))

    if sessions and "TRACELET_STATE_DIR" not in os.environ:
        below = [os.path.join(logdir, name) for name in sorted(os.listdir(logdir)) if name != STATE]
        return [(path, True) for path in (logdir, *below) if has_session(path)]
    found = [(logdir, False)] if any(is_event_file(name) for name in os.listdir(logdir)) else []
    for name in sorted(os.listdir(logdir)):
        path = os.path.join(logdir, name)
        if name == STATE or not os.path.isdir(path) or _is_copy(path):
            continue
        if any(is_event_file(file) for _, files in walk(path) for file in files):
            found.append((path, True))
    return found
