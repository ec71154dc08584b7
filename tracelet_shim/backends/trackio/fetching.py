"""Artifacts that Trackio gives back, of this machine or a server: ``[project/]name[:v3 or alias]``, the latest where no version
is named; or, of a registry of this machine, ``registry-<name>/<collection>[:v3 or alias]``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tracelet_shim import events as ev
from tracelet_shim.backends.base import Fetched, NoSuchArtifactError, RunInfo
from tracelet_shim.backends.trackio import names
from tracelet_shim.backends.trackio.local import Local
from tracelet_shim.backends.trackio.server import Server
from tracelet_shim.backends.trackio.settings import remotes, token
from tracelet_shim.backends.trackio.store import Store
from tracelet_shim.backends.trackio.versions import ARTIFACTS, is_older_than
from tracelet_shim.common.inside import is_inside

__all__ = ["Version", "fetch", "used"]

_PATH = re.compile(r"(?:([\w\-]+)/)?([A-Za-z0-9._\-]+)(?::([A-Za-z0-9._\-]+))?")
_REGISTRY = "registry-"
_FORM = "an artifact is found as [PROJECT/]NAME, NAME:v3 or NAME:ALIAS, and registry-NAME/COLLECTION[:ALIAS]"


class Version(NamedTuple):
    """A version of an artifact, or an alias of one; None: the latest."""

    project: str
    name: str
    version: str | None

    @classmethod
    def of(cls, text: str, project: str) -> Version | None:
        """Return what a path means; None if it is none."""
        found = _PATH.fullmatch(text)
        return cls(found[1] or project, found[2], found[3]) if found else None


def fetch(options: Mapping[str, Any], run: RunInfo, name: str, directory: str) -> Fetched:
    """As `Backend.fetch`."""
    if is_older_than(ARTIFACTS):
        raise NoSuchArtifactError("the Trackio that is installed keeps no artifacts, those from 0.30 on do")
    if run.offline and run.program.pid != os.getpid():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    project = names.project_name(run.project or "")
    space, server = (None, None) if run.offline else remotes(options)
    for meant in _meant(name, project):
        local = not (space or server)
        asked = _linked(meant) if local and meant.project.startswith(_REGISTRY) else meant
        store: Store
        if local:
            store = Local(asked.project)
        else:
            base = server.partition("?")[0] if server else None
            store = Server(asked.project, space, base, token(options, server) if server else None)
        record = store.version(asked.name, asked.version)
        if record is not None:
            return _get(store, asked.project, record, name, directory)
    raise NoSuchArtifactError(f"there is no artifact {name!r} in the project {project!r}; {_FORM}")


def _meant(name: str, project: str) -> Iterator[Version]:
    """Yield what a name can mean: what an artifact was logged by, and Trackio's own path."""
    logged = Version(project, names.artifact_name(name), None)
    yield logged
    path = Version.of(name, project)
    if path is not None and path != logged:
        yield path


def _linked(asked: Version) -> Version:
    """Return what a collection of a registry leads to; itself if that is nothing."""
    found = Local(asked.project).linked(asked.name, asked.version)
    return asked if found is None else Version(*found)


def _get(store: Store, project: str, record: Mapping[str, Any], name: str, directory: str) -> Fetched:
    from trackio import Artifact

    artifact = Artifact(name=record["name"], type=record["type"])
    about = ("version", "aliases", "manifest", "manifest_digest", "size_bytes", "description", "metadata")
    artifact._hydrate_from_db(project=project, **{field: record[field] for field in about})
    artifact._remote_source = store.source()
    place = artifact.download(os.path.join(directory, record["name"]))
    whole = _whole(record)
    for path, true in whole.items():
        if path != true and is_inside(os.path.join(place, true), place):
            os.renames(os.path.join(place, path), os.path.join(place, true))
    if list(whole.values()) == [(record["metadata"] or {}).get("name", name)]:  # a file
        place = os.path.join(place, *whole.values())
    return Fetched(place, f"{project}/{record['name']}:v{record['version']}")


def used(store: Store, project: str, event: ev.Used) -> int | None:
    """Return the number, in the store of a project, of the version that a run has used; None if it has none.

    Args:
        store: of the project.
        project: its name.
        event: which artifact. One of this session's own is the latest of its name, if that has the same content.
    """
    asked = Version.of(event.identity, "") if event.identity else Version(project, names.artifact_name(event.tag), None)
    if asked is None or asked.project != project:
        return None
    record = store.version(asked.name, asked.version)
    if record is None or (not event.identity and event.digest not in _digests(record)):
        return None
    return int(record["version_id"])


def _whole(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths of the files of a version, and what they were when it was logged."""
    changed = (record["metadata"] or {}).get("files") or {}
    return {entry["path"]: str(changed.get(entry["path"], entry["path"])) for entry in record["manifest"]}


def _digests(record: Mapping[str, Any]) -> set[str]:
    """Return what the digest of a version can be: as of `Used.digest`."""
    whole = _whole(record)
    files = {whole[entry["path"]]: str(entry["digest"]) for entry in record["manifest"]}
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items()))
    summed = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    return {summed, *files.values()} if len(files) == 1 else {summed}
