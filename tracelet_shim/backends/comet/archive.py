"""Offline: the archive that ``comet upload`` takes, and the directory that it is made from.

`OfflineExperiment` queues messages for a thread that writes them to a temporary directory, which `end` packs
into the archive that ``comet upload`` takes; what that thread cannot write is lost, and all of it is when the process
is killed. Here the same directory (``messages.json``, one message a line, and the files; see
`comet_ml/streamer/handlers/offline_handler.py`) lies beside the archives, as ``<key>-<random>.part``, and is written
at once by the thread that logs: what `Journal.put` has returned for is in the file, an error is raised, and what a killed
process leaves is packed by the next one that opens a run there. Every session writes an archive of its own for the
run's key (``get_or_create``, as `comet_ml.start` does), so none overwrites another; the upload joins them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.comet.compat import as_uploaded
from tracelet_shim.common.system import lock

__all__ = ["Journal", "last_messages", "offline_class", "pack", "pack_abandoned", "remove_begun"]

logger = logging.getLogger("tracelet_shim.relay")

_TAIL = 4 << 20  # bytes at the end of a killed session's messages that are looked through: far more than one batch


class Journal:
    """The directory of an offline experiment, and what `CometExperiment` asks of its streamer.

    Locked as long as it is open, so that another process can tell it from one that was left behind.

    Args:
        directory: exists, and is this journal's own.
    """

    use_http_messages = True  # before 3.42, messages of the SDK's own ask for it: it has a websocket else

    def __init__(self, directory: str) -> None:
        self.closed = False
        self.directory = directory
        self._count = 0
        self._lock = threading.Lock()
        self._file = open(os.path.join(directory, "messages.json"), "ab", buffering=0)  # noqa: SIM115 - kept open
        with contextlib.suppress(OSError):  # a file system without locks: then nobody packs it for us either
            lock(self._file)

    def put(self, messages: Iterable[Any]) -> None:
        """Write messages and their files: all of them, or it raises and there is none.

        Args:
            messages: of `comet_ml.messages`.
        """
        written: list[str] = []
        with self._lock:
            if self.closed:
                raise errors.BackendError("Comet: the experiment has ended")
            end = os.fstat(self._file.fileno()).st_size
            try:
                left = memoryview("".join(self._line(message, written) for message in messages).encode())
                while left:
                    left = left[self._file.write(left) :]
            except BaseException:
                os.ftruncate(self._file.fileno(), end)
                for path in written:
                    Path(path).unlink(missing_ok=True)
                raise

    def _line(self, message: Any, written: list[str]) -> str:
        from comet_ml.json_encoder import NestedEncoder

        payload = dict(message.to_message_dict())
        self._count += 1
        payload["message_id"] = self._count
        if "file_like" in payload:  # UploadInMemoryMessage; in the archive, both kinds of uploads are files
            content = payload.pop("file_like")
            data = content if isinstance(content, (str, bytes)) else content.read()
            payload |= {"file_path": self._keep(data, written), "clean": True}
        elif "file_path" in payload:  # UploadFileMessage
            payload["file_path"] = self._keep(Path(payload["file_path"]), written, move=payload.get("clean", False))
        elif "thumbnail_path" in payload:  # Log3DCloudMessage, whose files are temporary ones
            for item in payload["items"]:
                item["file_path"] = self._keep(Path(item["file_path"]), written, move=True)
            payload["thumbnail_path"] = self._keep(Path(payload["thumbnail_path"]), written, move=True)
        payload = as_uploaded(message.type, payload)
        return json.dumps({"payload": payload, "type": message.type}, cls=NestedEncoder, separators=(",", ":")) + "\n"

    def _keep(self, content: str | bytes | Path, written: list[str], *, move: bool = False) -> str:
        """Store a file, and return its name."""
        name = f"file-{self._count}-{len(written)}"
        path = os.path.join(self.directory, name)
        written.append(path)
        if isinstance(content, Path):
            (shutil.move if move else shutil.copyfile)(content, path)
        else:
            data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            with open(path, "wb") as file:
                file.write(data)
        return name

    # -- the streamer's part, for the SDK ---------------------------------------------------------------------------

    def put_message_in_q(self, message: Any) -> None:
        if not self.closed:
            self.put([message])

    def flush(self, timeout: int | None = None) -> bool:
        if not self.closed:
            os.fsync(self._file.fileno())
        return True

    def close(self) -> None:
        self.closed = True

    def stop(self) -> None:
        """There is no thread."""

    def wait_for_finish(self, **_: Any) -> bool:
        return True

    def has_connection_to_server(self) -> bool:
        return False

    def release(self) -> None:
        """Give up the lock."""
        self._file.close()


def pack(directory: str) -> None:
    """Turn the directory ``x.part`` into the archive ``x.zip``."""
    target = directory.removesuffix(".part") + ".zip"
    if not os.path.exists(target):  # else it is complete, and somebody was killed while removing the directory
        with zipfile.ZipFile(f"{target}.tmp", "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path in sorted(Path(directory).iterdir()):
                archive.write(path, path.name)
        os.replace(f"{target}.tmp", target)
    shutil.rmtree(directory)


def remove_begun(directory: str, key: str) -> None:
    """Remove what a process has left that was killed before it had made this experiment."""
    for path in Path(directory).glob(f"{key}-*.part"):
        if not (path / "experiment.json").exists():
            with contextlib.suppress(OSError), open(path / "messages.json", "ab") as file:
                lock(file)  # else another process is making it just now
                shutil.rmtree(path)


def last_messages(directory: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield type and content of the messages at the end of what a killed session of this experiment has left."""
    logs = [path / "messages.json" for path in Path(directory).glob(f"{key}-*.part")]
    logs = [log for log in logs if log.exists()]
    if not logs:
        return
    with open(max(logs, key=lambda log: log.stat().st_mtime_ns), "rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _TAIL)
        file.seek(start)
        *lines, _ = file.read().split(b"\n")  # the last one is empty, or was cut short
    for line in lines[1 if start else 0 :]:
        message = json.loads(line)
        yield message["type"], message["payload"]


def pack_abandoned(directory: str) -> None:
    """Pack what killed processes have left in the offline directory."""
    for path in Path(directory).glob("*.part"):
        if not (path / "experiment.json").exists():  # not one of ours, or just being made
            continue
        try:
            with open(path / "messages.json", "r+b") as file:
                lock(file)
                start = size = file.seek(0, os.SEEK_END)
                tail = b""
                while start and b"\n" not in tail:  # the last line may have been cut short
                    start = max(0, start - 65_536)
                    file.seek(start)
                    tail = file.read(size - start)
                file.truncate(start + tail.rfind(b"\n") + 1)
                pack(str(path))
            logger.info("comet: packed what a killed session had left: %s", path)
        except BlockingIOError:
            continue  # somebody is writing it
        except OSError:
            logger.warning("comet: %s cannot be packed", path, exc_info=True)


_OVERRIDDEN = ("_create_offline_archive", "_setup_streamer", "_write_experiment_meta_file", "_mark_as_ended")


@functools.cache
def offline_class() -> Any:
    """Return the `OfflineExperiment` that writes to a `Journal`; None where the SDK has another inside than is known here."""
    from comet_ml import OfflineExperiment
    from comet_ml.utils import local_timestamp

    if not all(hasattr(OfflineExperiment, name) for name in _OVERRIDDEN):
        return None

    class Offline(OfflineExperiment):  # type: ignore[misc]
        tmpdir: str
        tracelet_ended: float | None = None

        def __init__(self, journal: Journal, **settings: Any) -> None:
            self._journal = journal
            super().__init__(**settings, _resume_strategy="get_or_create", _comet_start_sourced=True)

        def _create_offline_archive(self, *_: Any, **__: Any) -> tuple[Any, str]:
            return io.BytesIO(), self.offline_directory  # not an empty archive that may be all that is left

        def _setup_streamer(self) -> bool:
            os.rmdir(self.tmpdir)
            self.tmpdir, self.streamer = self._journal.directory, self._journal
            return True

        def _write_experiment_meta_file(self) -> None:
            """In one step: it is also written while the run goes on, and says that there is one."""
            with tempfile.TemporaryDirectory(prefix=".meta-", dir=self.offline_directory) as directory:
                place, self.tmpdir = self.tmpdir, directory
                try:
                    super()._write_experiment_meta_file()
                finally:
                    self.tmpdir = place
                os.replace(os.path.join(directory, "experiment.json"), os.path.join(place, "experiment.json"))

        def _mark_as_ended(self) -> None:
            self.stop_time = round(self.tracelet_ended * 1000) if self.tracelet_ended is not None else local_timestamp()
            self._write_experiment_meta_file()

    return Offline
