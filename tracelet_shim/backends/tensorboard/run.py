"""The directory of one run: all that is written to it goes through here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.shared.files import RUN_FILE, copy, replace
from tracelet_shim.backends.tensorboard.about import file_name, records_of
from tracelet_shim.backends.tensorboard.event_files import Copy, EventFiles
from tracelet_shim.backends.tensorboard.folders import EXTRA_FILES, Folders
from tracelet_shim.backends.tensorboard.projector import write_embedding
from tracelet_shim.backends.tensorboard.records import file_version, session_end
from tracelet_shim.eventfiles import tfrecord
from tracelet_shim.eventfiles.own_files import OWN_SUFFIX

__all__ = ["Run"]


class Run:
    """One run.

    Args:
        directory: where it is.
        about: what run.json says of it.
        root: the log directory that is copied, as of `folders.normal`; None if it is not known.
    """

    def __init__(self, directory: str, about: dict[str, Any], root: str | None) -> None:
        self.directory = directory
        self._about = about
        self._folders = Folders(directory, root)
        self._files = EventFiles()
        self._copies: dict[str, Copy] = {}  # original -> its copy
        self._own: Copy | None = None
        self._synced = time.monotonic()

    def begin(self) -> None:
        self._write_own()
        self._save()

    def _save(self) -> None:
        replace(os.path.join(self.directory, RUN_FILE), json.dumps(self._about, indent=1, default=str).encode())

    def _write_own(self) -> None:
        """Write the event file of ours.

        It is written anew when a run is continued: TensorBoard keeps the first hparams status of a directory, which
        would be that of the session that crashed.
        """
        records = records_of(self._about)
        if records:
            data = tfrecord.joined([file_version(self._about["started"]), *records])
            own = Copy(os.path.join(self.directory, file_name(self._about)), len(data))
            replace(own.path, data)
            self._own = own

    def copy_of(self, event: ev.Event) -> Copy:
        """Return the copy of an event's file."""
        original = event.record.file
        copy = self._copies.get(original)
        if copy is None:
            file = os.path.basename(original)
            file = file.removesuffix(OWN_SUFFIX)
            name = file if "tfevents" in file else f"events.out.tfevents.{file}"  # TensorBoard reads no other names
            copy = self._copies[original] = Copy.at(os.path.join(self.directory, self._folders.of(event), name))
        return copy

    def append(self, copy: Copy, records: list[bytes]) -> None:
        """Write records behind what a copy has, all of them or, after an error, none."""
        self._files.append(copy, records)

    def write_embedding(self, event: ev.Embedding) -> None:
        write_embedding(os.path.join(self.directory, self._folders.of(event)), event)

    def copy_file(self, path: str, file: str) -> None:
        copy(file, os.path.join(self.directory, EXTRA_FILES, path))

    def add_config(self, config: Mapping[str, Any]) -> None:
        """Add parameters to those of the whole run."""
        if config:
            self._about["config"] = {**(self._about.get("config") or {}), **config}
            self.begin()

    def add_tags(self, tags: Mapping[str, str]) -> None:
        self._about["tags"] = {**(self._about.get("tags") or {}), **tags}
        self.begin()

    def write_file(self, path: str, data: bytes) -> None:
        target = os.path.join(self.directory, EXTRA_FILES, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        replace(target, data)

    def sync(self, seconds: float = 0.0) -> None:
        """Force what was written to disk, if that is so many seconds ago."""
        if time.monotonic() - self._synced >= seconds:
            self._files.sync()
            self._synced = time.monotonic()

    def end(self, status: str, ended: float) -> None:
        if self._own is not None and self._about.get("config"):
            self.append(self._own, [session_end(ended, well=status == "finished")])
        self.sync()
        self._files.close()
        self._about.update(status=status, ended=ended)
        self._save()
