"""One run of Aim's, the session's own or a trial: the only code that writes to it."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet_shim import events as ev
from tracelet_shim.backends.aim.fast import Ends
from tracelet_shim.backends.aim.points import Points
from tracelet_shim.backends.aim.versions import artifacts_uri, know_directories
from tracelet_shim.backends.base import RunInfo, Status
from tracelet_shim.backends.shared.names import Names
from tracelet_shim.backends.shared.values import plain
from tracelet_shim.common.text import as_utf8

__all__ = ["Run", "hash_of", "hash_of_trial"]

_HASH = re.compile(r"[0-9a-f]{24}")


def hash_of(run: RunInfo) -> str:
    """Return the hash for the run: Aim's own is 24 hex digits; any other id of the user's is hashed to that."""
    if run.resume:
        return run.resume
    if run.run_id is not None and _HASH.fullmatch(run.run_id):
        return run.run_id
    # The session's is the same again for whoever goes on after a kill in the middle of opening it.
    return _hashed(run.run_id or f"tracelet session {run.session}")


def hash_of_trial(parent: str, trial: str) -> str:
    """Return the hash for a trial. It follows from its name, so that a later part finds it again."""
    return _hashed(f"{parent}\0{trial}")


def _hashed(text: str) -> str:
    return hashlib.blake2s(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Run:
    """One run.

    Args:
        native: the `aim.Run`.
        names: the rule for keys.
        fast: True to store scalars many at a time, if the installed Aim stores them in the known way.
        is_users: the user has it open, and ends it.

    Attributes:
        native: see above.
        hash: its id in the repository.
        resumed: True if it was there before.
        points: where its points are written to.
        ends: what writes many of them at once, or None.
        is_users: see above.
        outcome, ended: of a trial: how and when it has ended, as far as is known.
    """

    def __init__(self, native: Any, names: Names, *, fast: bool = False, is_users: bool = False) -> None:
        self.native = native
        self.is_users = is_users
        self.hash = str(native.hash)
        self.resumed = native.get("tracelet") is not None
        self._names = names
        self.points = Points(native, resumed=self.resumed)
        self.ends = Ends.of(native) if fast else None
        self.outcome: Status = "finished"
        self.ended = math.nan

    def plain(self, value: Any) -> Any:
        """Return `value` in types that Aim stores: no empty key (it spoils the tree), integers of 64 bits, UTF-8."""
        return plain(value, number=float, key=self._names)

    # -- what the run says of itself --------------------------------------------------------------------------------

    def name(self, name: str | None, project: str | None) -> None:
        """Set the name that is shown, and the experiment."""
        if name:
            self.native.name = name
        if project:
            self.native.experiment = self.plain(project)

    def introduce(self, run: RunInfo) -> None:
        """Set what was asked for, and say which session it is. What the user's own run has already stays."""
        if run.notes and not (self.is_users and self.native.description):
            self.native.description = self.plain(run.notes)
        for key, value in run.tags.items():
            self.tag(f"{key}={value}" if value else key)
        if self.resumed:
            for state in ("failed", "killed"):
                self.untag(state)
        if run.group:
            self.set("group", run.group)
        program = run.program.readable()
        self.say({
            "session": run.session, "run_id": run.run_id, "tags": run.tags, "root": run.root and as_utf8(run.root),
            "program": {"script": program.script, "module": program.module, "cwd": program.cwd, "host": program.host},
        })  # fmt: skip
        self.set_params(run.config)
        if not self.is_users:
            self.set("status", "running")

    def tag(self, tag: str) -> None:
        tag = self._names(tag)
        if tag not in self.native.tags:
            self.native.add_tag(tag)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags with values; those of these names that the run has go."""
        for name, value in tags.items():
            tag = self._names(f"{name}={value}" if value else name)
            for old in list(self.native.tags):
                if old != tag and (old == self._names(name) or old.startswith(self._names(name) + "=")):
                    self.native.remove_tag(old)
            self.tag(tag)
            self.native["tracelet", "tags", self._names(name)] = self.plain(value)

    def untag(self, tag: str) -> None:
        if tag in self.native.tags:
            self.native.remove_tag(tag)

    def say(self, about: Mapping[str, Any]) -> None:
        """Set what we have to say of the run, under ``tracelet``."""
        for key, value in about.items():
            self.native["tracelet", key] = self.plain(value)

    def say_names(self, whole: Mapping[str, str]) -> None:
        """Keep the whole of names that had to be cut: name in the store -> whole name."""
        for name, tag in whole.items():
            self.native["tracelet", "names", name] = self.plain(tag)

    def say_used(self, event: ev.Used) -> None:
        """Say which artifact the run has used; the same one comes once."""
        said = {"name": event.tag, "from": event.tracker, "identity": event.identity, "sha256": event.digest}
        before = self.native.get(("tracelet", "used")) or []
        if self.plain(said) not in before:
            self.native["tracelet", "used"] = [*before, self.plain(said)]

    def set(self, key: str, value: Any) -> None:
        self.native[key] = self.plain(value)

    # -- parameters -------------------------------------------------------------------------------------------------

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Set hyperparameters. One that had another value before keeps that as well, under ``tracelet``."""
        known = self.native.get("hparams") or {}
        for key, value in self.plain(params).items():
            if key in known and repr(known[key]) != repr(value):
                before = self.native.get(("tracelet", "earlier_hparams", key)) or []
                self.native["tracelet", "earlier_hparams", key] = [*before, known[key]]
            self.native["hparams", key] = value

    def set_domain(self, domain: Mapping[str, Any]) -> None:
        for key, values in domain.items():
            self.native["tracelet", "hparams_domain", self._names(key)] = self.plain(values)

    def set_summary(self, key: str, number: float) -> None:
        self.native["summary", self._names(key)] = number

    # -- files ------------------------------------------------------------------------------------------------------

    @property
    def files_at(self) -> str | None:
        """Where the run's files go; None if there is no place for them."""
        return artifacts_uri(self.native)

    def keep_files_at(self, place: str) -> None:
        know_directories()
        self.native.set_artifacts_uri(place)

    def attach(self, path: str, data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="tracelet-aim-") as directory:
            file = Path(directory, "data")
            file.write_bytes(data)
            self.native.log_artifact(str(file), name=path, block=True)
        # Aim's page shows where a file came from; ours was a temporary one.
        self.native.meta_run_tree.subtree("artifacts").subtree(path)["path"] = path

    def attach_file(self, path: str, file: str) -> None:
        """Attach a file by its place, which Aim copies from."""
        self.native.log_artifact(file, name=path, block=True)
        self.native.meta_run_tree.subtree("artifacts").subtree(path)["path"] = path

    # -- the end ----------------------------------------------------------------------------------------------------

    def expect_again(self) -> None:
        """Points that have been written will come again: they must be recognised then."""
        self.points = Points(self.native, resumed=True)

    def end(self, ended: float, status: Status | None = None) -> None:
        """Close the run. A second time does nothing.

        Args:
            ended: seconds since the epoch, or NaN for now.
            status: how it ended, if that is known.
        """
        run = self.native
        if run._tracker is None:
            return
        if status is not None:
            self.set("status", status)
        if run._resources is not None and math.isfinite(ended):  # which would take the time of now (`aim/sdk/run.py`)
            run._resources.set_run_end_time = lambda: run.meta_run_tree.__setitem__("end_time", ended)
        if run.repo.is_remote_repo:
            self._end_remote(ended if math.isfinite(ended) else time.time())
        else:
            run.close()
        run._tracker = None  # holds the last reference to the store

    def _end_remote(self, ended: float) -> None:
        """`close` goes once, even if its first question fails: what is to be stored must be there before."""
        run = self.native
        run.meta_run_tree["end_time"] = ended
        run.repo._client.send()
        if run._resources.finalizer.alive:
            run.close()
        else:
            run._lock.release()
