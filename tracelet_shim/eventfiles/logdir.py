"""What there is to read in a log directory: event files, record by record, and the projector's files.

Checksums are compared, and what is wrong with a file is kept as its `Damage`; files are read on when they have grown.
A log directory may be somebody else's: nothing outside of it is read, whatever links and the projector's config say.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tracelet_shim import errors
from tracelet_shim.bus import messages as msg
from tracelet_shim.common.inside import is_below, is_inside, open_regular, read_regular
from tracelet_shim.eventfiles.own_files import is_own
from tracelet_shim.eventfiles.tfrecord import DamagedRecordError, checked_records
from tracelet_shim.events import Array

__all__ = [
    "CREATED",
    "PROJECTOR",
    "STATE",
    "Damage",
    "EventFile",
    "Projector",
    "elsewhere",
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
_MOST_CONFIG, _MOST_POINTS, _MOST_LABELS = 1 << 24, 1 << 30, 1 << 28
"""Bytes that are read of a config, of the points of an embedding and of their labels: a file may have a hole of any size."""
_PICTURES = ("PNG", "JPEG", "BMP", "GIF", "WEBP")  # Pillow has some more formats, which start other programs
_SHOWN = 200  # characters of a name


class Damage(NamedTuple):
    """What could not be read.

    Attributes:
        path: the file or directory, absolute.
        offset: bytes from its start, behind which nothing could be read; None if that has no meaning.
        problem: what is wrong.
        expected: True for what a program that was killed leaves behind, a last record that is not complete.
    """

    path: str
    offset: int | None
    problem: str
    expected: bool = False

    def __str__(self) -> str:
        if self.offset is None:
            return f"{self.path}: {self.problem}"
        return f"{self.path}: {self.problem} at byte {self.offset}; what comes before was delivered"


class EventFile:
    """One event file, read as far as it goes, and on when it has grown.

    Args:
        path: absolute.
        logdir: its directory.
        start: position of the first record that is wanted.
        inside: the directory out of which no link may lead; default: the one that the file is in.
    """

    def __init__(self, path: str, logdir: str, start: int = 0, *, inside: str | None = None) -> None:
        self.path = path
        self.logdir = logdir
        self.source = -1
        self.offset = 0
        self.damages: list[Damage] = []
        self._inside = inside or os.path.dirname(path)
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
        with contextlib.suppress(OSError, DamagedRecordError), open_regular(self.path, self._inside) as file:
            for _, data in checked_records(file):
                first = _wall_time(data)
                break
        named = CREATED.search(os.path.basename(self.path))
        second = int(named.group(1)) if named else 0
        return second or first, first, os.path.basename(self.path)

    def begins(self) -> float:
        """Return the time of the first event; infinity if there is none. The first record, which tells what the file is, has the
        time at which the file was made: that may be years later."""
        times: list[float] = []
        with contextlib.suppress(OSError, DamagedRecordError), open_regular(self.path, self._inside) as file:
            times += (_wall_time(data) for _, data in itertools.islice(checked_records(file), 2))
        return times[-1] if times else math.inf

    def size_at(self, when: float) -> int | None:
        """Return the number of bytes before the first event of this time, or a later one; None if there is none."""
        before = 0
        with contextlib.suppress(DamagedRecordError), open_regular(self.path, self._inside) as file:
            for offset, data in checked_records(file):
                if when <= _wall_time(data) < math.inf:
                    return before
                before = offset
        return None

    def records(self, learn: Callable[[int, bytes], None]) -> Iterator[msg.Record]:
        """Yield the records that have come since the last time; `learn` gets those before `start`."""
        self.damages = []
        try:
            if self.size <= self.offset:
                return
            with open_regular(self.path, self._inside) as file:
                for offset, data in checked_records(file, self.offset):
                    position, self.offset, self._position = self._position, offset, self._position + 1
                    if position >= self._start:
                        yield msg.Record(self.source, position, data)
                    else:
                        learn(self.source, data)
        except DamagedRecordError as error:
            self.damages = [Damage(self.path, error.offset, str(error))]
        except OSError as error:
            self.damages = [Damage(self.path, self.offset, f"it cannot be read: {error.strerror or error}")]
        else:
            if self.size > self.offset:
                self.damages = [Damage(self.path, self.offset, "the last record is not complete", expected=True)]


class Projector:
    """The embeddings of one directory, which TensorBoard keeps beside the event files (`add_embedding`).

    Each is read by itself: what is wrong with one is kept as its `Damage`, and the others are read.

    Args:
        path: the ``projector_config.pbtxt``, absolute.
        logdir: its directory.
        start: number of the first embedding that is wanted.
        inside: the directory outside of which nothing is read, whatever the file names; default: the one that it is in.
    """

    offset = size = 0  # no event file: not counted

    def __init__(self, path: str, logdir: str, start: int = 0, *, inside: str | None = None) -> None:
        self.path = path
        self.logdir = logdir
        self.source = -1
        self._inside = inside or os.path.dirname(path)
        self._problems: dict[int, list[Damage]] = {}  # by embedding; -1: of the file
        self._next = start
        self._seen = -1

    @property
    def damages(self) -> list[Damage]:
        return [damage for damages in self._problems.values() for damage in damages]

    def order(self) -> tuple[float, float, str]:
        """Sort behind the event files of the directory."""
        return math.inf, math.inf, self.path

    def records(self, learn: Callable[[int, bytes], None]) -> Iterator[msg.Record]:
        """Yield the embeddings that have come since the last time. One that cannot be read is tried again when the file has
        changed, until a later one has been read."""
        try:
            modified = os.stat(self.path).st_mtime_ns
            if modified == self._seen:
                return
            infos = projector_config(self.path, self._inside)
        except (OSError, ValueError) as error:
            self._problems[-1] = [Damage(self.path, None, f"it cannot be read: {_reason(error)}")]
            return
        self._problems.pop(-1, None)
        self._seen = modified
        for number in range(self._next, len(infos)):
            problems: list[str] = []
            hint = None
            try:
                hint = _embedded(os.path.dirname(self.path), self._inside, infos[number], problems)
            except Exception as error:  # numpy, Pillow and what a stranger has written
                problems.append(f"it cannot be read: {_reason(error)}")
            name = f"embedding {number} ({infos[number].tensor_name[:_SHOWN]!r})"
            self._problems[number] = [Damage(self.path, None, f"{name}: {problem}") for problem in problems]
            if hint is not None:
                self._next = number + 1
                yield msg.Record(self.source, number, None, None, hint)


def _reason(error: Exception) -> str:
    """Return what went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        name = str(error.filename)[:_SHOWN] if error.filename is not None else None
        return f"{name}: {error.strerror}" if name is not None else error.strerror
    if isinstance(error, MemoryError):
        return f"there is not enough memory for it ({error})" if str(error) else "there is not enough memory for it"
    return " ".join(str(error).split()) or type(error).__name__


def _wall_time(data: bytes) -> float:
    from tensorboard.compat.proto import event_pb2

    with contextlib.suppress(Exception):  # protobuf's DecodeError has no stable import path
        when = float(event_pb2.Event.FromString(data).wall_time)
        if math.isfinite(when) and when > 0:
            return when
    return math.inf


def projector_config(path: str, inside: str | None = None) -> list[Any]:
    """Return the embeddings that a ``projector_config.pbtxt`` describes.

    Raises:
        OSError: it cannot be read, or is not in the directory `inside`.
        ValueError: it is no such file.
    """
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    try:
        text = read_regular(path, inside, _MOST_CONFIG).decode("utf-8")
        return list(text_format.Parse(text, projector_config_pb2.ProjectorConfig()).embeddings)
    except (text_format.ParseError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _embedded(directory: str, inside: str, info: Any, problems: list[str]) -> msg.Embedded:
    """Return an embedding as `add_embedding` was given it. Its step is the first directory of the path, as torch makes it:
    ``00007/tag/tensors.tsv``.

    Args:
        directory: where paths begin.
        inside: nothing outside of this directory is read.
        info: what the config says of it.
        problems: gets what is wrong with labels and pictures; the points are worth more than those.

    Raises:
        OSError, ValueError: there are no points.
    """
    if not info.tensor_path:
        raise ValueError("it is in a checkpoint, not in a file of its own")
    matrix, modified = _points(os.path.join(directory, info.tensor_path), inside, tuple(info.tensor_shape))
    tag, _, step = info.tensor_name.rpartition(":")
    folder = info.tensor_path.split("/")[0]
    if not re.fullmatch(r"-?\d{1,19}", folder) or folder != step or not -(1 << 63) <= int(folder) < 1 << 63:
        tag, folder = info.tensor_name, "0"
    header = rows = images = None
    if info.metadata_path:
        with _kept(problems, "the points go without their labels"):
            header, rows = _metadata(os.path.join(directory, info.metadata_path), inside, len(matrix))
    if info.sprite.image_path and len(info.sprite.single_image_dim) == 2:
        with _kept(problems, "the points go without their pictures"):
            path, (width, height) = os.path.join(directory, info.sprite.image_path), info.sprite.single_image_dim
            images = _label_images(path, inside, width, height, len(matrix))
    return msg.Embedded(tag, int(folder), modified, Array.of(matrix), rows, header, images)


@contextlib.contextmanager
def _kept(problems: list[str], so: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # numpy, Pillow and what a stranger has written
        problems.append(f"{_reason(error)}; {so}")


def _points(path: str, inside: str, shape: tuple[int, ...]) -> tuple[np.ndarray[Any, Any], float]:
    """Return the matrix, and when its file was written. A file without a size of its own says nothing of what comes."""
    with open_regular(path, inside) as file:
        about = os.fstat(file.fileno())
        if about.st_size > _MOST_POINTS:
            raise ValueError(f"{path}: it has {about.st_size:,} bytes, and more than {_MOST_POINTS:,} are not read")
        if path.endswith(".tsv"):
            with warnings.catch_warnings():  # numpy warns of a file without rows
                warnings.simplefilter("ignore", UserWarning)
                text = io.TextIOWrapper(file, "utf-8")
                matrix: np.ndarray[Any, Any] = np.loadtxt(text, delimiter="\t", ndmin=2, comments=None)
        else:
            if len(shape) != 2 or 4 * math.prod(shape) != about.st_size:
                raise ValueError(f"{path}: it has {about.st_size:,} bytes, which are no float32 matrix of shape {shape}")
            matrix = np.frombuffer(file.read(about.st_size), np.float32).reshape(shape)
    if not matrix.size:
        raise ValueError(f"{path}: it has no points")
    if matrix.nbytes > _MOST_POINTS:
        raise ValueError(f"{path}: its matrix of shape {matrix.shape} takes {matrix.nbytes:,} bytes")
    return matrix, about.st_mtime


def _metadata(path: str, inside: str, count: int) -> tuple[list[str] | None, list[list[str]]]:
    """Return header and rows. There is a header if there is one line more than there are points."""
    data = read_regular(path, inside, _MOST_LABELS).removesuffix(b"\n")
    lines = data.count(b"\n") + 1
    if lines not in (count, count + 1):  # before each gets a text of its own
        raise ValueError(f"{path} has {lines} lines for {count} points")
    texts = [line.removesuffix("\r") for line in data.decode("utf-8", "replace").split("\n")]
    if lines == count:
        return None, [[text] for text in texts]
    header, *rows = [text.split("\t") for text in texts]
    return header, rows


def _label_images(path: str, inside: str, width: int, height: int, count: int) -> Array:
    """Cut the sprite into the images of the points: row by row, of (width, height) each."""
    from PIL import Image

    with open_regular(path, inside) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as much is an error
        with Image.open(file, formats=_PICTURES) as picture:
            columns = picture.width // width if width else 0
            rows = -(-count // columns) if columns else 0
            if not columns or not height or rows * height > picture.height:
                size = f"{picture.width} x {picture.height}"
                raise ValueError(f"{path} has {size} pixels, too few for {count} images of {width} x {height}")
            sheet = np.asarray(picture.crop((0, 0, columns * width, rows * height)).convert("RGB"))
    images = sheet.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    return Array.of(images[:count])


def _not_told(path: str, problem: str) -> None:
    """Where nobody wants to know."""


def walk(
    top: str, *, recursive: bool = True, refused: Callable[[str, str], None] = _not_told
) -> Iterator[tuple[str, list[str]]]:
    """Yield (directory, files) of a log directory: no state of ours, no copies that our tensorboard backend has made.

    Args:
        top: the directory; may be a symbolic link.
        recursive: go into what is below.
        refused: is told of each directory that is not gone into, and why: it lies outside of `top`, or cannot be read.
    """
    base = os.path.realpath(top)
    seen = set()
    waiting = [(top, base)]
    while waiting:
        directory, real = waiting.pop()
        if real in seen:
            continue
        seen.add(real)
        if not is_below(real, base):
            refused(directory, elsewhere(real, top))
            continue
        try:
            files, folders = _listed(directory)
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile
            continue
        except OSError as error:
            refused(directory, f"it cannot be read: {error.strerror or error}")
            continue
        if directory != top and _RUN_FILE in files and _is_copy(directory):
            continue
        yield directory, files
        if recursive:
            below = [(os.path.join(directory, folder), os.path.join(real, folder)) for folder in folders if folder != STATE]
            waiting += [(path, os.path.realpath(path) if os.path.islink(path) else whole) for path, whole in reversed(below)]


def elsewhere(real: str, top: str) -> str:
    """Return the problem with a link that leads out of `top`, and what to do."""
    return f"it leads to {real}, outside of {top}, and is not read; put a copy in its place, or replay that by itself"


def _listed(directory: str) -> tuple[list[str], list[str]]:
    """Return the names of files and of directories."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            is_folder = False
            with contextlib.suppress(OSError):  # a link that leads in a circle
                is_folder = entry.is_dir()
            (folders if is_folder else files).append(entry.name)
    return sorted(files), sorted(folders)


def _is_copy(directory: str) -> bool:
    try:
        about = msgspec.json.decode(read_regular(os.path.join(directory, _RUN_FILE), directory, _MOST_CONFIG))
    except (OSError, msgspec.DecodeError, RecursionError):
        return False
    return isinstance(about, dict) and "sessions" in about


def is_event_file(name: str) -> bool:
    return ("tfevents" in name and not name.endswith(".profile-empty")) or is_own(name)


def run_directories(
    logdir: str, refused: Callable[[str, str], None] = _not_told, *, sessions: bool = False
) -> list[tuple[str, bool]]:
    """Return what ``--runs`` makes runs of: each sub-directory with event files somewhere in it, and the directory itself if
    it has some (False: without what is below). With `sessions`, those in which a session was recorded. `refused` is told of what
    is not gone into, and why.

    Raises:
        ConfigurationError: the directory cannot be read.
    """
    try:
        files, folders = _listed(logdir)
    except OSError as error:
        raise errors.ConfigurationError(f"{logdir} cannot be read: {error.strerror or error}") from None
    if sessions and "TRACELET_STATE_DIR" not in os.environ:
        below = [os.path.join(logdir, name) for name in folders if name != STATE]
        return [(path, True) for path in (logdir, *below) if os.path.exists(os.path.join(path, STATE, "ledger.db"))]
    found = [(logdir, False)] if any(map(is_event_file, files)) else []
    for name in folders:
        path = os.path.join(logdir, name)
        if name == STATE:
            continue
        if not is_inside(path, logdir):
            refused(path, elsewhere(os.path.realpath(path), logdir))
        elif not _is_copy(path) and any(is_event_file(file) for _, files in walk(path) for file in files):
            found.append((path, True))
    return found
